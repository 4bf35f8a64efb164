"""Compression of a trained network to so many bytes: what steps/compress.sh does besides the steps of recipes.

Its quantization, training and scores are those of the recipes; only the plan and its report are here.
"""
