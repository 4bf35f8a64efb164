from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.data.datadir import create
from svq.data.trials import count_pairs, draw_pairs, make_trials, without_targets
from svq.data.validate import validate
from svq.errors import UserError
from tests.builders import data_dir


def read(path):
    return [tuple(line.split()) for line in path.read_text().splitlines()]


def speaker(utt):
    return utt[:5]


groups = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=14)


def allowed(pairs):
    group, stratum = np.array(pairs).T
    both = {(i, j) for i, j in combinations(range(len(pairs)), 2) if group[i] != group[j] and stratum[i] == stratum[j]}
    return group, stratum, both


@given(groups, st.integers(0, 5), st.data())
def test_drawn_pairs_are_allowed_distinct_sorted_and_seeded(pairs, seed, data):
    group, stratum, both = allowed(pairs)
    assert count_pairs(group, stratum) == len(both)
    count = data.draw(st.integers(0, len(both)))
    drawn = [tuple(p) for p in draw_pairs(group, stratum, count, seed).tolist()] if both else []
    assert len(set(drawn)) == len(drawn) == (count if both else 0) and set(drawn) <= both and drawn == sorted(drawn)
    if both:
        assert drawn == [tuple(p) for p in draw_pairs(group, stratum, count, seed).tolist()]
    with pytest.raises(UserError, match="there are only"):
        draw_pairs(group, stratum, len(both) + 1, seed)


def test_every_pair_is_equally_likely():
    """Chi-square over 600 draws, 3 of 12 pairs; both ways of drawing."""
    group = np.array([0, 0, 1, 1, 2, 2])
    for count in (3, 9):
        hits = np.zeros((6, 6))
        for seed in range(600):
            i, j = draw_pairs(group, np.zeros(6, int), count, seed).T
            hits[i, j] += 1
        hits = hits[np.triu(group[:, None] != group)]
        expected = 600 * count / 12
        # 11 degrees of freedom, variance of a draw without replacement; 31.3 is the 0.1 % point.
        assert len(hits) == 12 and np.sum((hits - expected) ** 2) / (expected * (1 - count / 12)) * 11 / 12 < 31.3


def test_all_target_pairs_and_a_draw(tmp_path):
    folder = data_dir(tmp_path, speakers=4, utts=3, seconds=0.01)
    assert make_trials(folder, num_nontarget=20, seed=1) == (12, 20)
    trials = read(folder / "trials")
    utts = [f"spk{s:02d}-utt{u:02d}" for s in range(4) for u in range(3)]
    target = {(a, b) for a, b in combinations(utts, 2) if speaker(a) == speaker(b)}
    assert {t[:2] for t in trials if t[2] == "target"} == target
    assert all((speaker(a) == speaker(b)) == (label == "target") for a, b, label in trials)
    assert trials == sorted(trials)
    first = (folder / "trials").read_bytes()
    make_trials(folder, num_nontarget=20, seed=1)
    assert (folder / "trials").read_bytes() == first
    make_trials(folder, num_nontarget=20, seed=2)
    assert (folder / "trials").read_bytes() != first
    assert validate(folder).total == 0


def test_all_pairs_and_same_gender(tmp_path):
    folder = data_dir(tmp_path, speakers=4, utts=3, seconds=0.01)
    assert make_trials(folder, name="all") == (12, 54)
    assert make_trials(folder, name="gender", same_gender=True) == (12, 18)
    assert all(int(a[4]) % 2 == int(b[4]) % 2 for a, b, _ in read(folder / "trials_gender"))
    assert make_trials(folder, name="draw", same_gender=True, num_nontarget=5) == (12, 5)
    assert all(int(a[4]) % 2 == int(b[4]) % 2 for a, b, _ in read(folder / "trials_draw"))
    assert validate(folder).total == 0


@pytest.mark.parametrize("drawn, seed", [(None, 0), (7, 0), (30, 1)])
def test_models_of_several_utterances(tmp_path, drawn, seed):
    folder = data_dir(tmp_path, speakers=4, utts=5, seconds=0.01)
    made = make_trials(folder, enroll_utts=2, num_nontarget=drawn, seed=seed)
    assert made == (12, drawn or 36)
    models = {line[0]: line[1:] for line in read(folder / "enroll.spk2utt")}
    assert models["spk01"] == ("spk01-utt00", "spk01-utt01") and len(models) == 4
    trials = read(folder / "trials")
    assert len({t[:2] for t in trials}) == len(trials)
    assert all((m == speaker(u)) == (label == "target") and int(u[-2:]) >= 2 for m, u, label in trials)
    assert validate(folder).total == 0
    with pytest.raises(UserError, match="trials may use its models"):
        make_trials(folder, name="three", enroll_utts=3)


