"""svq.bin.untrained: its figures computed another way, one set of embeddings a variant, what it refuses."""

import csv
import shutil

import kaldiio
import numpy as np
import pytest
import torch

from svq.backend.metrics import eer
from svq.bin import extract, quantize, untrained
from svq.data.trials import make_trials
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.network import ModelConfig
from svq.pack.file import save_packed
from tests.builders import data_dir
from tests.deploy.small_nets import trained_like
from tests.helpers import run_worker

OPTIONS = ("--bits", "3,1", "--methods", "uniform,integer,lloyd,calibrated", "--bootstrap", "20", "--calibration-utts", "8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a place")
    make_trials(data_dir(folder, speakers=5, utts=3, seconds=0.4))
    torch.manual_seed(0)
    config = ModelConfig("ResNet18", {"width": 4}, 16)
    save_model(folder / "model", trained_like(config.build()), config)
    measure(folder, folder / "out")
    return folder


def measure(folder, out, *more):
    run_worker(untrained.main, "--model", folder / "model", "--data", folder / "data", "--trials",
               folder / "data" / "trials", "--calibration-data", folder / "data", "--out", out, *OPTIONS, *more)


def rows(folder):
    with open(folder / "untrained.tsv") as file:
        return {(row["bits"], row["method"], row["codebook"]): row for row in csv.DictReader(file, delimiter="\t")}


def test_every_variant_has_a_row(place):
    expected = {("32", "float", "-")}
    expected |= {("3", method, book) for method in ("uniform", "integer", "lloyd", "calibrated")
                 for book in ("layer", "channel")}
    expected |= {("1", method, book) for method in ("uniform", "lloyd", "calibrated") for book in ("layer", "channel")}
    assert rows(place / "out").keys() == expected
    assert len((place / "out" / "untrained.md").read_text().splitlines()) == len(expected) + 4


def test_figures_are_those_of_the_recipe(place, tmp_path):
    """Quantized, embedded and scored by the workers of the recipe."""
    (tmp_path / "row.yaml").write_text("quant: {method: kmqat, bits: 3, per_channel: false}\n")
    run_worker(quantize.main, "--init", place / "model", "--config", tmp_path / "row.yaml", "--out", tmp_path / "net")
    run_worker(extract.main, "--input", "wav", place / "data", tmp_path / "net", tmp_path / "emb")
    vectors = dict(kaldiio.load_scp(str(tmp_path / "emb.scp")).items())
    trials = [line.split() for line in (place / "data" / "trials").read_text().splitlines()]
    vectors = {key: vector / np.linalg.norm(vector) for key, vector in vectors.items()}
    scores = np.array([vectors[enroll] @ vectors[test] for enroll, test, _ in trials])
    target = np.array([label == "target" for *_, label in trials])
    row = rows(place / "out")["3", "lloyd", "layer"]
    assert float(row["eer"]) == pytest.approx(100 * eer(scores[target], scores[~target]), abs=1e-3)
    assert int(row["bytes"]) == save_packed(tmp_path / "x.svq", *load_model(tmp_path / "net"))


def test_calibration_moves_embeddings_less(place):
    found = rows(place / "out")
    for book in ("layer", "channel"):
        assert float(found["3", "calibrated", book]["cosine"]) > float(found["3", "lloyd", book]["cosine"])


def test_killed_and_run_again(place, tmp_path):
    """What is missing is computed anew, the same bytes come out."""
    out = tmp_path / "out"
    shutil.copytree(place / "out", out)
    for path in sorted((out / "embeddings").iterdir())[::2]:
        path.unlink()
    (out / "untrained.tsv").unlink()
    measure(place, out)
    for name in ("untrained.tsv", "untrained.md"):
        assert (out / name).read_bytes() == (place / "out" / name).read_bytes()


@pytest.mark.parametrize("more, words", [(("--bits", "9"), "'9' is none of"), (("--methods", "kmeans"), "'kmeans'"),
                                         (("--codebooks", "both"), "'both'")])
def test_wrong_options(place, tmp_path, more, words, capsys):
    with pytest.raises(SystemExit):
        measure(place, tmp_path / "out", *more)
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_quantized_model_is_refused(place, tmp_path):
    (tmp_path / "row.yaml").write_text("quant: {method: kmqat, bits: 3}\n")
    run_worker(quantize.main, "--init", place / "model", "--config", tmp_path / "row.yaml", "--out", tmp_path / "model")
    shutil.copytree(place / "data", tmp_path / "data")
    with pytest.raises(UserError, match="is quantized already"):
        measure(tmp_path, tmp_path / "out")
