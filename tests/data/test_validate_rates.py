"""Recordings of several rates, or of a low one, are no mistake, and are said."""

from __future__ import annotations

import re

import numpy as np
import pytest
import soundfile

from svq.bin import data_dir as worker
from svq.data.datadir import create
from svq.data.validate import validate
from tests.helpers import run_worker

NOISE = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)


def directory(folder, rates: dict[str, int]):
    for name, rate in rates.items():
        soundfile.write(folder / f"{name}.wav", NOISE, rate)
    return create(folder / "data", wav={name: folder / f"{name}.wav" for name in rates}, utt2spk={name: name[0] for name in rates})


def test_counts_of_each_rate(tmp_path, capsys):
    path = directory(tmp_path, {"a-1": 16000, "a-2": 8000, "b-1": 8000})
    assert validate(path).rates == {16000: [1, "a-1"], 8000: [2, "a-2"]}
    assert validate(path, "decode").rates == validate(path).rates and validate(path, "none").rates == {}
    run_worker(worker.main, "validate", path)
    told = capsys.readouterr()
    assert "sound" in told.out and "2 of 8000 (first: a-2), 1 of 16000 (first: a-1)" in told.err


@pytest.mark.parametrize("rate, words", [
    (8000, "all recordings have 8000 samples a second: a network of 16000 hears nothing above 4000 Hz; .*front_end.rate: 8000 in"),
    (16000, ""), (22050, "")])
def test_one_rate_is_said_where_it_is_below_that_of_networks(tmp_path, capsys, rate, words):
    run_worker(worker.main, "validate", directory(tmp_path, {"a-1": rate, "b-1": rate}))
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == bool(words) and all(re.search(words, line) for line in told)
