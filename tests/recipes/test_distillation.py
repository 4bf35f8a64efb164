"""Students of a teacher's cached levels in the mini recipe, on the teacher of the shared run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from svq.config import load_config
from svq.config_files import row_tables
from svq.models import load_model
from svq.rows import row_names
from svq.train.config import TrainConfig
from tests import warm
from tests.recipes.conftest import ROOT, run_recipe

STUDENT = "student-teacher-layers"
SYSTEMS = f"teacher {STUDENT} student-labels {STUDENT}_kmqat4"
CONFS = sorted((ROOT / "egs").glob("*/conf/students.yaml"))
ROWS = [f"{conf}:{row}" for conf in CONFS for row in row_names(row_tables(conf))]


@pytest.fixture(scope="module")
def levels(mini) -> Path:
    """The folder of the teacher's levels, after stages 4 and 5."""
    run_recipe("mini", *mini[0].options, "--systems", SYSTEMS, "--stage", 4, "--stop-stage", 5, **warm.environment())
    return mini[0].exp / "teacher" / "levels" / "train"


def test_students_learn_from_every_kind_of_level(mini, levels):
    about = {path.stem: json.loads(path.read_text()) for path in levels.glob("*.json")}
    assert {name: info["pool"] for name, info in about.items()} == {
        "utterance": "none", "layers.5-stats": "stats", "layers.2+layers.3-lde": "lde"}
    assert len({info["utterances"] for info in about.values()}) == 1
    config = mini[0].exp / STUDENT / "provenance.yaml"
    assert "layers.5:stats" in config.read_text()
    for system in SYSTEMS.split()[1:]:
        net, model = load_model(mini[0].exp / system)
        assert model.arch == "FCStudent" and not any("projection" in name for name in net.state_dict())


def test_run_again_redoes_nothing(mini, levels):
    said = run_recipe("mini", *mini[0].options, "--systems", SYSTEMS, "--stage", 4, "--stop-stage", 5)
    assert "0 made" in said


def test_another_row_leaves_the_levels_as_they_are(mini, levels):
    table = mini[0].folder / "conf" / "distill.yaml"
    rows = table.read_text()
    table.write_text(rows + "one: {distill: {targets: {levels: [utterance]}}}\n")
    before = (levels / "utterance.json").stat().st_mtime_ns
    options = ("--systems", SYSTEMS + " student-teacher-one-s2", "--stage", 4, "--stop-stage", 4)
    try:
        said = run_recipe("mini", *mini[0].options, *options, **warm.environment())
    finally:
        table.write_text(rows)
    assert "make" in said and (levels / "utterance.json").stat().st_mtime_ns == before
    assert f"skip {mini[0].exp / STUDENT}/model.safetensors" in said  # the students of before are up to date
    assert "seed: 2" in (mini[0].exp / "student-teacher-one-s2" / "provenance.yaml").read_text()


def test_student_of_a_teacher_that_is_not_there_is_one_line(mini):
    said = run_recipe("mini", *mini[0].options, "--systems", "student-nobody-layers", "--stage", 4, status=2)
    assert "nobody/model.safetensors" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("path", ROWS, ids=lambda path: str(Path(path).relative_to(ROOT / "egs")))
def test_row_says_what_its_name_says(path):
    config = load_config(path, TrainConfig)
    row = path.rpartition(":")[2]
    assert config.model.arch == "FCStudent"
    if row.startswith("labels"):
        assert config.distill is None
    elif row != "layers":
        levels = [level.replace("_", "-") for level in config.distill.targets.levels]
        assert levels == row.removesuffix("-mn").split("+")
        assert config.distill.targets.mean_normalize == row.endswith("-mn")
