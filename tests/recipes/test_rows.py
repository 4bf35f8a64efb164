"""The rows of conf/quant.yaml and of the recipes' own, and the scripts that put them side by side."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

import pytest

from svq.analysis.layer_subjects import parts_of
from svq.config import load_config
from svq.config_files import row_tables
from svq.network import ModelConfig
from svq.quant.api import quantizable
from svq.rows import row_names
from svq.train.config import TrainConfig
from tests.recipes.conftest import ROOT

CONFS = sorted((ROOT / "egs").glob("*/conf/**/finetune.yaml"))
ROWS = {conf: row_names(row_tables(conf)) for conf in CONFS}
OWN = {"mini": set(), "voxceleb": {"mixed2-converged"},
       "speechocean762": {"mixed2-converged", "float-long", "kmqat1-long", "kmqat2-conv1", "kmqat2-stage1", "kmqat2-stage2", "kmqat2-stage3",
                          "kmqat2-stage4", "kmqat2-embedding"}}
LEFT_IN_FLOAT = {"conv1": "conv1", "embedding": "embedding", "stage1": "layers.[01].*", "stage2": "layers.[23].*",
                 "stage3": "layers.[45].*", "stage4": "layers.[67].*"}


def label(conf):
    return str(conf.parent.relative_to(ROOT / "egs"))


@pytest.mark.parametrize("conf", CONFS, ids=label)
def test_recipes_share_rows_and_may_have_their_own(conf):
    shared = row_names([str(ROOT / "conf" / "quant.yaml")])
    assert set(ROWS[conf]) == {*shared, *OWN[conf.relative_to(ROOT / "egs").parts[0]]}


@pytest.mark.parametrize("conf, row", [pytest.param(conf, row, id=f"{label(conf)}:{row}") for conf in CONFS
                                       for row in ROWS[conf]])
def test_row_says_what_its_name_says(conf, row):
    config = load_config(f"{conf}:{row}", TrainConfig)
    method, bits = re.match(r"([a-z]+?)(?:(\d[\d.]*))?(?:-.*)?$", row).groups()
    if method == "float":
        whole = load_config(conf, TrainConfig)
        assert config == (replace(whole, epochs=4) if row == "float-long" else whole) and config.quant is None
        return
    bits = float(bits or {"twn": 2}.get(method, 1))
    if method in ("mixed", "best") and config.allocate:
        assert config.quant.method == "kmqat" and config.allocate.average_bits == bits
        assert config.allocate.ordered == (method == "mixed" and row != "mixed2-exact")
    else:
        named = {"best": "adaptive", "selected": "integer", "selective": "integer", "nested": "nested",
                 "calibrated": "kmqat"}.get(method, method)
        assert config.quant.method == named and config.quant.bits == bits
    integer = config.quant.method == "integer"
    assert config.quant.per_channel == integer
    assert (config.quant.scheme == "affine") == (integer and bits < 6)
    assert (config.quant.binary == "adaptive") == (row in ("best2", "best3", "best4", "calibrated1"))
    assert (config.select is not None) == (method in ("selected", "selective"))
    assert (config.distill is not None) == (method in ("best", "calibrated") or row.endswith("-distil"))
    assert (config.ptq is not None) == (integer or method == "calibrated")
    if integer:
        assert config.ptq.bias_correction and (config.ptq.utterances == 16) == ("mini" in conf.parts)
    if method == "calibrated":
        assert config.ptq.calibrate and config.distill.without_labels and config.freeze_batch_norm
    variant = row.partition("-")[2]
    if variant in ("width", "count"):
        assert config.quant.partition == variant and config.quant.retention is None
    assert config.quant.retention == {"r100": 1.0, "r80": 0.8}.get(variant)
    assert config.quant.layers == ({LEFT_IN_FLOAT[variant]: 32} if variant in LEFT_IN_FLOAT else None)
    assert config.multi_stage == (method == "mixed" and "onestage" not in row)
    of_a_row = load_config(conf, TrainConfig).epochs
    assert config.stage_epochs == ((of_a_row,) if row.endswith("-converged") else None)
    if config.multi_stage:  # a stage for each bit width, an epoch at least for each stage
        assert config.stage_epochs or config.epochs >= len(config.allocate.candidates)


@pytest.mark.parametrize("conf", CONFS, ids=label)
def test_rows_are_finetuned_alike(conf):
    """Same data, schedule and length for every row, so that a difference is the quantizer's. Calibrated rows, which start
    near where they end, have rates of their own; mixed ones, which take stages, may have more epochs, all as many, and so
    have the rows that they are compared with (-long)."""
    configs = {row: load_config(f"{conf}:{row}", TrainConfig) for row in ROWS[conf] if not row.startswith("calibrated")}
    assert len({(config.data, config.schedule, config.optimizer, config.batch_size, config.augment)
                for config in configs.values()}) == 1
    epochs = {mixed: {config.epochs for row, config in configs.items() if (row.startswith("mixed") or row.endswith("-long")) == mixed}
              for mixed in (False, True)}
    assert len(epochs[False]) == 1 and len(epochs[True]) <= 1


@pytest.fixture
def recipe(tmp_path):
    """A recipe's folder whose run.sh says how it was called."""
    for name in ("local", "steps", "utils", "path.sh"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "conf").mkdir()
    (tmp_path / "run.sh").write_text("""printf '%s\\n' "$@" > called
""")
    return tmp_path


