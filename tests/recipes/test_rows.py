"""The rows of conf/quant, and the scripts that put them side by side."""

from __future__ import annotations

import re
import subprocess

import pytest

from svq.analysis.layer_parts import parts_of
from svq.config import load_config
from svq.network import ModelConfig
from svq.quant.api import quantizable
from svq.train.config import TrainConfig
from tests.recipes.conftest import ROOT
from tests.report.quantized import write_exp

CONFS = sorted({path.parent for path in (ROOT / "egs").glob("*/conf/**/quant/*.yaml")})
ROWS = [pytest.param(path, id=str(path.relative_to(ROOT / "egs"))) for conf in CONFS for path in sorted(conf.glob("*.yaml"))]


@pytest.mark.parametrize("path", ROWS)
def test_row_says_what_its_name_says(path):
    config = load_config(path, TrainConfig)
    method, bits = re.match(r"([a-z]+?)(?:(\d[\d.]*))?(?:-.*)?$", path.stem).groups()
    if method == "float":
        assert config.quant is None
        return
    bits = float(bits or {"twn": 2}.get(method, 1))
    if method in ("mixed", "best") and config.allocate:
        assert config.quant.method == "kmqat" and config.allocate.average_bits == bits
    else:
        named = {"best": "adaptive", "selected": "integer", "selective": "integer",
                 "calibrated": "kmqat"}.get(method, method)
        assert config.quant.method == named and config.quant.bits == bits
    assert (config.select is not None) == (method in ("selected", "selective"))
    assert (config.distill is not None) == (method in ("best", "calibrated") or path.stem.endswith("-distil"))
    if method == "calibrated":
        assert config.ptq.calibrate and config.distill.without_labels
    if path.stem.rpartition("-")[2] in ("width", "count"):
        assert config.quant.partition == path.stem.rpartition("-")[2] and config.quant.retention is None
    assert config.multi_stage == (method == "mixed" and "onestage" not in path.stem)
    of_a_row = load_config(path.with_name("float.yaml"), TrainConfig).epochs
    assert config.stage_epochs == ((of_a_row,) if path.stem.endswith("-converged") else None)
    if config.multi_stage:  # a stage for each bit width, an epoch at least for each stage
        assert config.stage_epochs or config.epochs >= len(config.allocate.candidates)


@pytest.mark.parametrize("conf", CONFS, ids=lambda conf: str(conf.relative_to(ROOT / "egs")))
def test_rows_are_finetuned_alike(conf):
    """Same data, schedule and length for every row, so that a difference is the quantizer's. Calibrated rows, which start
    near where they end, have rates of their own; mixed ones, which take stages, may have more epochs, all as many."""
    def finetuning(path):
        config = load_config(path, TrainConfig)
        return config.data, config.schedule, config.optimizer, config.batch_size, config.augment

    paths = [path for path in conf.glob("*.yaml") if not path.stem.startswith("calibrated")]
    assert len({finetuning(path) for path in paths}) == 1
    epochs = {mixed: {load_config(path, TrainConfig).epochs for path in paths if path.stem.startswith("mixed") == mixed}
              for mixed in (False, True)}
    assert len(epochs[False]) == 1 and len(epochs[True]) <= 1


@pytest.fixture
def recipe(tmp_path):
    """A recipe's folder whose run.sh says how it was called, and reports on what is in exp, if anything."""
    for name in ("local", "steps", "utils", "path.sh"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "quant").symlink_to(ROOT / "egs" / "speechocean762" / "conf" / "quant")
    (tmp_path / "run.sh").write_text("""printf '%s\\n' "$@" > called
while (($#)); do
  if [[ $1 == --report && -e exp/results.tsv ]]; then mkdir -p "$2"; cp exp/results.tsv "$2"; fi
  shift
done
""")
    return tmp_path


def call(recipe, *command, status=0):
    done = subprocess.run(["bash", *command], cwd=recipe, text=True, capture_output=True)
    assert done.returncode == status, done.stderr
    return (recipe / "called").read_text().splitlines() if status == 0 else done.stderr


@pytest.mark.parametrize("script, name, row", [("ablation_retention", "ablation_retention_net", "kmqat4-r80"),
                                               ("ablation_rescaling", "ablation_rescaling_net", "kmqat4-asymmetric"),
                                               ("ablation_mixed", "ablation_mixed_net", "mixed2-onestage"),
                                               ("table_quantization", "quantization_net", "mixed2-ptq"),
                                               ("table_ptq", "ptq_net", "selected8-ptq")])
