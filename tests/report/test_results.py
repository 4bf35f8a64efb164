"""results.tsv against computations that share no code with the package, and its reading and writing."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm as normal

from svq.errors import UserError
from svq.names import Names, list_name
from svq.report import collect, results
from tests.report import fake

SYSTEMS = ("teacher", "teacher_kmqat4")


def plan(root, **changes):
    values = dict(exp=root / "exp", systems=SYSTEMS, backends=("cosine",), norms=("none", "asnorm"),
                  trials=tuple(root / "data" / path for path in fake.LISTS.values()),
                  plot=("cosine", "asnorm"))
    return collect.Plan(**{**values, **changes})


@pytest.fixture
def tree(tmp_path):
    fake.write_tree(tmp_path, SYSTEMS, backends=("cosine",))
    return tmp_path


# ---- brute force, written from the definitions

def brute_points(target, nontarget):
    thresholds = np.concatenate([np.unique(np.concatenate([target, nontarget])), [np.inf]])
    miss = np.array([(target < t).mean() for t in thresholds])
    alarm = np.array([(nontarget >= t).mean() for t in thresholds])
    return miss, alarm


def brute_eer(target, nontarget):
    miss, alarm = brute_points(target, nontarget)
    for i in range(1, len(miss)):
        if miss[i] >= alarm[i]:
            before, after = miss[i - 1] - alarm[i - 1], miss[i] - alarm[i]
            return 100 * (miss[i - 1] + (miss[i] - miss[i - 1]) * before / (before - after))


def brute_min_dcf(target, nontarget, prior):
    miss, alarm = brute_points(target, nontarget)
    return min((prior * miss + (1 - prior) * alarm) / min(prior, 1 - prior))


def brute_cllr(target, nontarget):
    t = sum(math.log2(1 + math.exp(-x)) for x in target) / len(target)
    return (t + sum(math.log2(1 + math.exp(x)) for x in nontarget) / len(nontarget)) / 2


def brute_act_dcf(target, nontarget, prior):
    threshold = math.log((1 - prior) / prior)
    cost = prior * (target < threshold).mean() + (1 - prior) * (nontarget >= threshold).mean()
    return cost / min(prior, 1 - prior)


def brute_min_cllr(target, nontarget):
    """Pool adjacent violators with a plain stack; the score's ties are pooled beforehand."""
    stack = []
    for value in np.unique(np.concatenate([target, nontarget])):
        stack.append([(target == value).sum(), (nontarget == value).sum()])
        while len(stack) > 1 and stack[-2][0] * sum(stack[-1]) >= stack[-1][0] * sum(stack[-2]):
            t, n = stack.pop()
            stack[-1] = [stack[-1][0] + t, stack[-1][1] + n]
    ratio = len(nontarget) / len(target)
    cost_t = sum(t * math.log2(1 + n / (t * ratio)) for t, n in stack if t) / len(target)
    cost_n = sum(n * math.log2(1 + t * ratio / n) for t, n in stack if n) / len(nontarget)
    return (cost_t + cost_n) / 2


def read_split(path, trials):
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [(a, b) for a, b, _ in lines] == [(a, b) for a, b, _ in trials]
    scores = np.array([float(line[2]) for line in lines])
    same = np.array([t[2] for t in trials])
    return scores[same], scores[~same]


# ---- tests

