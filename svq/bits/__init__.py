"""Bits of layers: measures the cost of quantizing each layer or block, and decides how many bits each gets.

svq/quant quantizes weights to given bits; svq/train trains them.
"""
