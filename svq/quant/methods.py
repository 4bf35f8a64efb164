"""The methods of quantization by name, and what each says of itself. No torch here: a method's quantizers are made in
the module that it names, which is brought in when the first one is."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

FLOAT_BITS = 32


@dataclass(frozen=True)
class Method:
    """What a method of quantization is to `QuantConfig`.

    made_in: the module, and the function there, that makes the quantizer of one weight: (weight, config, bits) -> a
    svq.quant.base.Quantizer; written `module:function`. settings: the fields of QuantConfig that only this method and
    others that name them have. bits: the only number of bits that it has; None: those of the config. check: raises
    ValueError for a config that it cannot follow.
    """

    made_in: str
    settings: tuple[str, ...] = ()
    bits: int | None = None
    check: Callable[[object], None] | None = None

    def make(self, weight, config, bits: int):
        """The quantizer of `weight`, a tensor, that `config` (a QuantConfig) asks for, of `bits` bits."""
        module, _, function = self.made_in.partition(":")
        return getattr(importlib.import_module(module), function)(weight, config, bits)


def check_integer(config) -> None:
    """ValueError for a QuantConfig with layers of 1 bit, which no integer grid around zero has."""
    if config.binary != "same":
        return
    if config.bits == 1:
        raise ValueError("method integer quantizes to 2 bits or more; set bits, or binary for layers of 1 bit")
    for name, bits in (config.layers or {}).items():
        if bits == 1:
            raise ValueError(f"layers: {name} has 1 bit; method integer quantizes to 2 or more, or set binary")


def check_nested(config) -> None:
    """Fills in `precisions` of a QuantConfig.

    ValueError where they do not lead up to `bits`, and for layers of other bits.
    """
    if config.bits == 1:
        raise ValueError("method nested has codes within codes, for which 1 bit is too few; set bits")
    if config.precisions is None:
        object.__setattr__(config, "precisions", (-(-config.bits // 2), config.bits))
    precisions = list(config.precisions)
    object.__setattr__(config, "precisions", tuple(precisions))
    if len(precisions) < 2 or precisions != sorted(set(precisions)) or precisions[0] < 1:
        raise ValueError(f"precisions is {precisions}; it must be two or more numbers of bits, ascending from 1 on")
    if precisions[-1] != config.bits:
        raise ValueError(f"precisions is {precisions} and bits {config.bits}; the last precision must be bits")
    if config.binary != "same":
        raise ValueError("method nested has no layers of another quantizer; leave out binary")
    for name, bits in (config.layers or {}).items():
        if bits not in (config.bits, FLOAT_BITS):
            raise ValueError(f"layers: {name} has {bits} bits; with method nested a layer has all precisions, or "
                             f"{FLOAT_BITS} for float")


METHODS = {  # in the order that messages name them in
    "kmqat": Method("svq.quant.quantizers:kmeans", ("partition", "retention", "rescaling")),
    "uniform": Method("svq.quant.quantizers:uniform"),
    "pot": Method("svq.quant.quantizers:pot"),
    "apot": Method("svq.quant.quantizers:apot"),
    "twn": Method("svq.quant.quantizers:twn", bits=2),
    "admm": Method("svq.quant.quantizers:admm", ("rho",)),
    "static": Method("svq.quant.quantizers:static", bits=1),
    "adaptive": Method("svq.quant.quantizers:adaptive", bits=1),
    "integer": Method("svq.quant.quantizers:integer_grid", ("scheme", "range", "percentile"), check=check_integer),
    "nested": Method("svq.quant.quantizers:nested_levels", ("partition", "retention", "precisions"), check=check_nested),
}
