"""docs/scale.md has the tables that its command makes, and the model behind them does what it says."""

import dataclasses
import math
import re
import sys

import pytest

from tests.conftest import ROOT

sys.path.append(str(ROOT / "tests" / "bench"))
import cost  # noqa: E402

PIECES = cost.Pieces()
PAGE = (ROOT / "docs" / "scale.md").read_text()


def test_the_page_has_the_tables_of_its_command():
    assert cost.put_into(PAGE, cost.tables(PIECES)) == PAGE


def test_marks_are_there_once():
    for text in ("", cost.BEGIN, f"{cost.BEGIN}{cost.BEGIN}{cost.END}"):
        with pytest.raises(ValueError):
            cost.put_into(text, "made")
    assert cost.put_into(f"a\n{cost.BEGIN}\nold\n{cost.END}\nb\n", "new") == f"a\n{cost.BEGIN}\nnew\n{cost.END}\nb\n"


def test_systems_are_those_of_the_published_tables():
    results = (ROOT / "egs" / "voxceleb" / "RESULTS.md").read_text()
    for name, table in cost.TABLES.items():
        section = re.search(rf"^## Table {name}: .*?(?=^## )", results, re.MULTILINE | re.DOTALL)[0]
        published = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
        assert published <= {system.name for system in cost.systems_of(table)}, name


def test_every_method_has_a_factor_and_they_are_those_of_the_bench():
    methods = {cost.settings(system.net, system.row).quant.method for table in cost.TABLES.values()
               for system in cost.systems_of(table) if system.row}
    assert methods <= set(cost.QAT)
    line = next(line for line in (ROOT / "tests" / "bench" / "README.md").read_text().splitlines() if "codebook for each channel, batch 8" in line)
    measured = {}
    for method, value in re.findall(r"([a-z]+)[0-9]* ([0-9]\.[0-9]+)", line.rpartition("|")[0].rpartition("|")[2]):
        measured.setdefault(method, []).append(float(value))
    for method, factor in cost.QAT.items():
        values = measured[method]
        assert min(values) - 0.005 <= factor <= max(values) + 0.005, method


def test_hours_and_bytes_of_one_system_by_hand():
    teacher = cost.System("teacher", "teacher", None)
    flops, parameters, dim = cost.network("teacher")
    assert round(parameters / 1e6, 2) == 6.63 and dim == 256
    forward = 200 * flops + 2 * 256 * 17_982
    assert cost.training_hours(teacher, PIECES) == pytest.approx(50 * 3 * 1_092_009 * 3 * forward / (0.097 * 312e12) / 3600)
    assert cost.bytes_read(teacher, PIECES) == pytest.approx(50 * 3 * 2_364 * 3600 * 17_700 + 2_782 * 3600 * 100 * 160)
    small = cost.System("ecapalite", "ecapalite", None)  # it waits for its loaders
    assert cost.training_hours(small, PIECES) == pytest.approx(50 * 3 * 1_092_009 / 3200 / 3600)
    assert cost.epochs(cost.System("dfresnet110_mixed2", "dfresnet110", "mixed2")) == 80
    ten = dataclasses.replace(PIECES, utterances=10 * PIECES.utterances, hours=10 * PIECES.hours)
    assert cost.training_hours(teacher, ten) == pytest.approx(10 * cost.training_hours(teacher, PIECES))


def test_the_share_that_a_gpu_reaches_is_half_of_what_the_source_says():
    forward = 2 * 4.09e9  # FLOPs of ResNet-50 on an image of 224 x 224
    assert PIECES.share == pytest.approx(0.5 * 2470 * 3 * forward / 312e12, abs=5e-4)
    assert PIECES.float_share == pytest.approx(0.5 * 367 * 3 * forward / 15.7e12, abs=5e-4)
    assert PIECES.spread == pytest.approx(16621 / 2470 / 8, abs=5e-3)


@pytest.mark.parametrize("hours, gpus, expected", [
    ([], 8, 0), ([5, 3, 2], 1, 10), ([5, 3, 2], 2, 5), ([4, 4, 4], 2, 8), ([8], 8, 8 / 6.72), ([8], 64, 8 / 6.72),
    ([8, 8], 8, 8 / 3.36), ([6, 1, 1, 1], 4, 6)])
def test_jobs_share_the_gpus(hours, gpus, expected):
    found = cost.wall(hours, gpus, PIECES)
    assert found == pytest.approx(expected)
    assert found >= sum(hours) / gpus or math.isclose(found, sum(hours) / gpus)
