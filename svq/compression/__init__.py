"""Compression of a trained network to so many bytes, for steps/compress.sh.

Quantization, training and scores are those of the recipes. Only the plan and its report are here.
"""
