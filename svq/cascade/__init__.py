"""Cascades of systems of rising precision: the cheapest system that is sure of a trial settles it.

This folder holds ladders, costs and pages; svq/verifier.py verifies with one system, and svq/deploy runs it.
"""

LIMITS = ("flip_rate", "harmful_rate", "eer_loss", "cost", "escalation")  # what a cascade loses or costs, to be limited
