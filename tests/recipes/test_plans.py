"""What the stages of steps/recipe.sh would run, with settings of all shapes; nothing is run."""

from __future__ import annotations

import subprocess

import pytest

from tests.recipes.conftest import ROOT

# The options of a run.sh, and stand-ins for utils/stages.sh: each `once` is printed as one line.
OPTIONS = """set -euo pipefail
conf=conf data=data exp=exp report= cohort_per_spk=0 trials="dev/trials test/trials" systems_nj=2 num_gpus=0 title=t
int8_runtime=openvino force=false search=net search_row=row search_nj=1 train_cmd=run.py cuda_cmd=run.py
backends=cosine norms=none analysis="net other" analysis_rows=grid analysis_utts=9 cascade_limits=cost=0.1 cascade_run=false
ladders="net_budget-2bit:net_budget:net net_grid:gone"
at_a_time() { :; }
all_done() { echo wait; }
once() { echo "$*"; }
"""
CHAIN = {"grid": "quant: {method: integer, bits: 8}\nptq: {bias_correction: true, utterances: 8}\n",
         "budget": "base: grid.yaml\nselect: {max_eer_loss: 0.1, search: greedy}\n",
         "exact": "base: budget.yaml\nselect: {search: exact}\nptq: {utterances: 4}\n",
         "plain": "base: budget.yaml\nselect: null\nptq: null\n",
         "paper": "base: grid.yaml\nselect: {preset: ecapa-selective}\n",
         "unpaper": "base: paper.yaml\nselect: {preset: null, max_eer_loss: 1}\n",
         "mixed": "base: grid.yaml\nallocate:\n  average_bits: 2\n",
         "remixed": "base: mixed.yaml\n",
         "speech": "quant: {method: kmqat, bits: 2}\nptq: {calibrate: true}\ndistill: {label_weight: 0}\n",
         "shared": "base: speech.yaml\nallocate: {average_bits: 2}\n",
         "long": "base: grid.yaml\nselect:\n  max_eer_loss: 0.1\n"}


@pytest.fixture
def planned(tmp_path):
    """Runs a function of the recipe with these systems; returns the lines."""
    (tmp_path / "conf" / "quant").mkdir(parents=True)
    for name, text in CHAIN.items():
        (tmp_path / "conf" / "quant" / f"{name}.yaml").write_text(text)

    def run(call, systems, status=0, options=""):
        script = f'{OPTIONS}systems="{systems}" {options}\n. "{ROOT}/steps/recipe.sh"\n{call}\n'
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == status, done.stderr
        return (done.stdout if status == 0 else done.stderr).splitlines()

    return run


def test_systems_of_one_row_share_a_table_of_blocks(planned):
    lines = planned("select_blocks", "net net_budget net_budget-ptq net_budget-s2 net_paper-ptq")
    measured = [line for line in lines if "block_sensitivity.sh" in line]
    assert len(measured) == 1 and "--out exp/net/blocks_budget/blocks.tsv" in measured[0]
    assert "--in 2:data/train/feats.scp" in measured[0] and "--ptq-data data/train" in measured[0]
    chosen = [line if line == "wait" else line.split("--out ")[1].split()[0] for line in lines[1:]]
    assert chosen == ["wait", "exp/net_budget/bits.tsv", "wait", "exp/net_budget-ptq/bits.tsv", "wait",
                      "exp/net_budget-s2/bits.tsv", "exp/net_paper-ptq/bits.tsv", "wait"]


@pytest.mark.parametrize("row, selects, preset, allocates, corrects", [
    ("grid", 0, 0, 0, 1), ("budget", 1, 0, 0, 1), ("exact", 1, 0, 0, 1), ("plain", 0, 0, 0, 0), ("paper", 1, 1, 0, 1),
    ("unpaper", 1, 0, 0, 1), ("mixed", 0, 0, 1, 1), ("remixed", 0, 0, 1, 1)])
def test_a_part_of_the_config_may_stand_in_a_base(planned, row, selects, preset, allocates, corrects):
    lines = planned('find_config_inputs "$(config_of net_x)"\n'
                    'for what in "has_selection net_x" "has_preset net_x" "has_allocation net_x" takes_speech; do\n'
                    "  if $what; then echo 1; else echo 0; fi\ndone".replace("net_x", f"net_{row}"), f"net net_{row}")
    assert [int(line) for line in lines] == [selects, preset, allocates, corrects]


def test_calibrated_systems_are_finetuned_from_where_they_are(planned):
    """Once for all seeds, before the trainings, whether or not it is a system of its own; with the bits of theirs."""
    systems = "net net_speech net_speech-s2 net_shared net_grid-ptq net_plain"
    lines = [line for line in planned("quantize_systems train_wav", systems) if line != "wait"]
    made = {line.split("--out ")[1].split("/")[1]: line for line in lines}
    assert list(made) == ["net_grid-ptq", "net_shared-ptq", "net_speech-ptq",
                          "net_speech", "net_speech-s2", "net_shared", "net_plain"]
    for name in ("net_speech-ptq", "net_shared-ptq"):
        assert "steps/quantize.sh" in made[name] and "--data data/train" in made[name]
    for name in ("net_speech", "net_speech-s2"):
        assert "steps/train.sh" in made[name] and "--in 5:exp/net_speech-ptq/model.safetensors" in made[name]
        assert "--init exp/net_speech-ptq" in made[name] and "--teacher exp/net" in made[name]
    for name in ("net_shared-ptq", "net_shared"):
        assert "--in 5:exp/net_shared/bits.tsv" in made[name] and "--bits exp/net_shared/bits.tsv" in made[name]
    assert "--init exp/net " in made["net_plain"] and "-ptq" not in made["net_plain"]


