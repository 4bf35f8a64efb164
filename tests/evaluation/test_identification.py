"""Closed-set identification: the segments are what they claim, and the figures those of counting by hand."""

import json

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from svq.bin import identification_accuracy as worker
from svq.config import from_dict
from svq.data.datadir import create
from svq.data.fbank import Fbank, mean_normalize
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.evaluation.identification import (
    IdentifyConfig,
    accuracy,
    accuracy_interval,
    embed_segments,
    identify,
    plan_segments,
    plan_speaker,
)
from svq.models import save_model
from svq.network import ModelConfig
from tests.builders import data_dir
from tests.helpers import run_worker

LENGTHS = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 900), min_size=1)


@given(LENGTHS, st.booleans(), st.integers(1, 9), st.integers(0, 99))
def test_enrolment_and_probes_never_overlap(lengths, other, probes, seed):
    config = IdentifyConfig(seconds=3.0, shortest=1.0, probes=probes, other_utterance=other)
    found = plan_speaker(lengths, config, np.random.default_rng(seed))
    if found is None:
        assert sum(length >= 100 for length in lengths.values()) <= 1 and max(lengths.values()) < 200
        return
    enroll, segments = found
    assert len(segments) == probes
    for each in [enroll, *segments]:
        assert 0 <= each.start and each.start + each.count <= lengths[each.utterance]
        assert 100 <= each.count <= 300
    for each in segments:
        if each.utterance == enroll.utterance:
            assert each.start >= enroll.start + enroll.count or each.start + each.count <= enroll.start
            assert not other or sum(length >= 100 for length in lengths.values()) == 1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identification")
    data = data_dir(folder, speakers=4, utts=3, seconds=0.9)
    torch.manual_seed(0)
    config = ModelConfig("ResNet18", {"width": 4}, 8, FrontEndConfig(num_mels=24))
    net = config.build().eval()
    save_model(folder / "model", net, config)
    return folder, data, net


def test_the_worker_counts_as_one_does_by_hand(place, capsys):
    folder, data, net = place
    out = folder / "found"
    run_worker(worker.main, data, folder / "model", out, "--seconds", 0.4, "--shortest", 0.2, "--probes", 3)
    about = json.loads((out.with_suffix(".json")).read_text())
    assert (about["speakers"], about["probes"]) == (4, 12)
    plan = plan_segments(data, from_dict(about["settings"], IdentifyConfig, "test"))

    def embedding(segment):
        wav, _ = soundfile.read(folder / "data_wav" / f"{segment.utterance}.wav", dtype="float32")
        part = torch.from_numpy(wav[segment.start : segment.start + segment.count])[None]
        with torch.no_grad():
            return net(mean_normalize(Fbank(24)(part)))[0].double().numpy()

    enrolled = [embedding(segment) for segment in plan.enroll]
    ranks = []
    for owner, segment in plan.probes:
        probe = embedding(segment)
        scores = [probe @ e / np.linalg.norm(probe) / np.linalg.norm(e) for e in enrolled]
        ranks.append(1 + sum(score >= scores[owner] for i, score in enumerate(scores) if i != owner))
    lines = [line.split("\t") for line in (out.with_suffix(".tsv")).read_text().splitlines()[1:]]
    assert [int(line[4]) for line in lines] == ranks
    assert about["top1"] == pytest.approx(100 * np.mean(np.array(ranks) == 1))
    assert about["top5"] == 100 and about["top1_low"] <= about["top1"] <= about["top1_high"]
    assert all(line[0] == line[1].split("-")[0] for line in lines)
    before = (out.with_suffix(".json")).read_bytes()
    run_worker(worker.main, data, folder / "model", out, "--seconds", 0.4, "--shortest", 0.2, "--probes", 3)
    assert (out.with_suffix(".json")).read_bytes() == before


def test_probes_are_from_several_offsets_and_another_seed_takes_others(place):
    _, data, _ = place
    plans = [plan_segments(data, IdentifyConfig(0.3, 0.2, 6, True, seed)) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    for number in range(4):
        assert len({segment for owner, segment in plans[0].probes if owner == number}) >= 5
        assert len({segment.utterance for owner, segment in plans[0].probes if owner == number}) == 2


@given(st.integers(2, 8), st.integers(1, 20), st.integers(0, 99))
def test_ranks_and_ties(speakers, probes, seed):
    rng = np.random.default_rng(seed)
    enroll, segments = rng.integers(-2, 3, (speakers, 3)) + 5.0, rng.integers(-2, 3, (probes, 3)) + 5.0
    owner = rng.integers(0, speakers, probes)
    found = identify(enroll, segments, owner)
    for i in range(probes):
        scores = segments[i] @ enroll.T / np.linalg.norm(segments[i]) / np.linalg.norm(enroll, axis=1)
        above = np.sum(scores > scores[owner[i]] + 1e-12)
        ties = np.sum(np.abs(scores - scores[owner[i]]) <= 1e-12) - 1
        assert above < found.rank[i] <= 1 + above + ties
        assert found.rival[i] != owner[i]
    assert accuracy(found.rank, speakers) == 1


def test_a_network_that_says_the_same_of_everyone_is_never_right():
    assert identify(np.ones((5, 2)), np.ones((7, 2)), np.arange(7) % 5).rank.tolist() == [5] * 7


def test_the_interval_is_of_speakers():
    rank = np.array([1] * 50 + [2] * 50)
    wide = accuracy_interval(rank, np.repeat([0, 1], 50))  # one always right, one never
    assert wide == (0, 1)
    low, high = accuracy_interval(rank, np.arange(100))
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.03) and high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.03)


def test_speakers_who_are_too_short_are_named_and_none_is_an_error(tmp_path):
    data = data_dir(tmp_path, speakers=3, utts=1, seconds=0.5)
    plan = plan_segments(data, IdentifyConfig(0.3, 0.2))
    assert {segment.count for segment in plan.enroll} == {4000} and plan.left_out == []
    with pytest.raises(UserError, match="0 speakers have an enrolment and a probe of 0.3 s"):
        plan_segments(data, IdentifyConfig(0.3, 0.3))
    create(tmp_path / "odd", {"a": "none.wav", "b": "none.wav"}, {"a": "a", "b": "b"}, utt2dur={"a": 9, "b": 9})
    with pytest.raises(UserError, match="none.wav"):
        embed_segments(tmp_path / "odd", plan_segments(tmp_path / "odd", IdentifyConfig()).enroll, lambda x: x)


def test_a_negative_seed_is_one_line(place, capsys):
    folder, data, _ = place
    with pytest.raises(SystemExit) as done:
        run_worker(worker.main, data, folder / "model", folder / "x", "--seed", -1)
    assert done.value.code == 2 and "--seed -1: must not be negative" in capsys.readouterr().err


@pytest.mark.parametrize("options, expected", [
    (("--probes", 0), "probes is 0; it must be at least 1"),
    (("--seconds", 0.001), "a frame of 0.025 s at least"), (("--replicates", 0), "--replicates 0: at least 1"),
])
def test_options_out_of_range_are_one_line(place, options, expected):
    folder, data, _ = place
    with pytest.raises(UserError, match=expected):
        run_worker(worker.main, data, folder / "model", folder / "x", *options)
