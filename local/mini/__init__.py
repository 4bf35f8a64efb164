"""Synthetic speech for the mini recipe: texts, voices, recording sessions, corpus."""