def test_tables_run_rows_that_there_are(recipe, script, name, row):
    options = call(recipe, f"local/{script}.sh", "net", "--exp", "somewhere", "--nj", "3")
    assert options[options.index("--report") + 1] == f"somewhere/{name}" and options[-2:] == ["--nj", "3"]
    systems = options[options.index("--systems") + 1].split()
    assert systems[0] == "net" and f"net_{row}" in systems and len(set(systems)) == len(systems)
    for folder in ("speechocean762", "voxceleb"):
        for system in systems[1:]:
            if system == "net-int8":
                continue
            config = ROOT / "egs" / folder / "conf" / "quant" / (system.removeprefix("net_").removesuffix("-ptq") + ".yaml")
            assert config.exists(), config


def test_stages_left_in_float_are_those_of_a_resnet18(recipe):
    options = call(recipe, "local/ablation_stages.sh", "net")
    systems = options[options.index("--systems") + 1].split()
    assert systems[:3] == ["net", "net_float", "net_kmqat2"] and len(systems) == 9
    (recipe / "conf" / "net.yaml").write_text("model:\n  arch: ResNet34\n")
    assert "conf/net.yaml is no ResNet18" in call(recipe, "local/ablation_stages.sh", "net", status=2)
    net = ModelConfig("ResNet18", {"width": 2}, 8).build()
    for system, stage in zip(systems[3:], parts_of(net, "stage"), strict=True):
        row = ROOT / "egs" / "speechocean762" / "conf" / "quant" / f"{system.removeprefix('net_')}.yaml"
        quant = load_config(row, TrainConfig).quant
        assert tuple(name for name, _ in quantizable(net) if quant.bits_of(name) == 32) == stage.layers


def test_table_without_training_has_the_papers_choice_for_its_network(recipe):
    (recipe / "conf" / "net.yaml").write_text("model:\n  arch: ECAPA512\n")
    options = call(recipe, "local/table_ptq.sh", "net")
    assert "net_selective8-ptq" in options[options.index("--systems") + 1].split()


@pytest.mark.parametrize("options", [("--conf", ROOT / "egs/mini/conf"), (f"--conf={ROOT}/egs/mini/conf",)])
def test_table_without_training_leaves_out_rows_that_there_are_not(recipe, options):
    said = call(recipe, "local/table_ptq.sh", "net", *map(str, options))
    assert said[said.index("--systems") + 1] == "net net-int8 net_integer8-ptq net_selected8-ptq"


def test_table_of_distillation_runs_rows_that_there_are(recipe):
    options = call(recipe, "local/table_distillation.sh", "xvector")
    systems = options[options.index("--systems") + 1].split()
    assert systems[:3] == ["xvector", "student-labels", "student-labels-wide"] and len(set(systems)) == len(systems)
    for folder in ("speechocean762", "voxceleb"):
        for system in systems[1:]:
            row = system.removeprefix("student-").removeprefix("xvector-").split("_")[0]
            assert (ROOT / "egs" / folder / "conf" / "distill" / f"{row}.yaml").exists(), system


def test_table_has_the_columns_of_the_paper(recipe):
    write_exp(recipe)
    call(recipe, "local/table.sh", "low", "small small_kmqat2", "--dry-run")
    assert sorted(path.name for path in (recipe / "exp" / "low").iterdir()) == ["results.tsv"]
    call(recipe, "local/table.sh", "low", "small small_kmqat2")
    table = (recipe / "exp" / "low" / "table.md").read_text()
    assert "| small_kmqat2 |" in table or "KMQAT" in table
    assert "booktabs" in (recipe / "exp" / "low" / "table.tex").read_text()


@pytest.mark.parametrize("command, told", [
    (("local/table.sh", "name"), "needs <name>"),
    (("local/table.sh", "a/b", "systems"), "needs <name>"),
    (("local/table_quantization.sh",), "float system"),
    (("local/table_distillation.sh", "--nj", "3"), "name of the teacher"),
    (("local/ablation_retention.sh", "--nj", "3"), "float system"),
    (("local/ablation_stages.sh", "--nj", "3"), "float system"),
    (("local/table_ptq.sh", "--nj", "3"), "float system"),
])
def test_bad_calls_are_one_line(recipe, command, told):
    error = call(recipe, *command, status=2)
    assert told in error and len(error.splitlines()) == 1
