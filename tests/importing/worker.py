"""The import worker, run on a checkpoint that a test makes."""

from __future__ import annotations

import pytest
import torch

from svq.bin import import_checkpoint
from svq.errors import UserError
from svq.models import load_model
from tests.helpers import run_worker


def imported(tmp_path, tensors, *words, origin="3dspeaker"):
    """Saves the tensors as a checkpoint, imports it, and gives the model as load_model does."""
    torch.save(tensors, tmp_path / "a checkpoint.ckpt")
    out = tmp_path / "out"
    run_worker(import_checkpoint.main, tmp_path / "a checkpoint.ckpt", "--from", origin, "--out", out, *words)
    return load_model(out)


def refused(tmp_path, words, *arguments, **options):
    """The import is refused in one line that holds `words`, and leaves nothing."""
    with pytest.raises(UserError) as error:
        imported(tmp_path, *arguments, **options)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
