"""The grammar of systems' names: what is composed is read back, and no name has two meanings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.errors import UserError
from svq.names import Names, before_finetuning, compose, list_name, names_in_conf

ROWS = ["float", "kmqat4", "kmqat4-r80", "mixed1.7", "x+y", "ecapa-selective"]
LEVELS = ["labels", "labels-wide", "utterance", "narrowBN", "narrowBN-mn", "sp-aggr", "utterance+sp-aggr"]
NAMES = Names(frozenset(ROWS), frozenset(LEVELS))

seeds = st.none() | st.integers(0, 10**6)
member_bits = st.none() | st.integers(1, 8)
letters = st.text("abXY19.+-_", min_size=1, max_size=8)


def is_plain(stem: str) -> bool:
    """Whether a network's name ends in nothing that has a meaning."""
    found = NAMES.parse(stem)
    return found.stem == stem and found.row is None and not found.student


networks = letters.filter(lambda stem: stem[0].isalnum()).filter(is_plain)


@given(networks, seeds, st.booleans(), member_bits)
def test_a_network_is_read_back(stem, seed, int8, bits):
    found = NAMES.parse(compose(stem, seed, False, None, int8))
    assert (found.stem, found.seed, found.int8, found.row, found.student) == (stem, seed, int8, None, False)
    assert found.net == compose(stem, seed) == found.exported_from


@given(networks, seeds, st.sampled_from(ROWS), seeds, st.booleans(), member_bits, st.booleans())
def test_a_quantized_network_is_read_back(stem, net_seed, row, seed, ptq, bits, int8):
    net = compose(stem, net_seed)
    found = NAMES.parse(compose(f"{net}_{row}", seed, ptq, bits, int8))
    assert (found.net, found.row, found.seed, found.ptq, found.bits, found.int8) == (net, row, seed, ptq, bits, int8)
    assert found.whole == compose(f"{net}_{row}", seed, ptq) and found.start == f"{net}_{row}-ptq"
    assert NAMES.ancestry(found.name) == [net]


@given(networks.filter(lambda stem: "-" not in stem), st.sampled_from(LEVELS), seeds)
def test_a_student_is_read_back(teacher, row, seed):
    found = NAMES.parse(compose(f"student-{teacher}-{row}", seed))
    assert (found.teacher, found.level_row, found.seed, found.student) == (teacher, row, seed, True)
    assert found.net == found.name


@pytest.mark.parametrize("name, net, row", [
    ("my_net_kmqat4", "my_net", "kmqat4"), ("my_net", "my_net", None), ("speechbrain_ecapa", "speechbrain_ecapa", None),
    ("speechbrain_ecapa_kmqat4-r80-s2-ptq", "speechbrain_ecapa", "kmqat4-r80"), ("teacher_kmqat5", "teacher_kmqat5", None),
    ("teacher-s2_kmqat4-s3", "teacher-s2", "kmqat4"), ("small_float_kmqat4", "small_float", "kmqat4"),
    ("student-xvector-sp-aggr_kmqat4", "student-xvector-sp-aggr", "kmqat4"), ("_kmqat4", "_kmqat4", None),
    ("net-int8", "net", None), ("net_kmqat4-2bit-int8", "net", "kmqat4"), ("net-s02", "net-s02", None),
    ("net_ecapa-selective", "net", "ecapa-selective"), ("kmqat4", "kmqat4", None)])
def test_the_last_underscore_before_a_row_splits(name, net, row):
    found = NAMES.parse(name)
    assert (found.net, found.row) == (net, row)
    if row:
        assert not found.student


@pytest.mark.parametrize("name, teacher, row", [
    ("student", "teacher", None), ("student-s3", "teacher", None), ("student-labels", None, "labels"),
    ("student-labels-wide-s2", None, "labels-wide"), ("student-xvector-narrowBN-mn", "xvector", "narrowBN-mn"),
    ("student-big-net-sp-aggr", "big-net", "sp-aggr"), ("student-teacher-s2-utterance", "teacher-s2", "utterance"),
    ("student-xvector-mine", "xvector", None), ("student-big-net-mine", "big-net", None), ("student-xvector", "xvector", None)])
def test_what_a_student_learns_from(name, teacher, row):
    found = Names(NAMES.quant, NAMES.distill, {"big-net", "xvector"}.__contains__).parse(name)
    assert (found.teacher, found.level_row) == (teacher, row)


def test_a_student_that_can_be_read_in_two_ways():
    rows = frozenset({"mn", "two-mn"})
    with pytest.raises(UserError, match="of x by row two-mn or of x-two by row mn; call the row or the teacher something"):
        Names(frozenset(), rows).parse("student-x-two-mn")
    assert Names(frozenset(), rows, {"x-two"}.__contains__).parse("student-x-two-mn").teacher == "x-two"


def test_ancestry_and_what_stands_before_finetuning():
    assert NAMES.ancestry("small_float_kmqat4-int8") == ["small_float", "small"]
    assert NAMES.ancestry("small") == [] and NAMES.ancestry("small-int8") == ["small"]
    assert before_finetuning("a_x-ptq", ["a_x", "a_x-ptq"]) and not before_finetuning("a_x-ptq", ["a_x-ptq", "a"])


@pytest.mark.parametrize("path, name", [("dev/trials", "dev"), ("data/test/trials_all", "test_all"), ("far/test/trials", "test"),
                                        ("/a/b/../test/trials_O", "test_O")])
def test_names_of_trial_lists(path, name):
    assert list_name(path) == name


@pytest.mark.parametrize("path", ["test/pairs", "test/trials.txt", "test/trials_", "test/trials_a.bak", "test"])
def test_no_trial_list(path):
    with pytest.raises(UserError, match="called 'trials' or 'trials_<name>'"):
        list_name(path)


def test_rows_are_those_of_the_folder_or_of_the_repository(folder):
    assert "budget" in names_in_conf().quant and "two-mn" in names_in_conf().distill
    assert names_in_conf(str(folder / "conf")).quant == names_in_conf().quant
    assert names_in_conf(systems=["my_net"]).is_network("my_net") and not names_in_conf().is_network("my_net")
    shared = names_in_conf(str(folder))
    assert {"kmqat4", "float"} <= shared.quant and "budget" not in shared.quant and "narrowBN" in shared.distill
