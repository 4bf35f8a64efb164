"""A cascade of systems of rising precision: each trial is settled by the cheapest that is sure of it."""

LIMITS = ("flip_rate", "harmful_rate", "eer_loss", "cost", "escalation")  # of what a cascade may lose or cost
