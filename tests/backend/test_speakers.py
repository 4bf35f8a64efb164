"""Speakers of a trial list, and the interval of the EER they give."""

import numpy as np
import pytest

from svq.backend.bootstrap import EerInterval, speaker_bootstrap
from svq.backend.scores import read_trials, trial_speakers
from svq.errors import UserError
from tests.report import fake


def names(codes, trials, expected):
    """The codes stand one to one for the expected speaker names."""
    pairs = set(zip(codes.tolist(), expected))
    return len(pairs) == len(set(codes.tolist())) == len(set(expected))


def test_speakers_of_utterances(tmp_path):
    trials = fake.write_set(tmp_path, "trials", speakers=5, utts=3)
    enroll, test = trial_speakers(read_trials(tmp_path / "trials"), tmp_path)
    expected = [a.split("-")[0] for a, _, _ in trials] + [b.split("-")[0] for _, b, _ in trials]
    assert names(np.concatenate([enroll, test]), trials, expected)


def test_speakers_of_models(tmp_path):
    (tmp_path / "utt2spk").write_text("a1 anna\na2 anna\na3 anna\nb1 ben\nb2 ben\n")
    (tmp_path / "enroll.spk2utt").write_text("m1 a1 a2\nm2 b1\n")
    (tmp_path / "trials").write_text("m1 a3 target\nm2 b2 target\nm1 b2 nontarget\na1 b2 nontarget\n")
    enroll, test = trial_speakers(read_trials(tmp_path / "trials"), tmp_path)
    assert enroll.tolist() == [0, 1, 0, 0] and test.tolist() == [0, 1, 1, 1]
    (tmp_path / "enroll.spk2utt").write_text("m1 a1 a2\nm2\n")
    with pytest.raises(UserError, match="enroll.spk2utt:2: nothing after m2"):
        trial_speakers(read_trials(tmp_path / "trials"), tmp_path)


def test_unknown_ids_are_listed(tmp_path):
    (tmp_path / "trials").write_text("a1 x9 target\na1 b2 nontarget\n")
    with pytest.raises(UserError, match="utt2spk is missing; stage 1 makes it"):
        trial_speakers(read_trials(tmp_path / "trials"), tmp_path)
    (tmp_path / "utt2spk").write_text("a1 anna\nb2 ben\n")
    with pytest.raises(UserError, match="utt2spk: no speaker for 1 id: x9"):
        trial_speakers(read_trials(tmp_path / "trials"), tmp_path)


def slow_interval(trials, scores, replicates, seed):
    """Every drawn pair of speakers written out as trials, one by one."""
    speakers = sorted({t[0].split("-")[0] for t in trials})
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(replicates):
        drawn = rng.integers(0, len(speakers), len(speakers))
        count = {s: int((drawn == i).sum()) for i, s in enumerate(speakers)}
        target, nontarget = [], []
        for (a, b, same), score in zip(trials, scores):
            a, b = a.split("-")[0], b.split("-")[0]
            if same:
                target += [score] * count[a]
            else:
                nontarget += [score] * (count[a] * count[b])
        target, nontarget = np.array(target), np.array(nontarget)
        thresholds = np.append(np.unique(np.append(target, nontarget)), np.inf)
        miss = [(target < t).mean() for t in thresholds]
        alarm = [(nontarget >= t).mean() for t in thresholds]
        i = next(i for i in range(len(miss)) if miss[i] >= alarm[i])
        before, after = miss[i - 1] - alarm[i - 1], miss[i] - alarm[i]
        found.append(miss[i - 1] + (miss[i] - miss[i - 1]) * before / (before - after))
    return 100 * np.quantile(found, [0.025, 0.975])


def test_interval_against_trials_written_out(tmp_path):
    trials = fake.write_set(tmp_path, "trials", speakers=8, utts=3)
    same = np.array([t[2] for t in trials])
    scores = np.random.default_rng(5).normal(2.0 * same, 1)
    interval = EerInterval(read_trials(tmp_path / "trials"), tmp_path, 40, seed=2)
    assert interval(scores[same], scores[~same]) == pytest.approx(slow_interval(trials, scores, 40, 2))


@pytest.mark.parametrize("speakers, gap, decimals", [(3, 1.0, 1), (5, 0.0, 6), (12, 2.0, 1), (12, 8.0, 6),
                                                     (30, 3.0, 6), (6, -2.0, 6)])
def test_interval_is_the_backend_s_to_the_bit(tmp_path, speakers, gap, decimals):
    """Ties, a perfect system, a blind one, a reversed one; few speakers also leave the window."""
    trials = fake.write_set(tmp_path, "trials", speakers, utts=4)
    same = np.array([t[2] for t in trials])
    scores = np.round(np.random.default_rng(speakers).normal(gap * same, 1), decimals)
    sides = [[t[side].split("-")[0] for t in trials] for side in (0, 1)]
    expected = speaker_bootstrap(scores, same, *sides, replicates=60, seed=4)
    interval = EerInterval(read_trials(tmp_path / "trials"), tmp_path, 60, seed=4)
    assert interval(scores[same], scores[~same]) == (100 * expected.low, 100 * expected.high)


def test_too_few_speakers(tmp_path, monkeypatch):
    """Half of the draws from two speakers hold one of them only, so no non-target trial."""
    monkeypatch.setattr("svq.backend.bootstrap._TRIES", 1)
    fake.write_set(tmp_path, "trials", speakers=2, utts=3)
    with pytest.raises(UserError, match="2 speakers are too few"):
        EerInterval(read_trials(tmp_path / "trials"), tmp_path, 20)
