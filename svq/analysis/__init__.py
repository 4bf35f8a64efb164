"""What quantization does to a network and to its scores: by layer, and by trial."""
