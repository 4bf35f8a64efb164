"""Distillation: what a student learns from a teacher's embeddings."""