@pytest.mark.parametrize("enroll_utts", [0, 2])
def test_every_utterance_tested_once(tmp_path, enroll_utts):
    folder, number = data_dir(tmp_path, speakers=6, utts=9, seconds=0.01), max(enroll_utts, 1)
    made = make_trials(folder, enroll_utts=enroll_utts, same_gender=True, once=True)
    trials = read(folder / "trials")
    tests = 6 * (9 - number)
    assert made == (tests - tests // 2, tests // 2)
    assert sorted(t[1] for t in trials) == [f"spk{s:02d}-utt{u:02d}" for s in range(6) for u in range(number, 9)]
    for model, utt, label in trials:
        assert (model == speaker(utt) if enroll_utts else model == f"{speaker(utt)}-utt00") == (label == "target")
        assert int(model[4]) % 2 == int(utt[4]) % 2  # genders alternate
    assert (folder / "enroll.spk2utt").exists() == bool(enroll_utts) and validate(folder).total == 0
    make_trials(folder, name="again", enroll_utts=enroll_utts, same_gender=True, once=True)
    make_trials(folder, name="other", enroll_utts=enroll_utts, same_gender=True, once=True, seed=1)
    assert read(folder / "trials_again") == trials != read(folder / "trials_other")


SINGLE = {f"spk{s:02d}-utt{u:02d}" for s in (2, 3) for u in (1, 2)}  # left out, these two speakers have one utterance


def test_tested_once_by_someone_else(tmp_path):
    folder = data_dir(tmp_path, speakers=3, utts=4, seconds=0.01)  # one gender has one speaker
    make_trials(folder, same_gender=True, once=True)
    trials = read(folder / "trials")
    assert 3 <= len(trials) < 9 and len({t[1] for t in trials}) == len(trials)
    assert all(label == "target" for model, _, label in trials if model.startswith("spk01"))
    make_trials(folder, name="some", once=True, max_tests=4)
    some = read(folder / "trials_some")
    assert len(some) == 4 and sum(label == "target" for *_, label in some) == 2


def test_speakers_without_a_model_are_tested_against_others(tmp_path):
    folder = data_dir(tmp_path, speakers=4, utts=3, seconds=0.01)
    kept = [line for line in (folder / "utt2spk").read_text().splitlines(True) if line[:11] not in SINGLE]
    (folder / "utt2spk").write_text("".join(kept))
    make_trials(folder, once=True)
    trials = read(folder / "trials")
    assert sorted(t[1] for t in trials) == sorted(line.split()[0] for line in kept if line[9:11] != "00" or
                                                  line[:5] in ("spk02", "spk03"))
    assert {label for _, utt, label in trials if utt[:5] in ("spk02", "spk03")} == {"nontarget"}
    assert sum(label == "target" for *_, label in trials) == 2


def test_what_cannot_be_made(tmp_path):
    folder = data_dir(tmp_path, speakers=2, utts=2, seconds=0.01)
    with pytest.raises(UserError, match="only 4 such pairs"):
        make_trials(folder, num_nontarget=5)
    with pytest.raises(UserError, match="there is no nontarget trial"):
        make_trials(folder, same_gender=True)
    with pytest.raises(UserError, match="goes with testing each once"):
        make_trials(folder, max_tests=3)
    with pytest.raises(UserError, match="leave their number out"):
        make_trials(folder, once=True, num_nontarget=3)
    with pytest.raises(UserError, match="is no name"):
        make_trials(folder, name="a/b")
    (folder / "spk2gender").unlink()
    with pytest.raises(UserError, match="take a spk2gender"):
        make_trials(folder, same_gender=True)
    assert not list(folder.glob("*trials*"))


def test_speakers_with_too_few_utterances_have_no_target_trials(tmp_path):
    utterances = {"a-1": "a", "a-2": "a", "b-1": "b", "c-1": "c", "c-2": "c", "c-3": "c"}
    path = create(tmp_path, wav=dict.fromkeys(utterances, "x.wav"), utt2spk=utterances)
    assert without_targets(path) == ["b"] and without_targets(path, enroll_utts=2) == ["a", "b"]
