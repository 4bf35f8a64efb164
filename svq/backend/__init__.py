"""Back end: turns embeddings into scores, normalises, calibrates and measures them, with intervals over speakers.

numpy and scipy only: code that needs torch or a network is in svq/evaluation.
"""

BACKENDS = ("cosine", "plda")
NORMS = ("none", "snorm", "asnorm")  # none: scores as they are
