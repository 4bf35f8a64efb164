"""The model in the box: verifier.onnx, a small verifier that takes waveforms, and its card CARD.md, which says what it
learned from, how often it errs, and what it is not for."""

from __future__ import annotations

import os

from svq.errors import UserError

_FOLDER = os.path.dirname(os.path.abspath(__file__))


def path() -> str:
    """Where verifier.onnx lies; UserError where this svq came without it."""
    return _there("verifier.onnx")


def card() -> str:
    """Where CARD.md lies; UserError where this svq came without it."""
    return _there("CARD.md")


def _there(name: str) -> str:
    found = os.path.join(_FOLDER, name)
    if not os.path.isfile(found):
        raise UserError(f"{found}: no such file, so there is no model in the box; name another (--model)")
    return found
