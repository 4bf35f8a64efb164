"""Back end: embeddings to scores, normalised, calibrated and measured (numpy and scipy only)."""
