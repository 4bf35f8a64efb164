"""Finetuning in stages: their plan, what each quantizes, and resuming in any of them. ADMM between epochs."""

import csv
import dataclasses
import os
import re
import signal
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from svq.bits.table import LayerBits, write_bits
from svq.config import from_dict, load_config, to_dict
from svq.errors import UserError
from svq.models import load_model
from svq.network import load_tensors
from svq.quant import QuantConfig
from svq.quant.api import quantizable, quantizers
from svq.quant.quantizers import make_quantizer
from svq.train.checkpoint import load_checkpoint
from svq.train.config import TrainConfig
from svq.train.config import ScheduleConfig
from svq.train.optimizer import learning_rate
from svq.train.run import RunOptions, Stage, plan_stages, quantize_up_to_, run_id, total_epochs

LAYERS = 6


def stack():
    return nn.Sequential(*[nn.Linear(5, 5) for _ in range(LAYERS)])


def config_of(widths, epochs, **options):
    layers = {str(i): bits for i, bits in enumerate(widths)}
    return TrainConfig(quant=QuantConfig(bits=3, layers=layers), epochs=epochs, **options)


@given(st.lists(st.sampled_from([1, 2, 3, 4, 8, 32]), min_size=LAYERS, max_size=LAYERS), st.integers(6, 40))
def test_stages_share_the_epochs(widths, epochs):
    distinct = sorted(set(widths) - {32})
    stages = plan_stages(config_of(widths, epochs, multi_stage=True), stack())
    assert [stage.bits for stage in stages] == (distinct or [0])
    shares = [stage.epochs for stage in stages]
    assert sum(shares) == epochs and min(shares) >= 1 and max(shares) - min(shares) <= 1 and shares == sorted(shares)
    assert plan_stages(config_of(widths, epochs), stack()) == [Stage(max(distinct, default=0), epochs)]


def test_layers_of_one_width_make_one_stage():
    assert plan_stages(TrainConfig(quant=QuantConfig(bits=2), multi_stage=True, epochs=3), stack()) == [Stage(2, 3)]
    assert plan_stages(TrainConfig(epochs=3), stack()) == [Stage(0, 3)]


def test_every_stage_needs_an_epoch():
    with pytest.raises(UserError, match=r"epochs is 2, but layers have 3 bit widths \(1, 2, 4\).*raise epochs"):
        plan_stages(config_of([4, 2, 1, 32, 4, 4], 2, multi_stage=True), stack())


WIDTHS = [4, 2, 1, 32, 4, 4]


@pytest.mark.parametrize("given, expected", [((5,), [5, 5, 5]), ((1, 7, 2), [1, 7, 2])])
def test_stages_have_the_epochs_that_are_given(given, expected):
    config = config_of(WIDTHS, 2, multi_stage=True, stage_epochs=given)
    assert plan_stages(config, stack()) == [Stage(bits, epochs) for bits, epochs in zip([1, 2, 4], expected)]
    assert total_epochs(config, stack()) == sum(expected)
    assert all(total_epochs(config_of(WIDTHS, 7, multi_stage=staged), stack()) == 7 for staged in (False, True))


def test_a_single_stage_has_the_epochs_that_are_given():
    for widths, bits in ([2] * LAYERS, 2), ([32] * LAYERS, 0):
        assert plan_stages(config_of(widths, 3, multi_stage=True, stage_epochs=(9,)), stack()) == [Stage(bits, 9)]


@pytest.mark.parametrize("widths, given, found", [(WIDTHS, (3, 4), "1, 2, 4"), (WIDTHS, (1, 2, 3, 4), "1, 2, 4"),
                                                  ([2] * LAYERS, (3, 4), "2"), ([32] * LAYERS, (3, 4), "32")])
