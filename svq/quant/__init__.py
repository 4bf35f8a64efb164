"""Quantizers that attach to any network from outside, and quantization without training.

svq/bits decides how many bits each layer gets; svq/pack has the packed file. `QuantConfig` does not import torch;
`quantize_` and `quantized_layers` do when they are first asked for.
"""

from typing import TYPE_CHECKING

from svq.quant.config import QuantConfig

if TYPE_CHECKING:
    from svq.quant.api import quantize_, quantized_layers

__all__ = ["QuantConfig", "quantize_", "quantized_layers"]


def __getattr__(name: str):
    if name in __all__:
        from svq.quant import api

        return getattr(api, name)
    raise AttributeError(f"module 'svq.quant' has no attribute '{name}'")
