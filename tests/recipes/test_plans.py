"""What run.sh would do with settings of all shapes: the lines of its dry run. Nothing is trained."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.recipes.conftest import ROOT

ROWS = """float:
grid: {quant: {method: integer, bits: 8}, ptq: {bias_correction: true, utterances: 8}}
budget: {base: grid, select: {max_eer_loss: 0.1, search: greedy}}
plain: {base: budget, select: null, ptq: null}
paper: {base: grid, select: {preset: ecapa-selective}}
speech: {quant: {method: kmqat, bits: 2}, ptq: {calibrate: true}, distill: {label_weight: 0}}
shared:
  base: speech
  allocate:
    average_bits: 2
nest: {quant: {method: nested, bits: 4, precisions: [2, 4]}}
"""
LEVELS = "first: {distill: {targets: {levels: [utterance]}}}\nsecond: {distill: {targets: {levels: [lde_aggr, utterance]}}}\n"


@pytest.fixture
def planned(tmp_path):
    """Runs run.sh --dry-run with these systems; returns what it would make, path -> command, and what it printed."""
    for name in ("local", "steps", "utils", "path.sh", "cmd.sh"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "run.sh").write_text((ROOT / "egs" / "mini" / "run.sh").read_text())
    conf = tmp_path / "conf"
    conf.mkdir()
    for name, text in {"quant": ROWS, "distill": LEVELS, "finetune": "rows: quant.yaml\ndata: {input: wav}\nepochs: 1\n",
                       "students": "rows: distill.yaml\nmodel: {arch: FCStudent}\n", "aggregation": "level: lde_aggr\n",
                       "net": "epochs: 1\n", "other": "epochs: 1\n", "search": "trials: 3\n"}.items():
        (conf / f"{name}.yaml").write_text(text)

    def run(systems, *options, status=0):
        command = ["bash", "run.sh", "--dry-run", "--systems", systems, "--analysis", "", "--ladders", "",
                   "--search-row", "grid", *options]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == status, done.stderr
        if status:
            return done.stderr
        made = re.findall(r"would make (\S+) \(.*?\): (.*)", done.stdout)
        run.said = done.stdout
        return dict(made)

    return run


def test_systems_of_one_row_share_a_table_of_blocks(planned):
    made = planned("net net_budget net_budget-ptq net_budget-s2 net_paper-ptq")
    blocks = [path for path in made if path.endswith("blocks.tsv")]
    assert blocks == ["exp/net/blocks_budget/blocks.tsv"] and "--ptq-data data/cohort" in made[blocks[0]]
    for system in ("net_budget", "net_budget-ptq", "net_budget-s2"):
        assert f"exp/net/blocks_budget exp/{system}/bits.tsv" in made[f"exp/{system}/bits.tsv"]
    assert "exp/net exp/net_paper-ptq/bits.tsv" in made["exp/net_paper-ptq/bits.tsv"]


def test_a_part_that_a_row_drops_is_not_done(planned):
    made = planned("net net_plain net_grid")
    assert not any(path.endswith(("bits.tsv", "blocks.tsv")) for path in made)
    assert made["exp/net_plain/model.safetensors"].startswith("steps/train.sh")


def test_calibrated_systems_are_finetuned_from_where_they_are(planned):
    """Once for all seeds, whether or not it is a system of its own; with the bits of theirs."""
    made = planned("net net_speech net_speech-s2 net_shared net_grid-ptq net_plain")
    for name in ("net_speech-ptq", "net_shared-ptq", "net_grid-ptq"):
        command = made[f"exp/{name}/model.safetensors"]
        assert command.startswith("steps/quantize.sh") and "--data data/cohort" in command
    for name, seed in (("net_speech", ""), ("net_speech-s2", "2")):
        command = made[f"exp/{name}/model.safetensors"]
        assert command.startswith("steps/train.sh") and f"--seed {seed}" in command
        assert "--init exp/net_speech-ptq" in command and "--teacher exp/net " in command
        assert f"conf/finetune.yaml:speech data/train exp/{name}" in command
    for name in ("net_shared-ptq", "net_shared"):
        assert "--bits exp/net_shared/bits.tsv" in made[f"exp/{name}/model.safetensors"]
    assert "--init exp/net " in made["exp/net_plain/model.safetensors"]
    order = [path for path in made if path.endswith("model.safetensors")]
    assert order.index("exp/net_speech-ptq/model.safetensors") < order.index("exp/net_speech/model.safetensors")


@pytest.mark.parametrize("runtime, suffix", [("openvino", "xml"), ("onnxruntime", "onnx")])
def test_an_exported_system_is_run_by_its_file(planned, runtime, suffix):
    made = planned("net net-int8", "--int8-runtime", runtime, "--num-gpus", "2")
    assert f"exp/net exp/net-int8/model.{suffix}" in made[f"exp/net-int8/model.{suffix}"]
    assert "--device cpu" in made["exp/net-int8/embeddings/dev/embedding.scp"]
    assert "--device cuda" in made["exp/net/embeddings/dev/embedding.scp"]
    assert "exp/net-int8/summary.json" not in made and "exp/net/summary.json" in made


def test_with_gpus_all_that_computes_networks_takes_one(planned):
    """But for systems of which only the weights are looked at."""
    made = planned("net net_speech net_grid-ptq student-net-first", "--num-gpus", "2", "--ladders", "net_speech:net",
                   "--analysis", "net", "--analysis-rows", "speech")
    steps = ("sensitivity", "block_sensitivity", "quantize", "teacher_embeddings", "extract", "layer_analysis", "cascade")
    found = {step: [command for command in made.values() if command.startswith(f"steps/{step}.sh")] for step in steps}
    assert all("--device cuda" in command for commands in found.values() for command in commands)
    for step in ("quantize", "teacher_embeddings", "extract", "layer_analysis", "cascade"):
        assert found[step], step
    cpu = planned("net net_speech net_grid-ptq student-net-first", "--ladders", "net_speech:net")
    assert not any("cuda" in command.replace("cuda_cmd", "") for command in cpu.values())


def test_members_are_taken_of_the_whole(planned):
    made = planned("net net_nest net_nest-2bit")
    assert made["exp/net_nest-2bit/model.safetensors"].endswith("at_precision.sh --cmd run.py exp/net_nest 2")
    assert "--calibration exp/net_nest-2bit/scores/dev/cosine_none" in made["exp/net_nest-2bit/summary.json"]


def test_levels_of_a_teacher_are_cached_once_for_its_students(planned):
    made = planned("net student-net-first student-net-second")
    cached = [command for path, command in made.items() if "/levels/" in path]
    assert len(cached) == 1 and "--aggregation exp/net/aggregation" in cached[0]
    assert "exp/net/aggregation/aggregation.safetensors" in made
    assert "--targets exp/net/levels/train" in made["exp/student-net-first/model.safetensors"]


@pytest.mark.parametrize("force", [False, True])
def test_search_starts_anew_where_its_inputs_changed(planned, force):
    made = planned("net net_speech", "--search", "net", "--search-row", "speech", *(["--force"] if force else []))
    searched, traded = made["exp/net/search/trials.tsv"], made["exp/net/search/report/index.html"]
    assert "--restart true" in searched and "--teacher exp/net " in searched and "conf/finetune.yaml:speech" in searched
    assert "net=exp/net net_speech=exp/net_speech best=exp/net/search/best" in traded


def test_analysis_compares_with_the_float_system_of_the_same_finetuning(planned):
    made = planned("net net_float net_grid net_grid-int8 other other_grid", "--analysis", "net", "--analysis-rows", "grid")
    assert made["exp/analysis/net/scores/index.html"].endswith(" net_float net_grid net_grid-int8")
    assert "--model exp/net --config conf/finetune.yaml:grid" in made["exp/analysis/net/layers_grid-ptq/index.html"]
    assert "--model exp/net_float --quantized exp/net_grid" in made["exp/analysis/net/layers_grid/index.html"]
    planned("net net_grid", "--analysis", "other")
    assert "leave out the analysis of other" in planned.said


def test_cascades_of_systems_that_are_there(planned):
    ladders = "net_nest-2bit:net_nest:net net_grid:other"
    made = planned("net net_nest net_nest-2bit net_grid", "--ladders", ladders, "--cascade-run", "true")
    folder = "exp/cascade/net_nest-2bit-net_nest-net"
    assert made[f"{folder}/systems.yaml"].endswith(f"{folder}/systems.yaml net_nest-2bit net_nest net")
    command = made[f"{folder}/ladder.yaml"]
    assert command.endswith(f"data/dev/trials {folder} data/test/trials data/test/trials_all")
    assert "--run true --run-trials data/test/trials_live" in command
    assert "--name live --once true --max-tests 2000" in made["data/test/trials_live"]
    assert "leave out the cascade net_grid:other" in planned.said
    assert "exp/cascade/net_grid-other/systems.yaml" not in made


def test_a_row_by_hand_has_its_bits_taken(planned, tmp_path):
    (tmp_path / "conf" / "shared.bits.tsv").write_text("layer\tbits\n")
    made = planned("net net_shared", "--stage", "0")
    assert "--bits conf/shared.bits.tsv" in made["exp/net_shared/model.safetensors"]
    assert "exp/net_shared/bits.tsv" not in made and "exp/net/sensitivity.tsv" not in made


@pytest.mark.parametrize("options, told", [
    (("--systems", "net net_gird"), "grid"), (("--nj", "0"), "--nj"), (("--top-n", "-5"), "--top-n"),
    (("--norms", "snorn"), "snorm"), (("--systems", "net_grid"), "net"), (("--ladders", "net"), "net"),
    (("--search", "nobody"), "nobody"), (("--trials", "../x/trials"), "../x")])
def test_mistakes_are_one_line_before_anything_is_done(planned, options, told):
    error = planned("net net_grid", *options, status=2)
    assert told in error and len(error.splitlines()) == 1


def test_a_list_that_nobody_makes_is_said_before_anything_is_trained(planned):
    planned("net", "--trials", "dev/trials exam/trials")
    missing = planned.said.index("data/exam/trials is missing: stage 1 makes no such list (--trials)")
    assert missing < planned.said.index("exp/net/model.safetensors")
    planned("net", "--trials", "dev/trials test/trials")
    assert "is missing" not in planned.said
