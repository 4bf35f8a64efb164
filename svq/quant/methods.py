"""The table of quantization methods: each one's name, settings and checks.

No torch here: a method names the module that makes its quantizers, and this is imported when the first one is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

FLOAT_BITS = 32


@dataclass(frozen=True)
class Method:
    """One method of quantization, as `QuantConfig` sees it.

    made_in: `module:function`, the function that makes the quantizer of one weight: (weight, config, bits) -> a
    svq.quant.base.Quantizer. settings: the fields of QuantConfig that are reserved for the methods that name them.
    bits: the only number of bits that the method has; None: any that the config asks for. check: raises ValueError for
    a config that the method cannot follow.
    """

    made_in: str
    settings: tuple[str, ...] = ()
    bits: int | None = None
    check: Callable[[object], None] | None = None

    def make(self, weight, config, bits: int):
        """Makes the quantizer of `bits` bits that `config` (a QuantConfig) asks for, for the tensor `weight`."""
        module, _, function = self.made_in.partition(":")
        return getattr(importlib.import_module(module), function)(weight, config, bits)


def check_integer(config) -> None:
    """Raises ValueError for a QuantConfig of method integer with layers of 1 bit: there is no grid of so few."""
    if config.binary != "same":
        return
    if config.bits == 1:
        raise ValueError("method integer quantizes to 2 bits or more; set bits, or binary for layers of 1 bit")
    for name, bits in (config.layers or {}).items():
        if bits == 1:
            raise ValueError(f"layers: {name} has 1 bit; method integer quantizes to 2 or more, or set binary")


def check_nested(config) -> None:
    """Checks a QuantConfig of method nested, and fills in its `precisions`.

    Raises ValueError where the precisions do not lead up to `bits`, and for layers of other bits.
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


METHODS = {  # messages name them in this order
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
