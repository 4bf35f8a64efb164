"""The table of teachers and students."""

import pytest

from svq.names import Names
from svq.report.markdown import student_tables, teacher_of
from svq.report.results import Row

GRAMMAR = Names(frozenset({"kmqat2", "kmqat4"}), frozenset({"labels", "labels-wide", "narrowBN", "sp-aggr", "utterance"}))
NAMES = {"teacher", "xvector", "xvector_kmqat2", "small_kmqat4", "student", "student_kmqat4", "student-labels",
         "student-xvector-narrowBN", "student-xvector-sp-aggr_kmqat2", "student-etdnn-utterance"}


@pytest.mark.parametrize("name, teacher", [
    ("xvector", None), ("xvector_kmqat2", "xvector"), ("student", "teacher"), ("student_kmqat4", "teacher"),
    ("student-xvector-narrowBN", "xvector"), ("student-xvector-sp-aggr_kmqat2", "xvector"),
    ("student-labels", "xvector"), ("student-labels-wide-s2_kmqat2", "xvector"), ("student-etdnn-utterance", None),
    ("small_kmqat4", None), ("xvector-int8", "xvector"), ("my_xvector", None)])
def test_what_a_system_is_measured_against(name, teacher):
    systems = NAMES - ({"student-etdnn-utterance"} if name.startswith("student-labels") else set())
    assert teacher_of(name, systems, GRAMMAR) == teacher


def row(system, backend="cosine", norm="none", eer=5.0, low=4.0, **changes):
    values = dict(system=system, trials="test", backend=backend, norm=norm, eer=eer, mindcf01=0.5, mindcf05=0.4,
                  cllr=0.2, avg_bits=32.0, size_bytes=4_000_000, params=1_000_000, mincllr=0.1, actdcf01=0.6, eer_low=low,
                  eer_high=6.0, num_target=1200, num_nontarget=30000)
    return Row(**{**values, **changes})


def test_table_says_how_much_smaller_each_student_is():
    rows = [row("xvector"), row("xvector", "plda", eer=3.25),
            row("student-xvector-utterance", eer=7.125, params=110_000, size_bytes=480_000),
            row("student-xvector-utterance_kmqat2", "plda", params=110_000, size_bytes=40_000, avg_bits=2.0,
                low=float("nan"))]
    lines = student_tables(rows, GRAMMAR).split("\n")
    assert lines[0] == "### Trials: test" and lines[2] == "1,200 target and 30,000 non-target trials."
    table = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[4:]]
    assert table[0][-6:] == ["cosine, none: EER (%)", "95 % interval", "minDCF(0.01)",
                             "plda, none: EER (%)", "95 % interval", "minDCF(0.01)"]
    assert table[2] == ["xvector", "1.000", "-", "32", "4.000", "-",
                        "5.00", "4.00 to 6.00", "0.500", "3.25", "4.00 to 6.00", "0.500"]
    assert table[3] == ["student-xvector-utterance", "0.110", "89.0 %", "32", "0.480", "88.0 %",
                        "7.12", "4.00 to 6.00", "0.500", "-", "-", "-"]
    assert table[4][3:] == ["2", "0.040", "99.0 %", "-", "-", "-", "5.00", "-", "0.500"]
