"""Back end: embeddings to scores, normalised, calibrated and measured (numpy and scipy only)."""

BACKENDS = ("cosine", "plda")
NORMS = ("none", "snorm", "asnorm")  # none: scores as they are
