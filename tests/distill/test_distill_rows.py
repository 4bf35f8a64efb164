"""The rows of conf/distill.yaml: they load, their levels exist in every teacher, their students have the paper's sizes."""

from pathlib import Path

import pytest

from svq import nets
from svq.config import load_config
from svq.config_files import row_tables
from svq.distill.levels import LevelOutputs, find_level
from svq.rows import row_names
from svq.train.config import AggregationTrainConfig, TrainConfig

CONF = Path(__file__).resolve().parents[2] / "egs" / "speechocean762" / "conf"
ROWS = row_names(row_tables(CONF / "students.yaml"))
TEACHERS = ("xvector", "etdnn", "ecapa", "dtdnn")


@pytest.fixture(scope="module")
def teachers():
    return {name: load_config(CONF / f"{name}.yaml", TrainConfig).model.build().eval() for name in TEACHERS}


def levels_of(row):
    distill = load_config(f"{CONF}/students.yaml:{row}", TrainConfig).distill
    return () if distill is None else distill.targets.levels


def test_single_levels_pairs_a_triple_four_and_labels():
    counts = sorted(len(levels_of(row)) for row in ROWS)
    assert {1, 2, 3, 4} < set(counts) and counts.count(0) == 2
    assert counts.count(1) == 5 + 4  # those with the mean taken off
    assert {levels_of(row)[0] for row in ROWS if len(levels_of(row)) == 1} == {
        "utterance", "narrowBN", "wideBN", "sp_aggr", "lde_aggr"}


@pytest.mark.parametrize("row", ROWS)
def test_size_beside_the_x_vector(row, teachers):
    config = load_config(f"{CONF}/students.yaml:{row}", TrainConfig)
    student = nets.num_parameters(config.model.build())
    smaller = 100 * (1 - student / nets.num_parameters(teachers["xvector"]))
    wide = len(levels_of(row)) > 1 or row == "labels-wide"
    assert (74.5 < smaller < 76) if wide else (85 <= smaller <= 91), smaller


@pytest.mark.parametrize("name", TEACHERS)
def test_every_level_of_every_teacher(name, teachers):
    texts = sorted({level for row in ROWS for level in levels_of(row)} - {"lde_aggr"}) + ["narrowBN:none"]
    net = teachers[name]
    outputs = LevelOutputs(net, [find_level(text, net) for text in texts], 80)
    import torch

    values = outputs(torch.randn(1, 40, 80))
    assert values["narrowBN"].shape[1] <= values["wideBN"].shape[1] < values["sp_aggr"].shape[1]
    assert {clock.stride for clock in outputs.clocks.values()} == {1}
    frames = outputs.frames(torch.randn(1, 40, 80), find_level("lde_aggr", net))
    assert frames.shape[1] * 2 == values["sp_aggr"].shape[1]


def test_the_dictionarys_config():
    config = load_config(CONF / "aggregation.yaml", AggregationTrainConfig)
    config.check_keys("aggregation.yaml")
    assert config.level == "lde_aggr"
