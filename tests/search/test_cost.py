"""Operations that are counted and assumed, and the figures and notes made of them."""

import dataclasses
import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from svq.data.frontend import FrontEndConfig
from svq.evaluation.operations import count_flops, flops_by_layer, frames_in, milliseconds, operations
from svq.network import ModelConfig
from svq.quant import QuantConfig
from svq.search.page import Scale, Trial, importances, running_best
from tests.search.test_search_workers import Bench


@pytest.mark.parametrize("arch, net", [("ResNet18", {"width": 4}), ("ECAPALite", {})])
def test_layers_add_up_to_torchs_own_count(arch, net):
    with torch.device("meta"):
        built = ModelConfig(arch, net, 8, FrontEndConfig(num_mels=24)).build()
    layers, total = flops_by_layer(built, 24, 50)
    assert total == count_flops(built, 24, 50) and 0 < sum(layers.values()) <= total


def test_a_layer_by_the_formula():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7))
    layers, total = flops_by_layer(net, 3, 10)
    assert layers == {"0": 2 * 10 * 3 * 5, "2": 2 * 10 * 5 * 7} and total == sum(layers.values())


@pytest.mark.parametrize("bits", [8, 4, 1])
def test_the_assumption_is_bits_over_32(bits):
    model = ModelConfig("ResNet18", {"width": 4}, 8, FrontEndConfig(num_mels=24))
    quant = QuantConfig("kmqat", bits)
    plain = operations(model, 1.0)
    assert plain.flops == plain.equivalent == count_flops(model.build(), 24, frames_in(1.0))
    found = operations(ModelConfig("ResNet18", {"width": 4}, 8, FrontEndConfig(num_mels=24), quant), 1.0)
    assert found.flops == plain.flops and found.equivalent == pytest.approx(plain.flops * bits / 32)
    half = dataclasses.replace(model, quant=QuantConfig("kmqat", bits, layers={"conv1": 32}))
    first = flops_by_layer(model.build(), 24, frames_in(1.0))[0]["conv1"]
    assert operations(half, 1.0).equivalent == pytest.approx(first + (plain.flops - first) * bits / 32)


def test_times_are_medians_of_calls_in_turns():
    order = []
    slow, fast = milliseconds([lambda: (order.append(0), time.sleep(0.01)), lambda: order.append(1)], 5, warm_up=1)
    assert order == [0, 1] * 6 and slow >= 10 and slow > fast


def test_importances_need_trials_and_find_the_setting_that_matters(tmp_path):
    bench = Bench(tmp_path, trials=8, sampler="random", pruner="none")
    bench.search = type(bench.search)(**{**vars(bench.search), "trials": 2})
    bench.work()
    assert importances(bench.study()) == ([], "Only 2 trials are complete: no importances under 4.")
    bench.search = type(bench.search)(**{**vars(bench.search), "trials": 8})
    bench.work()
    found, note = importances(bench.study())
    assert {each.key for each in found} == {"schedule.lr", "epochs", "quant.bits"} and "too few to trust in" in note
    correlation = {each.key: each.correlation for each in found}
    assert correlation["epochs"] > 0.5 and abs(correlation["schedule.lr"]) < correlation["epochs"]
    assert sum(each.importance for each in found) == pytest.approx(1)


def test_plain_values_of_figures():
    trials = [Trial(0, "pruned", math.nan, {}, {1: 5.0}), Trial(1, "complete", 3.0, {}, {}),
              Trial(2, "complete", 4.0, {}, {})]
    np.testing.assert_array_equal(running_best(trials), [math.nan, 3, 3])
    scale = Scale([1e-4, 1e-2, 1e-3])
    assert scale.log and scale.share(1e-3) == pytest.approx(0.5) and Scale(["b", "a"]).share("b") == 1
    assert Scale([3, 3]).share(3) == 0.5