def test_every_number_of_every_row(tmp_path):
    lists = fake.write_tree(tmp_path, SYSTEMS, backends=("cosine",))
    rows, _, _ = collect.collect(plan(tmp_path))
    assert len(rows) == 2 * 3 * 1 * 2
    for row in rows:
        stem = tmp_path / "exp" / row.system / "scores" / row.trials / f"{row.backend}_{row.norm}"
        raw = read_split(stem.with_suffix(".score"), lists[row.trials])
        llr = read_split(stem.with_suffix(".llr"), lists[row.trials])
        assert row.eer == pytest.approx(brute_eer(*raw), abs=1e-9)
        assert row.mindcf01 == pytest.approx(brute_min_dcf(*raw, 0.01), abs=1e-12)
        assert row.mindcf05 == pytest.approx(brute_min_dcf(*raw, 0.05), abs=1e-12)
        assert row.mincllr == pytest.approx(brute_min_cllr(*raw), abs=1e-12)
        assert row.cllr == pytest.approx(brute_cllr(*llr), abs=1e-12)
        assert row.actdcf01 == pytest.approx(brute_act_dcf(*llr, 0.01), abs=1e-12)
        assert (row.num_target, row.num_nontarget) == (len(raw[0]), len(raw[1]))
        _, bits, size = fake.SYSTEMS[row.system]
        assert (row.avg_bits, row.size_bytes, row.params) == (bits, size, 6_630_000)


def test_rows_follow_the_order_given(tree):
    given_order = plan(tree, systems=("teacher_kmqat4", "teacher"), norms=("asnorm", "none"))
    rows, _, _ = collect.collect(given_order)
    expected = [(s, t, "cosine", n) for s in ("teacher_kmqat4", "teacher")
                for t in ("dev", "test", "test_all") for n in ("asnorm", "none")]
    assert [(r.system, r.trials, r.backend, r.norm) for r in rows] == expected


def test_gaussian_scores_have_the_equal_error_rate_of_theory():
    found = collect.measures(collect.Scored(*fake.gaussian_scores(3.0, 20000, 20000, 1) * 2))
    # The standard error of an EER of 6.7 % from 20000 + 20000 trials is 0.13 %.
    assert found["eer"] == pytest.approx(100 * normal.cdf(-1.5), abs=0.5)


def test_four_targets_by_hand():
    target, nontarget = np.array([4.0, 3.0, 2.0, -1.0]), np.array([2.5, 0.0, -1.5, -2.0])
    found = collect.measures(collect.Scored(target, nontarget, target, nontarget))
    assert found["eer"] == 25.0


@pytest.mark.parametrize("missing, stage", [
    ("exp/teacher/scores/test/cosine_none.score", 7),
    ("exp/teacher_kmqat4/scores/test_all/cosine_asnorm.score", 8),
    ("exp/teacher/scores/dev/cosine_asnorm.llr", 9),
    ("exp/teacher/summary.json", 10),
    ("data/test/trials_all", 1),
])
def test_missing_file_is_named_with_its_stage(tree, missing, stage):
    (tree / missing).unlink()
    with pytest.raises(UserError) as error:
        collect.collect(plan(tree))
    assert f"{tree / missing} is missing; stage {stage} makes it" in str(error.value)


def test_summary_of_an_exported_system_is_made_by_export(tree):
    (tree / "exp/teacher").rename(tree / "exp/teacher-int8")
    path = tree / "exp/teacher-int8/summary.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="summary.json: 'avg_bits' must be .*; redo stage 5"):
        collect.collect(plan(tree, systems=("teacher-int8",)))
    path.unlink()
    with pytest.raises(UserError, match="teacher-int8/summary.json is missing; stage 5 makes it"):
        collect.collect(plan(tree, systems=("teacher-int8",)))


def test_scores_of_another_list_are_refused(tree):
    path = tree / "exp/teacher/scores/test/cosine_none.score"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:] + lines[:1]))
    with pytest.raises(UserError, match="cosine_none.score:1: "):
        collect.collect(plan(tree))
    path.write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="1127 scores for the 1128 trials"):
        collect.collect(plan(tree))


@pytest.mark.parametrize("summary", ["{", "[]", "{}", '{"avg_bits": 4, "size_bytes": "big", "params": 1}',
                                     '{"avg_bits": 4, "size_bytes": 0, "params": 1}',
                                     '{"avg_bits": true, "size_bytes": 1, "params": 1}'])
