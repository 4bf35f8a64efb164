"""The schema of a training config (teacher, student, quantization-aware finetuning alike)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from svq.bits.config import AllocateConfig
from svq.bits.selection import SelectConfig
from svq.config import check_choices
from svq.data.augment_config import AugmentConfig, SpecAugmentConfig
from svq.data.speeds import check_speeds
from svq.distill.config import DistillConfig
from svq.errors import UserError
from svq.network import ModelConfig
from svq.quant import QuantConfig
from svq.quant.ptq_config import PTQConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer: `sgd` (Nesterov momentum) or `adamw`.

    Norms, biases and quantizer scales have no weight decay. scale_lr: the learning rate of quantizer scales is
    multiplied by this. A scale's gradient sums over a whole layer of weights, so at the weights' own rate it would move
    much faster than they do. Raises ValueError for values out of range.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    grad_clip: float = field(default=5.0, metadata={"infinite": True})
    scale_lr: float = 0.01

    def __post_init__(self):
        check_choices(self)
        for name in ("weight_decay", "scale_lr"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and below 1")
        if self.grad_clip <= 0:
            raise ValueError(f"grad_clip is {self.grad_clip}; it must be positive (.inf: no clipping)")


@dataclass(frozen=True)
class ScheduleConfig:
    """Settings of warm-up, decay and margin, in epochs (fractions allowed).

    lr: the highest rate, reached after `warmup_epochs` of linear growth; then it falls by `decay` to `final_lr`
    (exponential: the same factor every step; cosine: half a cosine).
    margin: AAM margin; 0 until `margin_start_epoch`, then growing linearly until `margin_full_epoch`.
    Raises ValueError for values out of range.
    """

    lr: float = 0.1
    final_lr: float = 5e-5
    warmup_epochs: float = 6.0
    decay: Literal["exponential", "cosine"] = "exponential"
    margin: float = 0.2
    margin_start_epoch: float = 20.0
    margin_full_epoch: float = 40.0

    def __post_init__(self):
        check_choices(self)
        if not 0 < self.final_lr <= self.lr:
            raise ValueError(f"final_lr is {self.final_lr}; it must be above 0 and at most lr ({self.lr})")
        if not 0 <= self.margin < math.pi / 2:
            raise ValueError(f"margin is {self.margin}; it must be in [0, pi/2)")
        if self.margin_full_epoch < self.margin_start_epoch:
            raise ValueError("margin_full_epoch must not come before margin_start_epoch")
        for name in ("warmup_epochs", "margin_start_epoch"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True)
class DataConfig:
    """Settings of the samples that training reads.

    input: `wav` reads waveforms (and can augment them), `feats` the features of stage 2.
    crop_seconds: length of the random crop. num_workers: processes that read; the result is the same for any number.
    speeds: each utterance of `wav` is read at each of these speeds in every epoch; a speed other than 1 makes new speakers.
        By default those in the data directory's file `speeds`, else 1 alone.
    Raises ValueError for values out of range.
    """

    input: Literal["wav", "feats"] = "wav"
    crop_seconds: float = 2.0
    num_workers: int = 1
    speeds: tuple[float, ...] | None = None

    def __post_init__(self):
        check_choices(self)
        if self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; it must not be negative")
        if self.crop_seconds <= 0:
            raise ValueError(f"crop_seconds is {self.crop_seconds}; it must be positive")
        if self.speeds is not None:
            check_speeds(self.speeds)
        if self.input != "wav" and self.speeds not in (None, (1.0,)):
            raise ValueError("speeds need waveforms; set data.input to wav or drop speeds")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run.

    batch_size: samples per step over all processes. average: number of last epochs whose weights are averaged into the
        final model. precision: `bf16` or `fp16` autocast, `fp32`, or `auto`: bf16 where the hardware computes in it.
    channels_last: the layout of networks, but in fp32.
    num_threads: threads of this process on the CPU; the result's last bits depend on them.
    freeze_batch_norm: batch norms keep the means and variances that they have, in place of those of each batch. This
        is for finetuning towards a network's own embeddings, where statistics of a batch are only noisy estimates.
    compile: torch.compile writes kernels for the network, once a run and in minutes. If it cannot, one line says so, and
        the network runs as it is.
    cudnn_benchmark: on a GPU, cuDNN tries what it has for each convolution and takes the fastest. A resumed run is then
        the same up to rounding only.
    checkpoint_minutes: a checkpoint is also written between epochs, after so many minutes.
    allocate: how svq.bin.allocate makes the table of bits that training takes as --bits.
    select: how svq.bin.select chooses the layers that stay in float.
    ptq: steps of svq.bin.quantize beside quantizing; finetuning (svq.bin.train) ignores them.
    multi_stage: layers of few bits are quantized and finetuned first, those of more bits in later stages (Liu et al.,
        "Towards lightweight speaker verification via adaptive neural network quantization", section IV, algorithm 1).
        `epochs` are shared among the stages, each with its own run of the schedule.
    stage_epochs: the epochs of each stage of multi_stage, from the lowest bits on, or one number for all stages;
        `epochs` then has no effect.
    Raises ValueError for values out of range, and for settings that contradict each other.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig | None = None
    spec_augment: SpecAugmentConfig | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scale: float = 32.0
    epochs: int = 150
    batch_size: int = 128
    average: int = 10
    seed: int = 1
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    channels_last: bool = True
    num_threads: int = 2
    freeze_batch_norm: bool | None = field(default=None, metadata={"left_out": True})
    compile: bool | None = field(default=None, metadata={"left_out": True})
    cudnn_benchmark: bool | None = field(default=None, metadata={"left_out": True})
    checkpoint_minutes: float = 10.0
    distill: DistillConfig | None = None
    quant: QuantConfig | None = None
    allocate: AllocateConfig | None = None
    ptq: PTQConfig | None = None
    select: SelectConfig | None = None
    multi_stage: bool = False
    stage_epochs: tuple[int, ...] | None = field(default=None, metadata={"left_out": True})

    def __post_init__(self):
        check_choices(self)
        for name in ("epochs", "batch_size", "average", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.scale <= 0:
            raise ValueError(f"scale is {self.scale}; it must be positive")
        if self.model.quant is not None:
            raise ValueError("model.quant is for finished models; put the quantizer under quant")
        if self.ptq is not None and self.quant is None:
            raise ValueError("ptq is about quantization without training; it needs a quantizer under quant")
        if self.ptq is not None and self.quant.method == "nested":
            raise ValueError("ptq is for one precision; leave it out for method nested, or quantize to each by itself")
        if self.select is not None and self.quant is None:
            raise ValueError("select is about layers that are not quantized; it needs a quantizer under quant")
        if self.select is not None and self.allocate is not None:
            raise ValueError("allocate and select both make the table of bits; keep one of them")
        if self.augment is not None and self.data.input != "wav":
            raise ValueError("augment works on waveforms; set data.input to wav or drop augment")
        self._check_stages()

    def without_margin(self) -> str:
        """Says that the margin begins only after the last epoch, so that training goes without it; "" where it is used.

        Of a run of `multi_stage` whose stages share `epochs`, it looks at the run as a whole.
        """
        schedule, epochs = self.schedule, min(self.stage_epochs or (self.epochs,))
        if not schedule.margin or (self.distill is not None and self.distill.label_weight == 0):
            return ""
        if schedule.margin_start_epoch < epochs:
            return ""
        return (f"the margin begins after epoch {schedule.margin_start_epoch:g} of {epochs}, so that it stays 0 throughout; lower "
                "schedule.margin_start_epoch (and margin_full_epoch), raise epochs, or set schedule.margin to 0")

    def _check_stages(self):
        if self.multi_stage and self.quant is None:
            raise ValueError("multi_stage is about the bits of layers; it needs a quantizer under quant")
        if self.stage_epochs is None:
            return
        if not self.multi_stage:
            raise ValueError("stage_epochs is about the stages of multi_stage; set multi_stage too, or give epochs")
        if not self.stage_epochs or min(self.stage_epochs) < 1:
            raise ValueError(f"stage_epochs is {list(self.stage_epochs)}; give a number for each stage, or one for "
                             "all, of at least 1")


@dataclass(frozen=True)
class AggregationTrainConfig(TrainConfig):
    """Settings of svq.bin.train_aggregation; the model is the teacher's, other settings are those of TrainConfig.

    level: the level whose layers are aggregated, see svq.distill.levels. channels: dimensions to which an affine map
    first brings each frame. components: components of the dictionary. dim: size of the vector.
    """

    level: str = "lde_aggr"
    channels: int = 128
    components: int = 64
    dim: int = 512

    def __post_init__(self):
        super().__post_init__()
        for name in ("channels", "components", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def check_keys(self, where) -> None:
        """Raises UserError, naming `where`, for settings of TrainConfig that mean nothing for training a dictionary."""
        defaults = TrainConfig()
        for name in ("model", "distill", "quant", "allocate", "multi_stage"):
            if getattr(self, name) != getattr(defaults, name):
                raise UserError(f"{where}: {name} has no meaning where only a dictionary is trained; take it out")
