"""Quantizers that attach to any network from outside, and quantization without training.

Which layer gets how many bits is decided in svq/bits; the packed file is in svq/pack.
"""

from svq.quant.api import QuantConfig, quantize_, quantized_layers

__all__ = ["QuantConfig", "quantize_", "quantized_layers"]
