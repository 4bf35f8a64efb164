"""The schema of quantization without training, without torch."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class PTQConfig:
    """Settings of what svq.bin.quantize does beside quantizing; training with the same config ignores them.

    calibrate: codes and levels are chosen for the error of each layer's output, and biases and batch norms take up what
        is left of its shift (svq.quant.calibrated).
    fold_batch_norm: batch norms right after a convolution are folded into it (svq.quant.batchnorm_fold).
    bias_correction: the mean shift of every quantized layer's output is measured and taken off again (svq.quant.ptq).
    utterances, crop_seconds: the number and length of the stretches of speech to measure on, taken from the data given
        as --data and chosen by `seed` of the config. All go through the network in one batch, which takes memory
        accordingly.
    Raises ValueError for settings out of range, or that do nothing.
    """

    fold_batch_norm: bool = False
    bias_correction: bool = False
    utterances: int = 64
    crop_seconds: float = 3.0
    calibrate: bool = False

    def __post_init__(self):
        if not (self.calibrate or self.fold_batch_norm or self.bias_correction):
            raise ValueError("none of calibrate, fold_batch_norm and bias_correction is true; leave ptq out")
        if self.calibrate and self.bias_correction:
            raise ValueError("calibrate corrects biases, too; leave bias_correction out")
        if self.utterances < 1:
            raise ValueError(f"utterances is {self.utterances}; it must be at least 1")
        if not 0 < self.crop_seconds < float("inf"):
            raise ValueError(f"crop_seconds is {self.crop_seconds}; it must be positive and finite")

    @property
    def measures(self) -> bool:
        """Whether the network is measured on speech."""
        return self.calibrate or self.bias_correction
