"""Back end: embeddings to scores, normalised, calibrated and measured, with intervals over speakers.

numpy and scipy only: what needs torch or a network is in svq/evaluation.
"""

BACKENDS = ("cosine", "plda")
NORMS = ("none", "snorm", "asnorm")  # none: scores as they are