def test_broken_summary(tree, summary):
    path = tree / "exp/teacher/summary.json"
    path.write_text(summary)
    with pytest.raises(UserError, match="summary.json: "):
        collect.collect(plan(tree))


def test_interval_holds_the_rate_and_is_the_same_again(tree):
    rows, _, _ = collect.collect(plan(tree, bootstrap=30, seed=1))
    assert all(row.eer_low <= row.eer <= row.eer_high and row.eer_low < row.eer_high for row in rows)
    again, _, _ = collect.collect(plan(tree, bootstrap=30, seed=1))
    assert again == rows
    other, _, _ = collect.collect(plan(tree, bootstrap=30, seed=2))
    assert other != rows
    without, _, _ = collect.collect(plan(tree))
    assert all(math.isnan(row.eer_low) and math.isnan(row.eer_high) for row in without)


def test_list_names(tmp_path, monkeypatch):
    assert list_name("data/test/trials") == "test"
    assert list_name("data/test/trials_all") == "test_all"
    assert list_name("data/dev/trials") == "dev"
    monkeypatch.chdir(tmp_path)
    assert list_name("trials_hard") == f"{tmp_path.name}_hard"
    with pytest.raises(UserError, match="'trials' or 'trials_<name>'"):
        list_name("data/test/pairs.txt")


@pytest.mark.parametrize("changes, message", [
    (dict(systems=("a", "a")), "'a' is given twice among the systems"),
    (dict(norms=()), "no norms given"),
    (dict(plot=("plda", "none")), "cannot plot plda none"),
])
def test_impossible_plans(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, **changes)


names = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="|"), min_size=1)
measures = st.floats(0, 1e6).map(lambda x: round(x, 4))
counts = st.integers(0, 10**12)


@st.composite
def row_lists(draw):
    kinds = {"str": names, "float": measures, "int": counts}
    fields = {f.name: kinds[f.type] for f in dataclasses.fields(results.Row)}
    return draw(st.lists(st.builds(results.Row, **fields), max_size=5))


@given(row_lists())
def test_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tsv") / "results.tsv"
    results.write_results(path, rows)
    once = path.read_bytes()
    assert results.read_results(path) == rows
    results.write_results(path, results.read_results(path))
    assert path.read_bytes() == once


@given(st.text())
def test_any_text_is_read_or_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("tsv") / "results.tsv"
    path.write_text("\t".join(results.COLUMNS) + "\n" + text, encoding="utf-8", newline="")
    try:
        results.read_results(path)
    except UserError as error:
        assert str(error).startswith(f"{path}:")


def test_first_columns_are_the_promised_ones(tree, tmp_path):
    rows, _, _ = collect.collect(plan(tree))
    results.write_results(tmp_path / "results.tsv", rows)
    header = (tmp_path / "results.tsv").read_text().split("\n")[0]
    promised = "system trials backend norm eer mindcf01 mindcf05 cllr avg_bits size_bytes params"
    assert header.split("\t")[:11] == promised.split()


def test_bad_tables(tmp_path):
    path = tmp_path / "results.tsv"
    with pytest.raises(UserError, match="is missing; stage 11 makes it"):
        results.read_results(path)
    path.write_text("system\ttrials\n")
    with pytest.raises(UserError, match=":1: no column backend, norm"):
        results.read_results(path)
    values = ["a"] * 4 + ["1"] * (len(results.COLUMNS) - 4)
    lines = ["\t".join(results.COLUMNS), "\t".join(values), "\t".join(values[:-1])]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=":3: 16 fields where the header has 17"):
        results.read_results(path)
    values[results.COLUMNS.index("params")] = "1.5"
    path.write_text("\n".join([lines[0], "\t".join(values)]))
    with pytest.raises(UserError, match=":2: params is '1.5', not a whole number"):
        results.read_results(path)


