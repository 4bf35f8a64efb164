"""A search for the settings of quantization-aware finetuning, shared by any number of workers."""
