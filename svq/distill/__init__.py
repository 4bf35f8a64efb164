"""Distillation: a student's objectives against a teacher, its targets, and how these are cached.

The training itself is in svq/train, which imports this folder; the reverse is not allowed.
"""