def test_epochs_of_other_stages_are_refused(widths, given, found):
    expected = rf"stage_epochs is \[{', '.join(map(str, given))}\], but the bit widths of the layers are {found}: give"
    with pytest.raises(UserError, match=expected) as refusal:
        plan_stages(config_of(widths, 20, multi_stage=True, stage_epochs=given), stack())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("settings, expected", [
    (["stage_epochs=[2]"], "stage_epochs is about the stages of multi_stage; set multi_stage too"),
    (["multi_stage=true", "stage_epochs=[2, 0]"], r"stage_epochs is \[2, 0\].* of at least 1"),
    (["multi_stage=true", "stage_epochs=[-1]"], r"stage_epochs is \[-1\].* of at least 1"),
    (["multi_stage=true", "stage_epochs=[]"], r"stage_epochs is \[\]; give a number for each stage, or one for all"),
    (["multi_stage=true", "stage_epochs=[1.5]"], r"'stage_epochs\[0\]' must be of type int, not 1.5"),
    (["multi_stage=true", "stage_epochs=2"], "'stage_epochs' must be a list, not 2"),
])
def test_epochs_of_stages_are_checked(settings, expected):
    with pytest.raises(UserError, match=expected) as refusal:
        load_config(None, TrainConfig, ["quant.bits=3", *settings])
    assert "\n" not in str(refusal.value)


def test_epochs_of_stages_are_part_of_the_run_and_nothing_changes_without_them(tmp_path):
    options = RunOptions("none.yaml", str(tmp_path), "out")
    config = config_of(WIDTHS, 6, multi_stage=True)
    assert "stage_epochs" not in to_dict(config)
    ids = {run_id(dataclasses.replace(config, stage_epochs=given), options) for given in (None, (2,), (3,), (2, 2, 3))}
    assert len(ids) == 4
    given = dataclasses.replace(config, stage_epochs=(2, 2, 3))
    assert from_dict(to_dict(given), TrainConfig) == given


def test_quantized_layers_keep_their_quantizers_and_others_join_them():
    net, config = stack(), config_of([4, 1, 2, 32, 1, 4], 3).quant
    seen = {}
    for bits, expected in [(1, {"1", "4"}), (2, {"1", "2", "4"}), (4, {"0", "1", "2", "4", "5"})]:
        quantize_up_to_(net, config, bits)
        now = {name: quantizer for name, _, quantizer in quantizers(net)}
        assert now.keys() == expected and all(now[name] is quantizer for name, quantizer in seen.items())
        seen = now
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.01


# Widths 1, 2 and 4 in turns and one layer in float: 3 stages in 4 epochs of 4 steps, of 1, 1 and 2 epochs.
STAGES = ("quant.bits=4", "multi_stage=true", "epochs=4", "schedule.lr=0.01", "schedule.final_lr=0.001",
          "schedule.warmup_epochs=0", "average=1", "checkpoint_minutes=0")
ENDS = {1: 4, 2: 8, 3: 16}


@pytest.fixture(scope="module")
def bits(runs, teacher):
    layers = list(quantizable(load_model(teacher)[0]))
    rows = [LayerBits(name, tuple(module.weight.shape), None, (4, 1, 2)[i % 3]) for i, (name, module) in enumerate(layers)]
    rows[-1] = LayerBits(rows[-1].layer, rows[-1].shape, None, 32)
    path = runs.folder / "stages.tsv"
    write_bits(path, rows)
    return path


@pytest.fixture(scope="module")
def staged(runs, teacher, bits):
    return runs("staged", *STAGES, init=teacher, bits=bits)


def stage_state(folder, number):
    state = load_checkpoint(folder / "checkpoints" / f"stage{number}" / "last.pt")
    return state["step"], {name.removeprefix("net."): t for name, t in state["objective"].items() if name.startswith("net.")}


def weights(folder):
    return [(folder / name).read_bytes() for name in ("model.safetensors", "head.safetensors", "config.yaml")]


def curves(folder):
    return list(csv.DictReader(open(folder / "curves.csv")))


def bits_in(state, by_layer):
    """The widths of the layers that are quantized in this state."""
    return {by_layer[name.split(".parametrizations")[0]] for name in state if ".parametrizations" in name}


def test_each_stage_quantizes_the_next_width(staged, bits):
    assert sorted(os.listdir(staged / "checkpoints")) == ["stage1", "stage2", "stage3"]
    net, config = load_model(staged)
    by_layer = config.quant.layers
    for number, widths in [(1, {1}), (2, {1, 2}), (3, {1, 2, 4})]:
        step, state = stage_state(staged, number)
        assert step == ENDS[number] and bits_in(state, by_layer) == widths
    assert {name: q.bits for name, _, q in quantizers(net)} == {n: b for n, b in by_layer.items() if b != 32}
    # One epoch is averaged: the model is what the last stage ended with.
    final = load_tensors(staged / "model.safetensors")
    assert all(torch.equal(final[name], tensor) for name, tensor in stage_state(staged, 3)[1].items())


