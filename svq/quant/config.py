"""`QuantConfig`: settings of the quantization of weights. No torch here: a config is checked in milliseconds."""

from __future__ import annotations

import dataclasses
import numbers
from fnmatch import fnmatchcase
from typing import Literal

from svq.config import check_choices
from svq.quant.methods import FLOAT_BITS, METHODS


@dataclasses.dataclass(frozen=True)
class QuantConfig:
    """Settings of the quantization of a network's weights.

    Sections and equations are those of Liu et al., "Towards lightweight speaker verification via adaptive neural
    network quantization".

    method: `kmqat`, k-means levels with a learned scale (III-B); `uniform`, `pot`, `apot`, fixed levels
        (eqs. 1 to 3) with a learned scale; `twn`, ternary weights; `admm`; `static` and `adaptive`,
        the binary quantizers (V-A and V-B); `integer`, an integer grid with a learned scale (svq.quant.integer);
        `nested`, k-means levels whose codes begin with those of fewer bits (svq.quant.nested).
    bits: bits per weight, 1 to 8; `static` and `adaptive` have 1, `twn` has 2, `integer` at least 2.
    partition: how the weights are cut into parts, whose means are the k-means levels: `lloyd`, the parts of least
        squared error (k-means proper), or one of two readings of III-B step 1: `width`, intervals of equal width, or
        `count`, parts of equally many weights.
    retention: share of the weights, round the centre, that k-means levels are fitted to; none: 0.9 for width and count,
        as in the paper, and all weights for lloyd.
    rescaling: how k-means levels are scaled to [-1, 1]: `symmetric` (eq. 7) or `asymmetric` (eq. 6).
    per_channel: true: a codebook for each output channel, which loses less where nothing is trained or calibrated
        afterwards; false: one for each layer, as in the paper, which makes a smaller file.
    binary: the quantizer of layers of 1 bit: `same` as that of layers of more bits, or one of the binary quantizers.
    layers: bits of single layers by name, in place of `bits`; 32 leaves a layer in float. A name may be a pattern, such
        as "layers.[01].*" (fnmatch). A layer's own name wins over patterns, a later pattern over earlier ones.
    rho: weight of ADMM's penalty, relative to the mean squared weight of a layer (see `ADMMQuantizer`).
    scheme: kind of integer grid: `symmetric`, as far below zero as above it, or `affine`, with a zero point.
    range: what the integer grid covers: `minmax`, all weights; `percentile`, so many per cent of them; `mse`, the range
        of the least squared error; `kl`, that of the least divergence between histograms (svq.quant.integer).
    percentile: per cent of the weights that range `percentile` covers, above 50 and at most 100.
    precisions: the bits at which a network of method nested can be used, ascending, `bits` the last of them; none: half
        of `bits`, rounded up, and `bits`.
    Raises ValueError for values out of range, and for settings that the method does not have.
    """

    method: Literal[tuple(METHODS)] = "kmqat"
    bits: int = 4
    partition: Literal["lloyd", "width", "count"] = "lloyd"
    retention: float | None = None
    rescaling: Literal["symmetric", "asymmetric"] = "symmetric"
    per_channel: bool = True
    binary: Literal["same", "static", "adaptive"] = "same"
    layers: dict | None = None
    rho: float = 0.01
    scheme: Literal["symmetric", "affine"] = "symmetric"
    range: Literal["minmax", "percentile", "mse", "kl"] = "mse"
    percentile: float = 99.9
    precisions: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"left_out": True})

    def __post_init__(self):
        check_choices(self)
        if not _is_whole(self.bits) or not 1 <= self.bits <= 8:
            raise ValueError(f"bits is {self.bits!r}; it must be a whole number from 1 to 8")
        if self.retention is not None and not 0 < self.retention <= 1:
            raise ValueError(f"retention is {self.retention}; it must be above 0 and at most 1")
        if not 0 < self.rho < float("inf"):
            raise ValueError(f"rho is {self.rho}; it must be above 0")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile is {self.percentile}; it must be above 50 and at most 100")
        for name, bits in (self.layers or {}).items():
            if not isinstance(name, str):
                raise ValueError(f"layers: {name} is no name of a layer; write it in quotes")
            if not _is_whole(bits) or (bits != FLOAT_BITS and not 1 <= bits <= 8):
                raise ValueError(f"layers: {name} has {bits!r} bits; it must be from 1 to 8, or {FLOAT_BITS} for float")
        self._check_method()

    def _check_method(self):
        """Raises ValueError for a setting that would have no effect, or that the method cannot follow."""
        method = METHODS[self.method]
        for field in dataclasses.fields(self):
            methods = methods_of(field.name)
            if self.method not in methods and getattr(self, field.name) != field.default:
                has = " or ".join(methods)
                raise ValueError(f"{field.name} is a setting of method {has}; leave it out for {self.method}")
        if self.range != "percentile" and self.percentile != type(self).__dataclass_fields__["percentile"].default:
            raise ValueError(f"percentile is a setting of range percentile; leave it out for {self.range}")
        if method.check is not None:
            method.check(self)
        if method.bits is None:
            return
        if self.bits != method.bits:
            raise ValueError(f"method {self.method} quantizes to {method.bits} bits, not {self.bits}; "
                             f"set bits: {method.bits}")
        if self.binary != "same":
            raise ValueError(f"method {self.method} has no layers of another quantizer; leave out binary")
        for name, bits in (self.layers or {}).items():
            if bits not in (method.bits, FLOAT_BITS):
                raise ValueError(f"layers: {name} has {bits} bits; method {self.method} quantizes to {method.bits} "
                                 "bits only")

    def at(self, precision: int) -> QuantConfig:
        """Returns the plain k-means config of one precision of this config of method nested."""
        layers = self.layers and {name: bits if bits == FLOAT_BITS else precision for name, bits in self.layers.items()}
        return dataclasses.replace(self, method="kmqat", bits=precision, precisions=None, layers=layers)

    def bits_of(self, layer: str) -> int:
        """Returns the bits of the layer named `layer`; 32 means that it stays in float."""
        named = self.layers or {}
        matching = [bits for pattern, bits in named.items() if fnmatchcase(layer, pattern)]
        return named[layer] if layer in named else [self.bits, *matching][-1]


def methods_of(setting: str) -> list[str]:
    """Lists the methods that have `setting`, a field of QuantConfig: those that name it, or else all."""
    return [name for name, method in METHODS.items() if setting in method.settings] or list(METHODS)


def _is_whole(number) -> bool:
    return isinstance(number, numbers.Integral) and not isinstance(number, bool)
