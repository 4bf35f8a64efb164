"""The worker from score files to the page: what is fitted where, break-downs, identical systems, what goes wrong."""

import itertools
import json

import numpy as np
import pytest

from svq.analysis.score_analysis import analyse
from svq.analysis.score_lists import (
    ScoreAnalysisConfig,
    distance_edges,
    distance_groups,
    duration_groups,
    paired_groups,
    read_list,
)
from svq.analysis.score_measures import COLUMNS, Lookup
from svq.analysis.score_page import figures, markdown
from svq.backend import metrics
from svq.backend.bootstrap import speaker_bootstrap
from svq.backend.calibration import Calibration
from svq.backend.score_map import load_map
from svq.bin import score_analysis
from svq.errors import UserError
from tests.helpers import run_worker

SYSTEMS = {"float": 0.0, "four": 0.1, "three": 0.2, "two": 0.9, "twin": 0.0}  # noise on top of the float score
BITS = {"float": 32, "four": 4, "three": 3, "two": 2, "twin": 32}
SPEAKERS, UTTS = 6, 3


def write_list(folder, name, seed):
    """A data directory of women and men in two domains with a trial list, and every system's scores of it."""
    data = folder / "data" / name
    data.mkdir(parents=True)
    utts = [(f"{name}{s}-{u}", f"{name}{s}") for s in range(SPEAKERS) for u in range(UTTS)]
    (data / "utt2spk").write_text("".join(f"{utt} {spk}\n" for utt, spk in utts))
    (data / "utt2dur").write_text("".join(f"{utt} {1 + 0.5 * i}\n" for i, (utt, _) in enumerate(utts)))
    (data / "spk2gender").write_text("".join(f"{name}{s} {'fm'[s % 2]}\n" for s in range(SPEAKERS)))
    (data / "utt2domain").write_text("".join(f"{utt} {'street' if utt[-1] != '0' else 'studio'}\n" for utt, _ in utts))
    pairs = [(a, b, x == y) for (a, x), (b, y) in itertools.combinations(utts, 2)]
    (data / "trials").write_text("".join(f"{a} {b} {'target' if same else 'nontarget'}\n" for a, b, same in pairs))
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 1, len(pairs)) + 2 * np.array([same for *_, same in pairs])
    for system, noise in SYSTEMS.items():
        score = reference if not noise else 0.7 * reference + 0.2 + noise * rng.normal(size=len(pairs))
        out = folder / "exp" / system / "scores" / name
        out.mkdir(parents=True)
        (out / "cosine_none.score").write_text("".join(f"{a} {b} {s:.6f}\n" for (a, b, _), s in zip(pairs, score)))
        summary = {"avg_bits": BITS[system], "size_bytes": 1000, "params": 10}
        (folder / "exp" / system / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a place")
    write_list(folder, "dev", 1)
    write_list(folder, "test", 2)
    run(folder, folder / "out")
    return folder


def run(folder, out, *more):
    run_worker(score_analysis.main, *SYSTEMS, "--exp", folder / "exp", "--trials", folder / "data" / "dev" / "trials",
               folder / "data" / "test" / "trials", "--out", out, "--bootstrap", 20, "--sweep", "four", "three", "two",
               *more)


def config(folder, **more):
    lists = tuple(str(folder / "data" / name / "trials") for name in ("dev", "test"))
    return ScoreAnalysisConfig(**dict(systems=tuple(SYSTEMS), trials=lists, exp=str(folder / "exp"), bootstrap=20)
                               | more)


def scores_of(folder, system, name):
    lines = (folder / "exp" / system / "scores" / name / "cosine_none.score").read_text().splitlines()
    labels = (folder / "data" / name / "trials").read_text().splitlines()
    return (np.array([float(line.split()[2]) for line in lines]),
            np.array([line.endswith(" target") for line in labels]))


def rows_of(folder, **wanted):
    """Lines of scores.tsv as dicts."""
    lines = (folder / "out" / "scores.tsv").read_text().splitlines()
    rows = [dict(zip(COLUMNS, line.split("\t"))) for line in lines[1:]]
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_error_rates_and_their_intervals_are_those_of_the_other_tools(place):
    score, target = scores_of(place, "two", "test")
    (row,) = rows_of(place, trials="test", system="two", kind="all", measure="eer")
    speakers = np.array([[word.split("-")[0] for word in line.split()[:2]]
                         for line in (place / "data" / "test" / "trials").read_text().splitlines()]).T
    expected = speaker_bootstrap(score, target, *speakers, replicates=20)
    assert [float(row[name]) for name in ("value", "low", "high")] == pytest.approx(
        [100 * expected.value, 100 * expected.low, 100 * expected.high], rel=1e-5)
    for measure, value in (("mindcf", metrics.min_dcf(score[target], score[~target], 0.01)),
                           ("min_cllr", metrics.min_cllr(score[target], score[~target]))):
        (row,) = rows_of(place, trials="test", system="two", kind="all", measure=measure)
        assert float(row["value"]) == pytest.approx(value, rel=1e-5)


def test_calibrated_costs_go_by_the_calibration_that_is_written(place):
    calibrated = Calibration.load(place / "out" / "maps" / "two.calibration.json")
    score, target = scores_of(place, "two", "test")
    (row,) = rows_of(place, trials="test", system="two", measure="cllr")
    expected = metrics.cllr(calibrated(score[target]), calibrated(score[~target]))
    assert float(row["value"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", ["raw", "affine", "isotonic", "logistic"])
def test_flips_are_those_of_the_maps_that_are_written(place, scale):
    (low, target), (full, _), (dev, dev_target) = (scores_of(place, *each) for each in
                                                   (("two", "test"), ("float", "test"), ("float", "dev")))
    threshold = metrics.eer_threshold(dev[dev_target], dev[~dev_target])
    mapped = low if scale == "raw" else load_map(place / "out" / "maps" / f"two.{scale}.json")(low)
    right, was_right = (mapped >= threshold) == target, (full >= threshold) == target
    for measure, chosen in (("harmful", was_right & ~right), ("beneficial", right & ~was_right)):
        (row,) = rows_of(place, trials="test", system="two", kind="all", scale=scale, measure=measure)
        assert float(row["value"]) == pytest.approx(100 * chosen.mean(), rel=1e-5)


def test_an_identical_system_has_no_difference(place):
    for row in rows_of(place, system="twin", kind="all"):
        if row["delta"] != "nan":
            assert [float(row[name]) for name in ("delta", "delta_low", "delta_high")] == [0, 0, 0]
        elif row["scale"] in ("raw", "affine", "logistic"):  # an isotonic map is constant beyond its ends
            expected = 1.0 if row["measure"].startswith("slope") else 0.0
            assert float(row["value"]) == pytest.approx(expected, abs=1e-6), row


def test_noise_shows_as_drift_and_the_knee_before_it(place):
    rows = rows_of(place, trials="dev", kind="all", scale="affine", measure="rms")
    drift = {row["system"]: float(row["value"]) for row in rows}
    assert drift["twin"] < drift["four"] < drift["three"] < drift["two"]
    lookup = analyse(config(place, sweep=("four", "three", "two")))
    assert (lookup.knees["dev"]["rms"].bits, lookup.knees["dev"]["rms"].below) == (3, 2)


def test_all_that_is_fitted_is_fitted_on_the_first_list(place, tmp_path):
    write_list(tmp_path, "dev", 1)
    write_list(tmp_path, "test", 77)  # other scores of the same trials
    first, other = (analyse(config(folder, bootstrap=3)) for folder in (place, tmp_path))
    assert first.fitted.maps == other.fitted.maps and first.fitted.calibrations == other.fitted.calibrations
    assert first.fitted.threshold == other.fitted.threshold and (first.fitted.edges == other.fitted.edges).all()
    for name, same in (("dev", True), ("test", False)):
        rows = [[row.value for row in found.rows if row.trials == name and row.system == "two"]
                for found in (first, other)]
        assert np.array_equal(*rows, equal_nan=True) == same


def test_a_second_run_writes_the_same_bytes(place, tmp_path):
    run(place, tmp_path)
    made = sorted(path.relative_to(place / "out") for path in (place / "out").rglob("*") if path.is_file())
    assert {"index.html", "scores.md", "scores.tsv", "bits_dev.svg", "flips_test.svg"} <= set(map(str, made))
    for name in made:
        assert (place / "out" / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_the_page_holds_every_table_and_fetches_nothing(place):
    page = (place / "out" / "index.html").read_text()
    for key in ("main", "differences", "drift", "knee", "distance", "duration", "gender", "domain", "flips_test"):
        assert f'<section id="{key}">' in page
    assert "src=" not in page and page.count("<script") == 1


@pytest.mark.parametrize("operating_point", ["eer", "bayes"])
def test_the_threshold(place, operating_point):
    found = analyse(config(place, operating_point=operating_point, p_target=0.05, bootstrap=0)).fitted
    dev, target = scores_of(place, "float", "dev")
    if operating_point == "eer":
        assert found.threshold == metrics.eer_threshold(dev[target], dev[~target])
    else:
        assert found.calibrations["float"](found.threshold) == pytest.approx(metrics.bayes_threshold(0.05))


def test_without_resamplings_there_are_no_intervals(place):
    row = Lookup(analyse(config(place, bootstrap=0)).rows)("test", "two", "order", "eer")
    assert row.value > 0 and np.isnan([row.low, row.high, row.delta_low]).all() and not np.isnan(row.delta)


def test_maps_say_of_which_score_and_mean_they_are(place, tmp_path):
    write_list(tmp_path, "dev", 1)
    write_list(tmp_path, "test", 2)
    saved = Calibration(1.0, 0.0).of("cosine_none", "none")
    saved.save(tmp_path / "exp" / "two" / "scores" / "dev" / "cosine_none.calibration.json")
    fitted = analyse(config(tmp_path, bootstrap=0)).fitted
    assert {(each.score, each.mean) for each in fitted.maps["two"].values()} == {("cosine_none", "none")}
    assert fitted.maps["four"]["affine"].mean is None


def test_groups_of_a_list(place):
    listed = read_list(place / "data" / "test" / "trials", config(place, duration_edges=(3.0,)))
    labels = (place / "data" / "test" / "trials").read_text().splitlines()
    groups = {group[:2]: group.rows for group in listed.groups}
    assert set(groups) == {("duration", "below 3 s"), ("duration", "3 s on"), ("gender", "f"), ("gender", "m"),
                           ("gender", "across"), ("domain", "studio"), ("domain", "street"), ("domain", "across")}
    for i, line in enumerate(labels):
        (a, x), (b, y) = (word[4:].split("-") for word in line.split()[:2])
        shorter = min(1 + 0.5 * (UTTS * int(s) + int(u)) for s, u in ((a, x), (b, y)))
        assert groups["duration", "below 3 s"][i] == (shorter < 3)
        assert groups["gender", "f"][i] == (int(a) % 2 == int(b) % 2 == 0)
        assert groups["gender", "across"][i] == (int(a) % 2 != int(b) % 2)
        assert groups["domain", "studio"][i] == (x == y == "0")


def test_groups_where_the_enrolment_has_several_utterances(tmp_path):
    write_list(tmp_path, "dev", 1)
    data = tmp_path / "data" / "dev"
    (data / "enroll.spk2utt").write_text("m0 dev0-0 dev0-1\nm1 dev1-1 dev1-2\n")
    (data / "trials").write_text("m0 dev0-2 target\nm0 dev5-2 nontarget\nm1 dev1-0 target\nm1 dev0-0 nontarget\n")
    for system in SYSTEMS:
        path = tmp_path / "exp" / system / "scores" / "dev" / "cosine_none.score"
        path.write_text("m0 dev0-2 0.9\nm0 dev5-2 0.1\nm1 dev1-0 0.8\nm1 dev0-0 0.2\n")
    listed = read_list(data / "trials", config(tmp_path, bootstrap=0, duration_edges=(2.2, 3.0)))
    rows = {group[:2]: group.rows.tolist() for group in listed.groups}
    assert rows["duration", "2.2 to 3 s"] == [False, True, True, False]  # m0: 1 + 1.5 s, beside 2, 9.5; m1: 3 + 3.5
    # m0 is of the studio, as its first utterance, m1 of the street; the test utterances are the other way round.
    assert {key: found for key, found in rows.items() if key[0] == "domain"} == {("domain", "across"): [True] * 4}


def test_groups_by_distance():
    scores = np.arange(-50, 50) + 0.5
    groups = distance_groups(scores, 0.0, distance_edges(scores, 0.0))
    assert sum(group.rows for group in groups).tolist() == [1] * 100
    assert [int(group.rows.sum()) for group in groups] == pytest.approx([2, 0, 4, 4, 10, 30, 50], abs=2)
    far = [np.abs(scores[group.rows]).max(initial=0) for group in groups]
    assert far[0] <= far[2] <= far[-1] == 49.5


def test_quartiles_of_durations_and_labels():
    groups = duration_groups(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert [(name, rows.tolist()) for _, name, rows in groups][0] == ("below 2 s", [True, False, False, False, False])
    assert [group.name for group in duration_groups(np.full(3, 2.0))] == ["2 s on"]
    assert [group.name for group in paired_groups("domain", np.array(["a", "b"]), np.array(["a", "b"]))] == ["a", "b"]


@pytest.mark.parametrize("change, said", [
    (dict(systems=("float",)), "at least one other"), (dict(systems=("float", "two", "two")), "two twice"),
    (dict(systems=("float", "two:x")), "NAME:BITS"), (dict(sweep=("one",)), "sweep names one"),
    (dict(trials=()), "development list"), (dict(p_target=0.0), "p_target"), (dict(c_fa=0.0), "c_fa"),
    (dict(bootstrap=-1), "bootstrap"), (dict(duration_edges=(3.0, 2.0)), "duration_edges")])
def test_settings_out_of_range(place, change, said):
    with pytest.raises(ValueError, match=said):
        config(place, **change)


def test_what_is_missing_is_named(place, tmp_path):
    write_list(tmp_path, "dev", 1)
    with pytest.raises(UserError, match="test/trials"):
        analyse(config(tmp_path))
    write_list(tmp_path, "test", 2)
    path = tmp_path / "exp" / "three" / "scores" / "test" / "cosine_none.score"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match="three.*cosine_none.score: 152 scores for the 153 trials"):
        analyse(config(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match="three.*cosine_none.score is missing"):
        analyse(config(tmp_path))


def test_two_lists_of_one_name(place, tmp_path):
    write_list(tmp_path, "test", 3)
    lists = [str(folder / "data" / "test" / "trials") for folder in (place, tmp_path)]
    with pytest.raises(UserError, match="is list test, and so is"):
        analyse(config(place, trials=tuple(lists)))


@pytest.mark.parametrize("sweep, said", [((), "same bits"), (("four", "two"), "three different")])
def test_no_knee_is_said(place, sweep, said):
    systems = ("float", "four", "two", "three:2") if not sweep else tuple(SYSTEMS)
    out = analyse(config(place, systems=systems, sweep=sweep, bootstrap=0))
    assert not out.knees and any(said in note for note in out.notes)


@pytest.mark.parametrize("scores, said", [("0.5", "all equal"), (None, "rise together")])
def test_scores_that_cannot_be_mapped(tmp_path, scores, said):
    write_list(tmp_path, "dev", 1)
    write_list(tmp_path, "test", 2)
    path = tmp_path / "exp" / "three" / "scores" / "dev" / "cosine_none.score"
    lines = [line.split() for line in path.read_text().splitlines()]
    path.write_text("".join(f"{a} {b} {scores or -float(score)}\n" for a, b, score in lines))
    with pytest.raises(UserError, match=f"three.*cosine_none.score.*{said}"):
        analyse(config(tmp_path, bootstrap=0))


def test_what_a_data_directory_does_not_tell_is_left_out(place, tmp_path):
    for name, seed in (("dev", 1), ("test", 2)):
        write_list(tmp_path, name, seed)
        for lost in ("utt2dur", "spk2gender", "utt2domain"):
            (tmp_path / "data" / name / lost).unlink()
    out = analyse(config(tmp_path, bootstrap=0))
    assert {row.kind for row in out.rows} == {"all", "distance"}
    assert sum("test: no " in note for note in out.notes) == 3
    assert "### By" not in markdown(out)
    del out.sizes["test"]  # figures take their time
    assert all(drawn.svg.startswith("<svg") for drawn in figures(out))  # without a sweep and without intervals, too