def call(recipe, *command, status=0):
    done = subprocess.run(["bash", *command], cwd=recipe, text=True, capture_output=True)
    assert done.returncode == status, done.stderr
    return (recipe / "called").read_text().splitlines() if status == 0 else done.stderr


@pytest.mark.parametrize("table, row", [("retention", "kmqat4-r80"), ("rescaling", "kmqat4-asymmetric"),
                                        ("mixed", "mixed2-onestage"), ("quantization", "mixed2-ptq"),
                                        ("quantization", "float"), ("ptq", "selected8-ptq"), ("stages", "kmqat2")])
def test_tables_run_rows_that_there_are(recipe, table, row):
    options = call(recipe, "local/table.sh", table, "net", "--exp", "somewhere", "--nj", "3")
    assert options[2:] == ["--table", f"{table}_net", "--exp", "somewhere", "--nj", "3"]
    systems = options[options.index("--systems") + 1].split()
    assert systems[0] == "net" and f"net_{row}" in systems and len(set(systems)) == len(systems)
    rows = {system.removeprefix("net_").removesuffix("-ptq") for system in systems[1:] if system != "net-int8"}
    for folder in ("speechocean762",) if table == "stages" else ("speechocean762", "voxceleb"):
        assert rows <= set(ROWS[ROOT / "egs" / folder / "conf" / "finetune.yaml"])


def test_tables_of_a_paper_have_their_networks_and_scores(recipe):
    options = call(recipe, "local/table.sh", "table_5", "--nj", "3")
    scored = ["--backends", "cosine", "--norms", "asnorm", "--top-n", "600", "--trials", "dev/trials vox1/trials_H", "--nj", "3"]
    assert options[0] == "--systems" and options[2:] == ["--table", "table_5", *scored]
    names = options[1].split()
    assert {"dfresnet179_mixed2", "teacher_admm6", "fastresnet34"} < set(names) and len(set(names)) == len(names) == 26
    alone = call(recipe, "local/table.sh", "teachers")
    assert len(alone) == 4 and alone[2:] == ["--table", "teachers"]


def test_systems_of_ones_own_make_a_table_too(recipe):
    assert call(recipe, "local/table.sh", "low", "net net_kmqat2") == ["--systems", "net net_kmqat2", "--table", "low"]


def test_stages_left_in_float_are_those_of_a_resnet18(recipe):
    options = call(recipe, "local/table.sh", "stages", "net")
    systems = options[options.index("--systems") + 1].split()
    assert systems[:3] == ["net", "net_float", "net_kmqat2"] and len(systems) == 9
    (recipe / "conf" / "net.yaml").write_text("model:\n  arch: ResNet34\n")
    assert "conf/net.yaml is no ResNet18" in call(recipe, "local/table.sh", "stages", "net", status=2)
    net = ModelConfig("ResNet18", {"width": 2}, 8).build()
    for system, stage in zip(systems[3:], parts_of(net, "stage"), strict=True):
        conf = ROOT / "egs" / "speechocean762" / "conf" / "finetune.yaml"
        quant = load_config(f"{conf}:{system.removeprefix('net_')}", TrainConfig).quant
        assert tuple(name for name, _ in quantizable(net) if quant.bits_of(name) == 32) == stage.layers


def test_table_without_training_has_the_papers_choice_for_its_network(recipe):
    (recipe / "conf" / "net.yaml").write_text("model:\n  arch: ECAPA512\n")
    options = call(recipe, "local/table.sh", "ptq", "net")
    assert "net_selective8-ptq" in options[options.index("--systems") + 1].split()


def test_table_of_distillation_runs_rows_that_there_are(recipe):
    options = call(recipe, "local/table.sh", "distillation", "xvector")
    systems = options[options.index("--systems") + 1].split()
    assert systems[:3] == ["xvector", "student-labels", "student-labels-wide"] and len(set(systems)) == len(systems)
    for folder in ("speechocean762", "voxceleb"):
        for system in systems[1:]:
            row = system.removeprefix("student-").removeprefix("xvector-").split("_")[0]
            assert row in row_names(row_tables(ROOT / "egs" / folder / "conf" / "students.yaml")), system


@pytest.mark.parametrize("command, told", [((), "needs <table>"), (("name",), "needs <table>"), (("a/b", "systems"), "needs <table>"),
                                           (("quantization", "--nj", "3"), "needs <table>")])
def test_bad_calls_are_one_line(recipe, command, told):
    error = call(recipe, "local/table.sh", *command, status=2)
    assert told in error and len(error.splitlines()) == 1


def test_help_lists_the_tables():
    told = subprocess.run(["bash", ROOT / "local" / "table.sh", "--help"], text=True, capture_output=True, check=True).stdout
    assert "quantization  tables III and V" in told and told.startswith("Runs the systems of a table") and "set -" not in told
