"""Quantizers that attach to any network from outside, and the packed model file."""

from svq.quant.api import QuantConfig, quantize_, quantized_layers

__all__ = ["QuantConfig", "quantize_", "quantized_layers"]
