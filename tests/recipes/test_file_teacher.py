"""An ONNX file as a system of the mini recipe: students learn its embeddings, and it is scored and reported like any other."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from svq.backend.embeddings import read_embeddings
from svq.bin import export
from svq.config import read_tree
from tests import warm
from tests.helpers import run_worker
from tests.recipes.conftest import run_recipe

STUDENT = "student-their_net-utterance-mn"
SYSTEMS = f"their_net low {STUDENT} {STUDENT}_kmqat4-ptq"


@pytest.fixture(scope="module")
def run(mini, tmp_path_factory):
    """Options of a recipe in an exp of its own: an export of the shared teacher lies there, one of its 2-bit version elsewhere."""
    shared, folder = mini[0], tmp_path_factory.mktemp("a file")
    exp, low = folder / "exp", tmp_path_factory.mktemp("elsewhere") / "low.onnx"
    (exp / "their_net").mkdir(parents=True)
    for model, out in (("teacher", exp / "their_net" / "their_net.onnx"), ("teacher_best2/model.svq", low)):
        run_worker(export.main, "--model", shared.exp / model, "--front-end", "true", "--out", out)
    options = ["--debug", "--systems", SYSTEMS, "--models", f"low={low}", "--backends", "cosine", "--norms", "none", "--analysis", "",
               "--trials", "dev/trials test/trials", "--ladders", f"{STUDENT}:low:their_net", "--cascade-limits", "escalation=1",
               "--extract-nj", 1, "--conf", shared.folder / "conf", "--corpus", shared.folder / "corpus",
               "--data", shared.folder / "data", "--exp", exp, "--stage", 4]
    run_recipe("mini", *options, **warm.environment())
    return shared, exp, options, low


def test_its_embeddings_are_those_of_the_network(run):
    shared, exp, _, _ = run
    ids, found = read_embeddings(exp / "their_net" / "embeddings" / "test")
    known, expected = read_embeddings(shared.exp / "teacher" / "embeddings" / "test")
    assert list(ids) == list(known)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_the_student_learned_them_less_their_mean(run):
    _, exp, _, _ = run
    config = read_tree(exp / STUDENT / "provenance.yaml")["config"]
    assert config["distill"]["targets"] == {"levels": ["utterance"], "mean_normalize": True, "length_normalize": True,
                                            "other_front_end": False}
    losses = [float(row["loss"]) for row in csv.DictReader(open(exp / STUDENT / "curves.csv"))]
    assert all(np.isfinite(losses)) and losses[-1] < losses[0]
    assert (exp / "their_net" / "embeddings" / "train" / "embedding.scp").exists()
    assert not list(exp.glob("*/levels"))


def test_it_is_reported_with_the_bytes_of_its_file(run):
    _, exp, _, low = run
    rows = {row["system"]: row for row in csv.DictReader(open(exp / "results.tsv"), delimiter="\t") if row["trials"] == "test"}
    assert set(rows) == set(SYSTEMS.split())
    for name, path, bits in (("their_net", exp / "their_net" / "their_net.onnx", 32), ("low", low, 2)):
        assert int(rows[name]["size_bytes"]) == path.stat().st_size
        assert bits - 1 <= float(rows[name]["avg_bits"]) <= bits
    assert rows["their_net"]["params"] == rows["low"]["params"]
    ladder = (next(exp.glob("cascade/*/systems.yaml"))).read_text()
    assert f"model: '{exp}/their_net/their_net.onnx'" in ladder and f"model: '{low}'" in ladder
    assert json.loads((exp / "low" / "summary.json").read_text())["given"] is True
    assert "their_net" in (exp / "report.html").read_text()


def test_run_again_redoes_nothing(run):
    assert "0 made" in run_recipe("mini", *run[2])


def test_it_cannot_be_quantized(run):
    said = run_recipe("mini", *run[2], "--systems", "their_net their_net_kmqat4", status=2)
    assert said.count("\n") == 1 and "their_net_kmqat4: their_net is a file that runs" in said
