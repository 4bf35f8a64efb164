"""Bits of layers: what quantizing each layer or block costs, and how many bits each gets for it.

How weights are quantized to given bits is in svq/quant, how they are trained in svq/train.
"""
