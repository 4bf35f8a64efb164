"""Quantization without training: what is done to a network before its weights are quantized, and after."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from svq.quant.api import QuantConfig, quantize_
from svq.quant.batchnorm_fold import fold_into_layers_
from svq.quant.bias_correction import Correction, correct_biases_, output_means
from svq.quant.calibrated import calibrate_


@dataclasses.dataclass(frozen=True)
class PTQConfig:
    """What svq.bin.quantize does beside quantizing; training with the same config does without it.

    calibrate: codes and levels are chosen for the error of each layer's output, and biases and batch norms take up what
        is left of its shift (svq.quant.calibrated).
    fold_batch_norm: batch norms right after a convolution are folded into it (svq.quant.batchnorm_fold).
    bias_correction: the mean shift of every quantized layer's output is taken off (svq.quant.bias_correction), as
        measured.
    utterances, crop_seconds: so many stretches of so many seconds of the data given as --data, chosen by `seed` of the
        config, are measured on. All go through the network in one batch, which takes memory accordingly.
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
        """Whether the network is looked at on speech."""
        return self.calibrate or self.bias_correction


@dataclasses.dataclass(frozen=True)
class PTQResult:
    """folded: norm -> layer, for `ModelConfig.folded`, None where nothing was. corrections: one for each layer.
    calibrated: the number of stretches of speech that codes and levels were chosen on; 0: of the weights alone."""

    folded: dict[str, str] | None
    corrections: list[Correction]
    calibrated: int = 0

    def summary(self) -> str:
        """One line, empty where there is nothing to say."""
        said = [] if self.folded is None else [f"{len(self.folded)} batch norms folded"]
        if self.calibrated:
            said.append(f"calibrated on {self.calibrated} stretches of speech")
        left = [correction.layer for correction in self.corrections if correction.where is None]
        if self.corrections:
            said.append(f"{len(self.corrections) - len(left)} of {len(self.corrections)} layers corrected")
        if left:
            said.append(f"neither bias nor norm to correct: {', '.join(left)}")
        return "; ".join(said)


def quantize_without_training_(net: nn.Module, quant: QuantConfig, ptq: PTQConfig, feats: torch.Tensor) -> PTQResult:
    """Folds, quantizes and corrects float `net`, in place, as `ptq` says.

    feats: (B, T, F) of calibration data; what is folded does not depend on their values.
    """
    net.eval()
    folded = fold_into_layers_(net, feats[:2]) or None if ptq.fold_batch_norm else None
    if ptq.calibrate:
        calibrate_(net, quant, feats)
        return PTQResult(folded, [], len(feats))
    means = output_means(net, feats) if ptq.bias_correction else None
    quantize_(net, quant)
    return PTQResult(folded, correct_biases_(net, feats, means) if means is not None else [])
