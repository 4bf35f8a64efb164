"""The papers' tables that are one command each: what it would do, and what RESULTS.md sets beside it."""

from __future__ import annotations

import re
import subprocess

import pytest
import torch

from svq.config import load_config
from svq.train.config import TrainConfig
from tests.recipes.conftest import ROOT

VOXCELEB = ROOT / "egs" / "voxceleb"
RESULTS = (VOXCELEB / "RESULTS.md").read_text()
TABLES = {"table_1": ("I", 4), "table_2": ("II", 3), "table_3": ("III", 32), "table_4": ("IV", 32), "table_5": ("V", 26)}
# Epochs, optimizer and weight decay of finetuning: Liu et al., section VI-C.
FINETUNING = {"teacher": (40, "sgd", 1e-4), "resnet101": (40, "sgd", 1e-4), "dfresnet110": (80, "adamw", 0.05),
              "dfresnet179": (80, "adamw", 0.05)}


def plan(tmp_path, *words, recipe="voxceleb", status=0) -> str:
    """What a table's command would do, in experiments and data directories that are not there."""
    command = ["bash", "local/table.sh", *words, "--dry-run", "true", "--exp", tmp_path / "exp", "--data", tmp_path / "data"]
    done = subprocess.run(command, cwd=ROOT / "egs" / recipe, text=True, capture_output=True)
    assert done.returncode == status, done.stderr
    return done.stdout.replace(f"{tmp_path}/", "") if status == 0 else done.stderr


def trained(told: str) -> dict[str, str]:
    """System -> the config that it would be trained with."""
    line = r"would make exp/([^/\s]+)/model.safetensors .*?: steps/train.sh .* (conf/\S+) data/train_wav exp/(\S+)"
    made = re.findall(line, told)
    assert all(name == folder for name, _, folder in made)
    return {name: config for name, config, _ in made}


def published(number: str) -> list[str]:
    """The systems of a table in RESULTS.md."""
    section = RESULTS.partition(f"\n## Table {number}:")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_liu_et_al_trains_its_rows_and_nothing_else(tmp_path, table):
    number, count = TABLES[table]
    told = plan(tmp_path, table, "--stop-stage", "5")
    made = trained(told)
    floats = set(FINETUNING) if table == "table_5" else set()  # what its rows are made from
    assert len(published(number)) == len(set(published(number))) == count - len(floats)
    assert made.keys() == {*published(number), *floats}
    for name, config in made.items():
        net, _, row = name.partition("_")
        if row:
            assert config.endswith(f":{row}")
            settings = load_config(VOXCELEB / config, TrainConfig)
            assert (settings.epochs, settings.optimizer.name, settings.optimizer.weight_decay) == FINETUNING[net]
            assert settings.augment is settings.spec_augment is settings.stage_epochs is None
        else:
            assert config == f"conf/{net}.yaml"


def test_the_scores_of_a_table_are_the_papers(tmp_path):
    told = plan(tmp_path, "table_2", "--stop-stage", "12")
    assert "--backends cosine --norms asnorm --top-n 600" in told and "plda" not in told.replace("--plda ", "").replace(
        "plda.safetensors", "")
    assert "exp/table_2/table.md" in told and "exp/table_2/quantization/teacher/index.html" in told
    assert "--title Mine" in plan(tmp_path, "table_2", "--title", "Mine", "--systems", "teacher")


def test_low_bits_in_and_out_of_the_domain(tmp_path):
    systems = {f"{net}{row}" for net in ("resnet36", "resnet200") for row in ("", "_kmqat4", "_kmqat3", "_kmqat2")}
    told = plan(tmp_path, "low_bit_errors")
    assert trained(told).keys() == systems
    for net in ("resnet36", "resnet200"):
        assert all(f"exp/low_bit_errors/{made}/index.html" in told for made in (
            f"analysis/{net}/scores", f"analysis/{net}/layers_kmqat2", f"analysis/{net}/layers_kmqat4-ptq"))
        assert f"exp/low_bit_errors/cascade/{net}_kmqat2-{net}/ladder.yaml" in told
        assert load_config(VOXCELEB / "conf" / f"{net}.yaml", TrainConfig).model.front_end.num_mels == 81
    lists = "dev/trials cnceleb/trials commonbench/trials voxtube/trials"
    told = plan(tmp_path, "low_bit_errors", "--commonbench", tmp_path, "--comparisons", tmp_path, "--voxtube", tmp_path,
                "--trials", lists, recipe="cnceleb")
    assert set(re.findall(r"exp/(\w+)/model.safetensors is missing: ../voxceleb/run.sh makes it", told)) == systems
    for name in ("cnceleb", "commonbench", "voxtube"):
        assert f"would make data/{name}/feats.scp" in told and f"exp/resnet200_kmqat2/embeddings/{name}/" in told
    assert "low_bit_errors/analysis/resnet36/scores" in told and "low_bit_errors/table.md" in told


def test_teachers_and_the_students_of_their_levels(tmp_path):
    told = plan(tmp_path, "teachers", "--stop-stage", "4")
    made = trained(told)
    nets = ["xvector", "etdnn", "ecapa", "dtdnn"]
    assert [name for name in made if "-" not in name] == nets and len(made) == 4 + 1 + 4 * 6
    for net in nets:
        assert f"exp/{net}/aggregation/aggregation.safetensors" in told
        assert made[f"student-{net}-utterance+narrowBN+sp-aggr+lde-aggr"].startswith("conf/students.yaml:")


def test_an_imported_ecapa_without_training(tmp_path):
    folder = tmp_path / "exp" / "speechbrain_ecapa"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("arch: ECAPASpeechBrain\n")
    (folder / "model.safetensors").touch()
    told = plan(tmp_path, "ptq", "speechbrain_ecapa", "--stop-stage", "5")
    assert not trained(told)
    for row in ("integer8", "selected8", "selective8", "integer3"):
        assert f"exp/speechbrain_ecapa_{row}-ptq/model.safetensors" in told
    assert "exp/speechbrain_ecapa-int8/model.xml" in told
    (folder / "config.yaml").write_text("arch: XVector\n")
    assert "selective8" not in plan(tmp_path, "ptq", "speechbrain_ecapa", "--stop-stage", "5")


def test_networks_that_a_recipe_does_not_have_are_one_line_each(tmp_path):
    error = plan(tmp_path, "table_4", recipe="speechocean762", status=2)
    assert "dfresnet110: there is no such network" in error
    error = plan(tmp_path, "table_3", "extra", status=2)
    assert error.startswith("run.sh: takes options only, not 'extra': put quotes") and error.count("\n") == 1


TRAININGS = [path for path in sorted(VOXCELEB.glob("conf/*.yaml")) if not path.stem.endswith(("quant", "aggregation", "search"))]


@pytest.mark.parametrize("conf", TRAININGS, ids=lambda path: path.stem)
def test_settings_fit_their_schema_and_build(conf):
    settings = load_config(conf, TrainConfig)
    if settings.model is not None:  # a finetuning takes the network that it starts from
        with torch.device("meta"):
            settings.model.build()