def test_new_layers_start_from_the_present_weights_and_old_ones_keep_their_levels(staged):
    config = load_model(staged)[1].quant
    for number in (2, 3):
        (_, before), (_, after) = stage_state(staged, number - 1), stage_state(staged, number)
        fresh = kept = 0
        for name in after:
            layer, found, _ = name.partition(".parametrizations.weight.0.levels")
            if found and name in before:
                assert torch.equal(before[name], after[name])
                kept += 1
            elif found:
                expected = make_quantizer(before[f"{layer}.weight"], config, config.bits_of(layer))
                assert torch.equal(expected.levels, after[name])
                fresh += 1
        assert fresh and kept


def test_curves_show_all_stages_and_each_has_its_own_schedule(staged):
    rows = curves(staged)
    assert [int(row["step"]) for row in rows] == [4, 8, 12, 16] and [float(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    schedule = ScheduleConfig(lr=0.01, final_lr=0.001, warmup_epochs=0)
    ends = [(3, 1), (3, 1), (3, 2), (7, 2)]  # step within the stage and the stage's epochs
    expected = [learning_rate(schedule, step, 4, epochs) for step, epochs in ends]
    assert [float(row["lr"]) for row in rows] == pytest.approx(expected, rel=1e-5)


# 6, 13: inside a stage; 4, 8: at the end of one.
@pytest.mark.parametrize("step", [4, 6, 8, 13])
def test_a_run_of_stages_resumes_to_the_same_bytes(runs, teacher, bits, staged, step):
    name = f"staged_{step}"
    runs.stopped(step, name, *STAGES, init=teacher, bits=bits)
    resumed = runs(name, *STAGES, init=teacher, bits=bits)
    assert weights(resumed) == weights(staged) and curves(resumed) == curves(staged)


def test_a_run_of_stages_that_is_killed_twice(runs, teacher, bits, staged):
    """By SIGKILL, wherever it happens to be; then in another stage."""
    process = runs.process("staged_killed", *STAGES, init=teacher, bits=bits)
    checkpoint = runs.folder / "staged_killed" / "checkpoints" / "stage1" / "last.pt"
    while not checkpoint.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close(), process.stderr.close()
    assert not (runs.folder / "staged_killed" / "model.safetensors").exists()
    runs.stopped(15, "staged_killed", *STAGES, init=teacher, bits=bits)
    assert weights(runs("staged_killed", *STAGES, init=teacher, bits=bits)) == weights(staged)


def test_a_finished_run_of_stages_repeated_changes_nothing(runs, teacher, bits, staged, capsys):
    before, rows = weights(staged), curves(staged)
    os.unlink(staged / "model.safetensors")
    os.unlink(staged / "curves.csv")
    runs("staged", *STAGES, init=teacher, bits=bits)
    assert weights(staged) == before and curves(staged) == rows
    assert re.findall(r"at step (\d+) of (\d+)", capsys.readouterr().out) == [("4", "4"), ("8", "8"), ("16", "16")]


def test_each_stage_starts_from_the_average_of_the_one_before(runs, teacher, bits):
    """Averages over two epochs, stages of two: what the second stage quantizes first is the mean of both ends."""
    settings = (*STAGES, "epochs=6", "average=2")
    folder = runs("staged_average", *settings, init=teacher, bits=bits)
    sums = load_checkpoint(folder / "checkpoints" / "stage1" / "last.pt")["average"]
    assert sums["count"] == 2
    config = load_model(folder)[1].quant
    _, state = stage_state(folder, 2)
    layer = next(name for name, bits in config.layers.items() if bits == 2)
    mean = (sums["sums"][f"net.{layer}.weight"] / 2).float()
    expected = make_quantizer(mean, config, 2).levels
    assert torch.equal(state[f"{layer}.parametrizations.weight.0.levels"], expected)
    runs.stopped(12, "staged_average_2", *settings, init=teacher, bits=bits)
    assert weights(runs("staged_average_2", *settings, init=teacher, bits=bits)) == weights(folder)


LONGER = (*STAGES, "epochs=1", "stage_epochs=[2, 1, 3]")


@pytest.fixture(scope="module")
def longer(runs, teacher, bits):
    return runs("longer", *LONGER, init=teacher, bits=bits)


def test_stages_of_their_own_epochs_have_a_schedule_each_and_go_on_counting(longer):
    assert [stage_state(longer, number)[0] for number in (1, 2, 3)] == [8, 12, 24]
    rows = curves(longer)
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    schedule = ScheduleConfig(lr=0.01, final_lr=0.001, warmup_epochs=0)
    ends = [(3, 2), (7, 2), (3, 1), (3, 3), (7, 3), (11, 3)]  # step within the stage and the stage's epochs
    expected = [learning_rate(schedule, step, 4, epochs) for step, epochs in ends]
    assert [float(row["lr"]) for row in rows] == pytest.approx(expected, rel=1e-5)


def test_a_stage_of_its_own_epochs_resumes_to_the_same_bytes(runs, teacher, bits, longer):
    """Stopped within the first stage, at the end of the second and within the last."""
    for step in (6, 12, 18):
        runs.stopped(step, "longer_stopped", *LONGER, init=teacher, bits=bits)
    resumed = runs("longer_stopped", *LONGER, init=teacher, bits=bits)
    assert weights(resumed) == weights(longer) and curves(resumed) == curves(longer)


def test_other_epochs_of_stages_begin_anew(runs, teacher, bits, longer, capsys):
    runs.stopped(6, "longer_changed", *LONGER, init=teacher, bits=bits)
    changed = runs("longer_changed", *STAGES, "stage_epochs=[1, 1, 2]", init=teacher, bits=bits)
    assert "belongs to another config or other data: starting anew" in capsys.readouterr().out
    assert [stage_state(changed, number)[0] for number in (1, 2, 3)] == [4, 8, 16]


def test_shares_given_one_by_one_are_those_of_the_budget(runs, teacher, bits, staged):
    given = runs("given", *STAGES, "epochs=99", "stage_epochs=[1, 1, 2]", init=teacher, bits=bits)
    assert weights(given) == weights(staged) and curves(given) == curves(staged)


def test_one_width_in_stages_is_a_run_of_one_stage(runs, teacher):
    settings = ("quant.bits=2", "epochs=2", "schedule.lr=0.01", "average=1")
    one, staged = runs("one_stage", *settings, init=teacher), runs("same_width", *settings, "multi_stage=true", init=teacher)
    assert weights(one) == weights(staged) and os.listdir(staged / "checkpoints") == ["last.pt"]


def test_stages_are_about_quantization(runs):
    with pytest.raises(UserError, match="multi_stage .* needs a quantizer under quant"):
        runs("refused", "multi_stage=true")


ADMM = ("quant.method=admm", "quant.bits=3", "quant.rho=0.05", "epochs=3", "schedule.lr=0.005", "schedule.final_lr=0.001",
        "average=2", "checkpoint_minutes=0")


def test_admm_updates_between_epochs_and_resumes_to_the_same_bytes(runs, teacher):
    whole = runs("admm", *ADMM, init=teacher)
    multipliers = []
    for step in (3, 4, 7):
        name = f"admm_{step}"
        runs.stopped(step, name, *ADMM, init=teacher)
        state = load_checkpoint(runs.folder / name / "checkpoints" / "last.pt")["objective"]
        multipliers.append(state["net.conv1.parametrizations.weight.0.multipliers"])
        assert weights(runs(name, *ADMM, init=teacher)) == weights(whole)
    assert not multipliers[0].any()  # none before the end of an epoch
    assert multipliers[1].any() and torch.equal(multipliers[1], multipliers[2])  # within an epoch they stay
    last = load_checkpoint(whole / "checkpoints" / "last.pt")["objective"]
    assert not torch.equal(multipliers[2], last["net.conv1.parametrizations.weight.0.multipliers"])


def test_admm_ends_on_its_levels(runs, teacher):
    """The model is quantized, whatever was averaged: at most 2^3 values a channel, those of its codebook."""
    net, _ = load_model(runs("admm", *ADMM, init=teacher))
    for name, module, quantizer in quantizers(net):
        for weight, levels in zip(module.weight, quantizer.codebook(), strict=True):
            assert torch.isin(weight, levels).all() and len(weight.unique()) <= 8, name
