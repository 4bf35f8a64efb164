"""local/compression_table.sh: an LSTM of Resemblyzer's kind to two sizes, on synthetic voices; what it refuses."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from svq.bin import compress
from svq.errors import UserError
from svq.models import load_model
from svq.nets import build
from tests import warm
from tests.builders import data_dir
from tests.helpers import run_worker

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--max-probes", 3, "--crop-seconds", 1.6, "--steps", 2, "--batch-size", 4, "--calibration-utts", 4, "--nj", 1,
         "--num-threads", 1, "--bootstrap", 20)


def checkpoint(path):
    """Random weights under the names of Resemblyzer's file."""
    torch.manual_seed(0)
    state = build("GE2ELSTM", 40, 16, width=16, layers=2).state_dict()
    torch.save({"step": 1, "model_state": {name.replace("embedding", "linear"): 2 * x for name, x in state.items()}}, path)
    return path


def table(*words, status: int = 0) -> str:
    shared = {} if status else warm.environment()
    done = subprocess.run(["bash", "local/compression_table.sh", *map(str, words)], cwd=ROOT, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, **shared, "OMP_NUM_THREADS": "1"})
    assert done.returncode == status, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of two compressions of one network."""
    folder = tmp_path_factory.mktemp("a table")
    speech = data_dir(folder, speakers=3, utts=3, seconds=1.7, name="speech")
    tests = data_dir(folder, speakers=6, utts=2, seconds=2.6, seed=1, name="tests")
    names = [line.split()[0] for line in (tests / "wav.scp").read_text().splitlines()]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
    (tests / "trials").write_text("".join(f"{a} {b} {'target' if a[:5] == b[:5] else 'nontarget'}\n" for a, b in pairs))
    said = table("0.006 0.008", folder / "out", "--model", checkpoint(folder / "pretrained.pt"), "--from", "resemblyzer",
                 "--data", speech, "--trials", tests / "trials", *QUICK)
    assert said.count("finetuned: ") == 2
    return folder


def test_the_table_has_every_step_of_every_size(made):
    with open(made / "out" / "table.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["step"] for row in rows] == ["float"] + 2 * ["rounded", "calibrated", "finetuned"]
    assert [row["folder"] for row in rows] == [""] + 3 * ["0.008"] + 3 * ["0.006"]
    for size in ("0.006", "0.008"):
        report = json.loads((made / "out" / size / "report.json").read_text())
        mine = [row for row in rows if row["folder"] == size]
        for row, step in zip(mine, report["steps"][1:]):
            file = made / "out" / size / row["step"] / "model.svq"
            assert int(row["bytes"]) == step["size_bytes"] == file.stat().st_size <= 1e6 * float(size)
            for name, key in (("eer", "eer"), ("mindcf01", "mindcf01"), ("cosine", "cosine"), ("lowest", "lowest")):
                assert float(row[name]) == pytest.approx(step[key], abs=1e-3)
            assert float(row["to_float"]) == pytest.approx(float(row["eer"]) - float(rows[0]["eer"]), abs=2e-3)
        assert float(mine[1]["cosine"]) > float(mine[0]["cosine"])  # calibrated beside rounded
    text = (made / "out" / "table.md").read_text()
    assert len(text.splitlines()) == 2 + len(rows) and "| finetuned |" in text
    config = load_model(made / "out" / "0.006" / "quantized" / "model.svq")[1]
    assert (config.arch, config.front_end.fbank, config.front_end.least_dbfs) == ("GE2ELSTM", "resemblyzer", -30.0)


def test_reports_that_do_not_belong_together(made, tmp_path):
    def refused(words, *folders):
        with pytest.raises(UserError, match=words):
            run_worker(compress.main, "table", *folders, "--table", tmp_path / "table")
        assert not list(tmp_path.glob("table*"))

    good, path = made / "out" / "0.006", tmp_path / "other" / "report.json"
    path.parent.mkdir()
    refused("report.json: no such file; steps/compress.sh makes it", good, path.parent)
    report = json.loads((good / "report.json").read_text())
    for content, words in (
            ("[]", "not a report of steps/compress.sh"), ("{\"steps\": []}", "not a report of steps/compress.sh"),
            (json.dumps({**report, "trials": [1, 2]}), "of another network or other trials"),
            (json.dumps({**report, "steps": [{**step, "eer": None} for step in report["steps"]]}), "has no error rates")):
        path.write_text(content)
        refused(words, good, path.parent)


@pytest.mark.parametrize("words, told", [
    ((), 'needs "<megabytes> ..." and <out>'), (("--model", "x"), 'needs "<megabytes> ..." and <out>'),
    (("", "out"), 'such as "1.4 0.7"'), (("1 two", "out"), "two: no number of megabytes"),
    (("1 2", "out", "--target-mb", "3"), "--target-mb: sizes and folder are given before"),
    (("1 2", "out", "--out=x"), "--out=x: sizes and folder are given before")])
def test_words_that_are_wrong_exit_2(words, told):
    said = table(*words, status=2)
    assert told in said and len(said.splitlines()) == 1
