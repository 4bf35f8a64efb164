"""Layouts of checkpoints: prefixes and wrappers of training programs, and objects of theirs beside the tensors."""

import enum
import os
import sys
import types

import pytest
import torch

from svq import nets
from svq.errors import UserError
from svq.importing import import_checkpoint, without_prefix
from svq.importing.plan import read_state
from tests.importing.test_import_checkpoint import as_theirs, xvec


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "speaker_encoder.", "module._orig_mod.", "model.module.",
                                    "speaker_encoder.module."])
@pytest.mark.parametrize("wrapper", ["model_state", "state_dict", None])
def test_prefixes_and_wrappers(tmp_path, prefix, wrapper):
    state = {prefix + name: tensor for name, tensor in xvec().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "x.pt")
    assert without_prefix(read_state(tmp_path / "x.pt")).keys() == xvec().keys()


def test_a_prefix_stays_where_two_names_would_become_one():
    one, other = torch.ones(1), torch.zeros(1)
    assert without_prefix({"a": one, "module.a": other}) == {"a": one, "module.a": other}


@pytest.fixture
def pyannote(monkeypatch):
    """Classes by the names that a checkpoint of pyannote's holds, while it is written."""
    module = types.ModuleType("pyannote.audio.core.task")
    for name in ("pyannote", "pyannote.audio", "pyannote.audio.core"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class Problem(enum.Enum):
        REPRESENTATION = 3

    class Specifications:
        def __init__(self, problem):
            self.problem, self.duration = problem, 5.0

    class Trick:
        def __reduce__(self):
            return os.mkdir, ("ran",)

    for made in (Problem, Specifications):
        made.__module__, made.__qualname__ = module.__name__, made.__name__
        setattr(module, made.__name__, made)
    return Specifications(Problem.REPRESENTATION), Trick()


def test_a_checkpoint_of_pyannote(tmp_path, monkeypatch, pyannote):
    """Its objects are passed over, its network is WeSpeaker's with a pooling of plain deviations."""
    torch.manual_seed(0)
    theirs = as_theirs(nets.build("ResNet18", 80, 6, width=4).state_dict(), "ResNet18")
    resnet = {f"resnet.{name}": tensor for name, tensor in theirs.items()}
    specifications, trick = pyannote
    whole = {"state_dict": resnet, "pyannote.audio": {"specifications": specifications}, "epoch": 3}
    torch.save(whole, tmp_path / "pytorch_model.bin")
    torch.save({**whole, "hook": trick}, tmp_path / "trick.bin")
    for name in [name for name in sys.modules if name.startswith("pyannote")]:
        monkeypatch.delitem(sys.modules, name)
    found = import_checkpoint(tmp_path / "pytorch_model.bin", "pyannote")
    assert (found.config.arch, found.config.net) == ("ResNet18", {"width": 4, "variance_floor": 1e-12})
    assert found.config.front_end.window == "hamming" and found.config.front_end.mean_normalize
    assert torch.equal(found.net.embedding.weight, theirs["seg_1.weight"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="trick.bin: holds more than tensors"):
        import_checkpoint(tmp_path / "trick.bin", "pyannote")
    assert not (tmp_path / "ran").exists()
