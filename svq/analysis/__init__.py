"""Analyses of what quantization does to a network and to its scores: by layer, by trial, and their pages.

Both read a finished system and change nothing; what a search or a training measures on its way is in svq/evaluation.
"""
