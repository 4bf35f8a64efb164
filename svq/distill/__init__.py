"""Distillation: what a student learns from a teacher, its targets, and how these are cached.

The training itself is in svq/train, which imports this folder and is not imported by it.
"""