def test_further_columns_do_no_harm(tmp_path):
    row = results.Row("a", "t", "cosine", "none", *[1.0] * 5, 1, 2, *[1.0] * 4, 3, 4)
    path = tmp_path / "results.tsv"
    results.write_results(path, [row])
    header, line = path.read_text().splitlines()
    path.write_text(f"latency\t{header}\n7\t{line}\n")
    assert results.read_results(path) == [row]


def test_a_name_with_a_blank_is_not_written(tmp_path):
    row = results.Row("a b", "t", "cosine", "none", *[1.0] * 5, 1, 2, *[1.0] * 4, 3, 4)
    path = tmp_path / "results.tsv"
    path.write_text("old")
    with pytest.raises(UserError, match="system 'a b'"):
        results.write_results(path, [row])
    assert path.read_text() == "old"


def test_parents():
    bits = {"my": 32.0, "my_net": 32.0, "my_kmqat4": 4.0, "my_net_kmqat4": 4.0, "my_net_kmqat4-int8": 4.0, "my-int8": 8.0,
            "x_kmqat4": 4.0, "my_other": 3.0, "my_float": 32.0, "my_kmqat4_kmqat4": 4.0}
    expected = {"my_kmqat4": "my", "my_net_kmqat4": "my_net", "my_net_kmqat4-int8": "my_net", "my-int8": "my"}
    names = Names(frozenset({"kmqat4", "float"}))
    assert {name: results.parent_of(name, bits, names) for name in bits} == {name: expected.get(name) for name in bits}


def run(*arguments, cwd):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_worker(tmp_path):
    root = tmp_path / "with a space"
    fake.write_tree(root, ("teacher",), backends=("cosine",))
    arguments = ["svq.bin.report", "--systems", "teacher", "--backends", "cosine", "--trials",
                 "data/test/trials", "dev/trials", "--bootstrap", 20]
    done = run(*arguments, cwd=root)
    assert done.returncode == 0, done.stderr
    rows = results.read_results(root / "exp/results.tsv")
    assert [row.trials for row in rows] == ["test", "test", "dev", "dev"]
    assert (root / "exp/report.html").read_text().startswith("<!DOCTYPE html>")
    before = [(root / "exp" / name).read_bytes() for name in ("results.tsv", "report.html")]
    assert run(*arguments, cwd=root).returncode == 0
    assert before == [(root / "exp" / name).read_bytes() for name in ("results.tsv", "report.html")]

    (root / "exp/teacher/summary.json").unlink()
    failed = run(*arguments, cwd=root)
    assert failed.returncode == 1
    assert failed.stderr == "svq.bin.report: exp/teacher/summary.json is missing; stage 10 makes it\n"
    assert before == [(root / "exp" / name).read_bytes() for name in ("results.tsv", "report.html")]
    failed = run(*arguments, "--trials", "data/eval/trials", cwd=root)
    assert failed.returncode == 1 and "data/eval/trials is missing" in failed.stderr


def test_step_passes_lists_and_paths_on(tmp_path):
    """Names are parted at blanks, folders may hold them, and nothing of it is run as code."""
    steps = fake.ROOT / "steps"
    root = tmp_path / "with a space"
    fake.write_tree(root, ("teacher", "student"), backends=("cosine",))
    (root / "steps").symlink_to(steps)
    (root / "utils").symlink_to(fake.ROOT / "utils")
    (root / "path.sh").write_text(f"export PATH='{Path(sys.executable).parent}':$PWD/utils:$PATH\n")
    command = ["steps/report.sh", "--systems", "teacher student", "--trials", "data/test/trials dev/trials",
               "--backends", "cosine", "--bootstrap", "0", "--title", "$(touch x) *", "data", "exp"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(results.read_results(root / "exp/results.tsv")) == 2 * 2 * 2
    assert "<h1>$(touch x) *</h1>" in (root / "exp/report.html").read_text()
    assert not (root / "x").exists()
    for wrong in (command[:-1], [*command[:1], "--bootstrap", "many", "data", "exp"]):
        assert subprocess.run(wrong, cwd=root, capture_output=True).returncode == 2
