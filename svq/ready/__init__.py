"""The model in the box: verifier.onnx, a small verifier that takes waveforms, and its card, CARD.md.

The card says what the model learned from, how often it errs, and what it is not for.
"""

from __future__ import annotations

import os

from svq.errors import UserError

_FOLDER = os.path.dirname(os.path.abspath(__file__))


def path() -> str:
    """Gives the path of the model in the box, verifier.onnx; UserError where this svq came without it."""
    return _there("verifier.onnx")


def card() -> str:
    """Gives the path of the model's card, CARD.md; UserError where this svq came without it."""
    return _there("CARD.md")


def _there(name: str) -> str:
    found = os.path.join(_FOLDER, name)
    if not os.path.isfile(found):
        raise UserError(f"{found}: no such file, so there is no model in the box; name another (--model)")
    return found
