"""Cascades of systems of rising precision, each trial settled by the cheapest that is sure of it: ladders, costs, pages.

The systems themselves are verified by svq/verifier.py and run by svq/deploy.
"""

LIMITS = ("flip_rate", "harmful_rate", "eer_loss", "cost", "escalation")  # of what a cascade may lose or cost
