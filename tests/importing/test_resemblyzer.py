"""Resemblyzer's network, front end and windows against its own code, whose results make_fixtures.py wrote down."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from svq.bin import export, import_checkpoint
from svq.deploy.runtimes import load_embedder
from svq.errors import UserError
from tests.helpers import run_worker
from tests.importing import formula

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SMALL = json.loads((HERE / "fixtures" / "resemblyzer_small.json").read_text())
PUBLISHED = json.loads((HERE / "published_resemblyzer.json").read_text())


def checkpoint(**changed) -> dict:
    state = formula.checkpoint(formula.expand(SMALL["layers"])) | changed
    return {"model_state": {name: tensor for name, tensor in state.items() if tensor is not None}}


def imported(folder, state, *options):
    torch.save(state, folder / "pretrained.pt")
    run_worker(import_checkpoint.main, folder / "pretrained.pt", "--from", "resemblyzer", "--out", folder / "model",
               *options)
    return folder / "model"


def check_windows(embedder, windows, atol=1e-5):
    """Embeddings of recordings of one window and of several, of loud and of soft ones."""
    assert len({samples for samples, _, _ in windows}) > 4
    for samples, gain, expected in windows:
        found = embedder.waveforms(gain * formula.waveform(samples).numpy())[0, :len(expected)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("front_end", [False, True])
def test_windows_of_recordings_of_any_length(tmp_path, front_end):
    """The model folder in torch and the ONNX file, with the front end in NumPy or inside."""
    model = imported(tmp_path, checkpoint())
    check_windows(load_embedder(model), SMALL["windows"])
    run_worker(export.main, "--model", model, "--out", tmp_path / "x.onnx", "--front-end", str(front_end).lower())
    check_windows(load_embedder(tmp_path / "x.onnx"), SMALL["windows"])
    apart = np.subtract(SMALL["windows"][0][2], SMALL["windows"][-1][2])
    assert np.abs(apart).max() > 1e-2  # the comparison could fail


@pytest.mark.parametrize("changed, words", [
    ({"linear.weight": None}, "none of resemblyzer's networks that are known here"),
    ({"lstm.weight_hh_l1": None}, r"nothing in it for lstm.weight_hh_l1"),
    ({"lstm.weight_hr_l0": torch.ones(8, 48)}, r"has no place for lstm.weight_hr_l0"),
    ({"lstm.weight_ih_l0_reverse": torch.ones(192, 40)}, r"has no place for lstm.weight_ih_l0_reverse"),
    ({"linear.weight": torch.ones(40, 47)}, r"linear.weight has shape \[40, 47\], where GE2ELSTM .* \[40, 48\]"),
    ({"lstm.bias_ih_l0": torch.full((192,), torch.nan)}, "lstm.bias_ih_l0 holds values that are not finite"),
    ({"lstm.weight_hh_l0": torch.ones(192)}, "looks like resemblyzer's VoiceEncoder, but"),
])
def test_other_networks_are_refused_in_one_line(tmp_path, changed, words):
    with pytest.raises(UserError, match=words) as error:
        imported(tmp_path, checkpoint(**changed))
    assert "\n" not in str(error.value) and not (tmp_path / "model").exists()


def test_it_is_suggested_where_another_origin_is_named(tmp_path):
    torch.save(checkpoint(), tmp_path / "x.pt")
    with pytest.raises(UserError, match="it looks like one of resemblyzer: --from resemblyzer"):
        run_worker(import_checkpoint.main, tmp_path / "x.pt", "--from", "wespeaker", "--out", tmp_path / "model")


def download(*words) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "local/download_resemblyzer.sh", *map(str, words)], cwd=ROOT, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=300)


def test_the_network_that_the_package_ships(tmp_path):
    done = download("--folder", tmp_path)
    if "downloading resemblyzer" in done.stderr:
        pytest.skip(f"the package cannot be downloaded here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert PUBLISHED["sha256"] in (ROOT / "local" / "download_resemblyzer.sh").read_text()
    run_worker(import_checkpoint.main, tmp_path / "pretrained.pt", "--from", "resemblyzer", "--out", tmp_path / "model")
    check_windows(load_embedder(tmp_path / "model"), PUBLISHED["windows"])
    assert "is there" in download("--folder", tmp_path).stdout  # and nothing is downloaded again
    (tmp_path / "pretrained.pt").write_bytes(b"another")
    assert "has the SHA-256" in download("--folder", tmp_path).stderr


@pytest.mark.parametrize("content, words", [(None, "no such file"), (b"PK", "not the package resemblyzer, or cut short")])
def test_a_package_that_is_none(tmp_path, content, words):
    wheel = tmp_path / "a package.whl"
    if content:
        wheel.write_bytes(content)
    done = download("--folder", tmp_path / "out", "--wheel", wheel)
    assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out" / "pretrained.pt").exists()
