"""Searches for the settings of quantization-aware finetuning, shared by any number of workers, and their trade-off table.

A trial is a training of svq/train; nothing of how to train may live here.
"""