def test_a_part_over_several_lines_is_refused(planned):
    (line,) = planned("select_blocks", "net net_long-ptq", status=1)
    assert line == "run.sh: conf/quant/long.yaml: write `select: {...}` on one line; the recipe reads it there"


@pytest.mark.parametrize("runtime, files", [("openvino", ["model.xml", "model.bin"]), ("onnxruntime", ["model.onnx"])])
def test_export_and_report_name_the_files_of_an_exported_system(planned, runtime, files):
    line = planned("export_systems", "net net-int8", options=f"int8_runtime={runtime}")[0]
    outs = [word for before, word in zip(line.split(), line.split()[1:]) if before == "--out"]
    assert outs == [f"exp/net-int8/{name}" for name in (*files, "summary.json")]
    line = planned("make_report", "net net-int8")[0]
    assert "--in 10:exp/net/summary.json" in line and "--in 5:exp/net-int8/summary.json" in line


@pytest.mark.parametrize("force, restart", [("false", "true"), ("true", "always")])
def test_search_starts_anew_where_its_inputs_changed(planned, tmp_path, force, restart):
    row = tmp_path / "conf" / "quant" / "row.yaml"
    row.write_text("base: grid.yaml\ndata: {input: feats}\ndistill: {label_weight: 0.0}\n")
    searched, traded = planned("search_settings train; trade_off", "net", options=f"force={force}")
    for words in (f"--restart {restart} ", "--neutral restart", "--in 2:data/train/feats.scp", "--teacher exp/net ",
                  "--in 1:data/train/wav.scp", "--out exp/net/search/best/model.safetensors"):
        assert words in searched
    assert "--in 3:exp/net/model.safetensors" in traded
    assert "--in 13:exp/net/search/best/model.safetensors" in traded


def test_members_are_taken_of_the_whole_and_packed_as_it_is(planned):
    lines = planned("take_members; pack_systems", "net net_budget net_budget-2bit")
    taken = [line for line in lines if "at_precision.sh" in line]
    assert len(taken) == 1 and taken[0].endswith("at_precision.sh --cmd run.py exp/net_budget 2")
    assert "--out exp/net_budget-2bit/model.safetensors" in taken[0]
    assert sum("--calibration exp/net_budget" in line for line in lines) == 2


def test_analysis_compares_with_the_float_system_of_the_same_finetuning(planned):
    lines = planned("analyse_scores; analyse_layers", "net net_float net_grid net_grid-int8 student_grid")
    assert lines[0].endswith(" exp/analysis/net/scores net_float net_grid net_grid-int8")
    assert "--data data --title t: scores of net dev/trials test/trials" in lines[0] and "7:exp/net_grid-int8/scores/test/cosine_none" in lines[0]
    assert "leave out the analysis of other" in lines[1]
    layers = [line for line in lines if "layer_analysis.sh" in line]
    assert len(layers) == 2 and "--max-utts 9 --model exp/net --config conf/quant/grid.yaml" in layers[0]
    assert "--model exp/net_float --quantized exp/net_grid" in layers[1]


def test_cascades_of_systems_that_are_there(planned):
    lines = planned("run_cascades", "net net_budget net_budget-2bit net_grid")
    made, run, left = lines
    assert made.endswith("exp/cascade/net_budget-2bit-net_budget-net/systems.yaml net_budget-2bit net_budget net")
    assert run.endswith("data/dev/trials exp/cascade/net_budget-2bit-net_budget-net data/test/trials")
    assert "--limits cost=0.1" in run and "7:exp/net/scores/test/cosine_none.score" in run
    assert "leave out the cascade net_grid:gone: gone is not in --systems" in left
    _, live, run = planned("run_cascades", "net net_budget net_budget-2bit", options="cascade_run=true")[:3]
    assert "--out data/test/trials_live -- utils/make_trials.sh --name live --once true --max-tests 2000" in live
    assert live.endswith("--same-gender false data/test") and "--in 1:data/test/utt2spk" in live
    assert "--run true --run-trials data/test/trials_live" in run and "--in data/test/trials_live" in run
    said = planned("run_cascades", "net net_budget net_budget-2bit", status=1, options="trials=dev/trials")
    assert "a second list in --trials" in said[0]


@pytest.mark.parametrize("gpus", [0, 2])
def test_embeddings_are_computed_on_a_gpu_where_there_is_one(planned, gpus):
    """Not those of exported systems, whose runtimes have none; and nothing is made again for where it was computed."""
    lines = planned("extract_embeddings", "net net_grid net_grid-int8", options=f"num_gpus={gpus} extract_cmd=run.py extract_nj=3")
    extracted = [line for line in lines if "steps/extract.sh" in line]
    assert len(extracted) == 9 and all("--neutral device" in line for line in extracted)
    for line in extracted:
        assert ("--device cuda" in line) == (gpus > 0 and "-int8/" not in line)


@pytest.mark.parametrize("call", ["validate_data x", "perturb_speed x y", "copy_waveforms x y", "make_features x"])
@pytest.mark.parametrize("name", ["segments", "reco2file_and_channel"])
def test_what_cuts_recordings_is_an_input(planned, tmp_path, call, name):
    """An edit of it redoes what was made of the recordings."""
    (tmp_path / "data" / "x").mkdir(parents=True)
    (before,) = planned(call, "net", options="nj=1")
    assert "data/x/wav.scp" in before and name not in before
    (tmp_path / "data" / "x" / name).touch()
    (after,) = planned(call, "net", options="nj=1")
    assert f"data/x/{name}" in after.partition("--out")[0]
