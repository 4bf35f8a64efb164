"""Searches for the settings of quantization-aware finetuning, shared by any number of workers, and the trade-off table.

A trial is a training of svq/train. Code that trains belongs there, not here.
"""
