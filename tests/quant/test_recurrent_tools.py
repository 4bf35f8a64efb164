"""What else looks into layers, on recurrent networks: curvature, bits, correction, operations, analysis, training."""

import copy
import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from svq.analysis.layer_measures import movements
from svq.analysis.layer_subjects import parts_of
from svq.bin import block_sensitivity, layer_analysis, pack, train
from svq.bits.config import AllocateConfig
from svq.bits.allocation import allocate, make_problem
from svq.bits.block_run import bits_rows
from svq.bits.block_sensitivity import part_bytes, quantized_copy, read_blocks
from svq.bits.sensitivity import GaussNewtonEstimator, StoppingRule, TraceEstimator
from svq.bits.table import LayerBits, bits_by_layer, check_bits, read_bits, write_bits
from svq.data.frontend import FrontEndConfig
from svq.data.trials import make_trials
from svq.errors import UserError
from svq.evaluation.operations import count_flops, flops_by_layer, operations
from svq.models import load_model, save_model
from svq.nets.blocks import blocks_of, titles_of
from svq.network import ModelConfig
from svq.pack.file import load_packed, save_packed
from svq.quant import QuantConfig, quantize_
from svq.quant.api import count_parameters, float_weight, quantizable, quantizers
from svq.quant.batchnorm_fold import fold_into_layers_, norms_after_layers
from svq.quant.ptq_config import PTQConfig
from svq.quant.ptq import output_means, quantize_without_training_
from svq.report import quant_page
from svq.report.results import System
from svq.search.tradeoff import mean_bits, size_and_bits
from tests.builders import data_dir
from tests.helpers import run_worker
from tests.quant.recurrent_nets import EMBED, FEATS, KINDS, by_hand, feats, recurrent, register


@pytest.fixture
def arch(monkeypatch):
    return register(monkeypatch)


def config_of(arch, quant=None, num_mels=FEATS, **options):
    return ModelConfig(arch, options, EMBED, FrontEndConfig(num_mels=num_mels), quant)


def loss_of(net):
    return lambda batch: F.cross_entropy(net(batch), torch.arange(len(batch)) % EMBED)


def sample(estimator, batch):
    estimator.rule = StoppingRule(2, 2)
    for _ in estimator.run([batch, batch]):
        pass
    return estimator.samples


@pytest.mark.parametrize("estimator", [TraceEstimator, GaussNewtonEstimator])
@pytest.mark.parametrize("kind", KINDS)
def test_curvature_in_the_arithmetic_of_recurrent_kernels(kind, estimator):
    """float32 goes through the kernels that networks are trained with, float64 through plain operations."""
    net, found = recurrent(kind=kind), []
    for each, x in ((net, feats()), (copy.deepcopy(net).double(), feats().double())):
        function = loss_of(each) if estimator is TraceEstimator else each
        found.append(sample(estimator(each, function), x))
    assert found[0].keys() == dict(quantizable(net)).keys()
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=2e-3, atol=1e-7)


def test_traces_are_those_of_the_hessian():
    net, x = recurrent(kind="GRU", hidden=2).double(), feats(5).double()
    estimator = TraceEstimator(net, loss_of(net), StoppingRule(2, 300, 0))
    for _ in estimator.run([x] * 300):
        pass
    for row, (name, layer) in zip(estimator.results(), quantizable(net), strict=True):
        weight, key = layer.weight, name if name.startswith("rnn") else f"{name}.weight"

        def loss(flat, key=key, weight=weight):
            outputs = torch.func.functional_call(net, {key: flat.view(weight.shape)}, (x,))
            return F.cross_entropy(outputs, torch.arange(len(x)) % EMBED)

        exact = float(torch.autograd.functional.hessian(loss, weight.detach().flatten()).trace()) / weight.numel()
        assert row.shape == tuple(weight.shape) and abs(row.trace - exact) < 3.5 * row.std_error
        assert row.std_error < 0.5 * abs(exact)


@pytest.mark.parametrize("net", [recurrent(), nn.Sequential(nn.Linear(FEATS, EMBED), nn.Flatten(0, 1))],
                         ids=["LSTM", "Linear"])
def test_curvature_does_without_cudnn_where_that_has_no_gradients(net):
    seen = []

    def loss(batch):
        seen.append(torch.backends.cudnn.enabled)
        return net(batch).square().mean()

    enabled = torch.backends.cudnn.enabled
    sample(TraceEstimator(net, loss), feats())
    assert seen == [enabled and not hasattr(net, "rnn")] * 2 and torch.backends.cudnn.enabled == enabled


def test_no_curvature_of_a_quantized_network():
    net = quantize_(recurrent(), QuantConfig(layers={"embedding": 32, "*ih*": 32}))
    with pytest.raises(UserError, match="layer rnn.weight_hh_l0 is quantized"):
        TraceEstimator(net, loss_of(net))


def test_bits_are_allocated_to_matrices(arch, tmp_path):
    net, config = recurrent(layers=2), config_of(arch, layers=2)
    traces = [LayerBits(name, tuple(layer.weight.shape), 2.0 ** -i, 32)
              for i, (name, layer) in enumerate(quantizable(net))]
    problem = make_problem(net, QuantConfig(), config, traces, (2, 3, 4, 32), "sensitivity.tsv")
    choice = allocate(problem, AllocateConfig((2, 3, 4, 32), bytes=3200, reserve=0))
    bits = problem.bits(choice)
    assert len(set(bits)) > 1 and problem.size(choice) <= 3200
    rows = [LayerBits(row.layer, row.shape, row.trace, n) for row, n in zip(traces, bits)]
    write_bits(tmp_path / "bits.tsv", rows)
    check_bits(read_bits(tmp_path / "bits.tsv"), net, "bits.tsv")
    quant = QuantConfig(layers=bits_by_layer(rows))
    config = config_of(arch, quant, layers=2)
    assert save_packed(tmp_path / "x.svq", quantize_(net, quant), config) == problem.size(choice)
    assert problem.average_bits(choice) == pytest.approx(mean_bits(config))
    with pytest.raises(UserError, match="layer rnn.weight_ih_l9 is not in the network; it has rnn.weight_ih_l0"):
        check_bits([LayerBits("rnn.weight_ih_l9", (1, 1), None, 4)], net, "bits.tsv")


def test_biases_are_corrected_but_for_recurrent_weights():
    plain, x = recurrent(), feats(20)
    net = copy.deepcopy(plain)
    result = quantize_without_training_(net, QuantConfig("integer", 2), PTQConfig(bias_correction=True), x)
    found = {each.layer: each for each in result.corrections}
    assert found.keys() == {name for name, _, _ in quantizers(net)} and found["embedding"].where == "bias"
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0"):
        assert found[name].where is None and math.isnan(found[name].shift)
    assert result.summary().endswith("neither bias nor norm to correct: rnn.weight_ih_l0, rnn.weight_hh_l0")
    torch.testing.assert_close(output_means(net, x), output_means(plain, x), rtol=1e-4, atol=1e-5)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        assert torch.equal(getattr(net.rnn, name), getattr(plain.rnn, name))


class Normed(nn.Module):
    """A norm that takes the output of a recurrent cell, and one that takes that of a linear layer."""

    def __init__(self):
        super().__init__()
        self.cell, self.first = nn.GRUCell(FEATS, 8), nn.BatchNorm1d(8)
        self.linear, self.second = nn.Linear(8, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.second(self.linear(self.first(self.cell(x.mean(1)))))


def test_norms_are_not_folded_into_recurrent_weights(arch):
    net = Normed().eval()
    net.second.running_var.fill_(3), net.first.running_var.fill_(2)
    expected = net(feats())
    assert norms_after_layers(net, feats()) == fold_into_layers_(net, feats()) == {"second": "linear"}
    torch.testing.assert_close(net(feats()), expected)
    config = ModelConfig(arch, {}, EMBED, folded={"norm": "rnn.weight_ih_l0"})
    with pytest.raises(UserError, match="the network has no such batch norm or layer"):
        config.build()


@pytest.mark.parametrize("case", [{}, {"layers": 2, "bidirectional": True}, {"projection": 5}, {"kind": "GRU"},
                                  {"kind": "RNN", "bias": False}, {"kind": "LSTMCell"}, {"kind": "GRUCell"}], ids=str)
def test_operations_are_shared_out_by_size(case):
    net, frames = recurrent(**case), 20
    expected = {name: 2 * frames * layer.weight.numel() for name, layer in quantizable(net)}
    expected["embedding"] //= frames
    for each in (net, copy.deepcopy(net).to("meta"), quantize_(copy.deepcopy(net), QuantConfig("uniform", 4))):
        assert flops_by_layer(each, FEATS, frames) == (expected, sum(expected.values()))
        assert count_flops(each, FEATS, frames) == sum(expected.values()) and not each.training


def test_operations_by_bits(arch):
    plain = operations(config_of(arch), 0.5)
    half = operations(config_of(arch, QuantConfig(bits=8, layers={"rnn.weight_hh_l0": 32, "embedding": 32})), 0.5)
    ih, hh = 32 * FEATS, 32 * 8
    last = 2 * EMBED * 8
    assert (plain.flops - last) * ih / (ih + hh) * 0.75 == pytest.approx(plain.flops - half.equivalent)


@pytest.mark.parametrize("quantized", [False, True])
def test_blocks_and_parts_have_every_matrix(quantized):
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.LSTM(4, 5, 2), nn.ModuleList([nn.GRUCell(5, 5), nn.Linear(5, 2)]))
    if quantized:
        net = copy.deepcopy(quantize_(net, QuantConfig("uniform", 4)))
    layers = [name for name, _ in quantizable(net)]
    blocks = {"0": ["0"], "1": layers[1:5], "2.0": ["2.0.weight_ih", "2.0.weight_hh"], "2.1": ["2.1"]}
    assert blocks_of(net) == blocks and blocks_of(net, "layer") == {name: [name] for name in layers}
    assert titles_of(net, blocks) == {"0": "Conv1d", "1": "LSTM", "2.0": "GRUCell", "2.1": "Linear"}
    assert list(titles_of(net, blocks_of(net, "layer")).values()) == [
        "Conv1d", "LSTM 1", "LSTM 2", "LSTM 3", "LSTM 4", "GRUCell 1", "GRUCell 2", "Linear"]
    for level in ("stage", "block", "layer"):
        parts = parts_of(net, level)
        assert [name for part in parts for name in part.layers] == layers
        assert all(isinstance(net.get_submodule(part.end), nn.Module) for part in parts)
    assert [part.end for part in parts] == ["0", "1", "1", "1", "1", "2.0", "2.0", "2.1"]


def test_blocks_of_a_network_that_is_one_module():
    net = nn.LSTM(2, 3)
    assert blocks_of(net) == {"": ["weight_ih_l0", "weight_hh_l0"]}
    assert list(blocks_of(net, "layer")) == ["weight_ih_l0", "weight_hh_l0"]
    assert titles_of(net, {"": []}) == {"": "LSTM"}
    assert [part.end for part in parts_of(net, "layer")] == ["", ""]


def test_a_block_that_stays_in_float():
    rows = [(row.layer, row.bits) for row in bits_rows(recurrent(), ["rnn"], 4)]
    assert rows == [("rnn.weight_ih_l0", 32), ("rnn.weight_hh_l0", 32), ("embedding", 4)]


@pytest.mark.parametrize("batch_first", [True, False])
def test_movements_are_means_over_utterances(batch_first):
    before = recurrent(batch_first=batch_first)
    after, x = by_hand(quantize_(copy.deepcopy(before), QuantConfig(bits=1)), before), feats()
    with torch.no_grad():
        a, b = before.sequence(x).double(), after.sequence(x).double()
    found = movements(before, after, x, ["rnn"])["rnn"]
    assert found.relative_mse == pytest.approx(float(((b - a).square().sum((1, 2)) / a.square().sum((1, 2))).mean()))


def test_only_some_matrices_of_a_copy(arch):
    net = recurrent(layers=2)
    chosen = ["rnn.weight_hh_l0", "embedding"]
    made = quantized_copy(net, chosen, QuantConfig("uniform", 2))
    config = QuantConfig("uniform", 2, layers={"*": 32, **dict.fromkeys(chosen, 2)})
    torch.testing.assert_close(made(feats()), by_hand(quantize_(copy.deepcopy(net), config), net)(feats()))
    sizes = [part_bytes(net, part, QuantConfig("uniform", 2), config_of(arch, layers=2))
             for part in ([], chosen[:1], chosen)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.fixture
def place(arch, tmp_path):
    """A recurrent network, the same finetuned, and recordings of four speakers."""
    data = data_dir(tmp_path, speakers=4, utts=2, seconds=0.3)
    make_trials(data)
    quant = QuantConfig("kmqat", 2)
    net = recurrent(feat_dim=80, layers=2)
    save_model(tmp_path / "model", net, config_of(arch, None, 80, layers=2))
    quantize_(net, quant)
    with torch.no_grad():
        for _, layer, quantizer in quantizers(net):
            float_weight(layer).mul_(1.1), quantizer.alpha.mul_(1.2)
    save_model(tmp_path / "tuned", net, config_of(arch, quant, 80, layers=2))
    (tmp_path / "row.yaml").write_text("quant: {method: kmqat, bits: 2}\n")
    return tmp_path


@pytest.mark.parametrize("of", [("--config", "row.yaml"), ("--quantized", "tuned")])
def test_the_analysis_of_layers(place, of):
    run_worker(layer_analysis.main, "--model", place / "model", of[0], place / of[1], "--data", place / "data",
               "--trials", place / "data" / "trials", "--out", place / "out", "--bootstrap", 5, "--probes", 2,
               "--probe-seconds", 0.2, "--permutations", 9, "--alone", "block", "layer", "--kept", "layer")
    text = "".join(path.read_text() for path in (place / "out").glob("*.tsv"))
    for name, _ in quantizable(load_model(place / "model")[0]):
        assert f"\t{name}\t" in text


def test_the_sensitivity_of_single_matrices(place):
    run_worker(block_sensitivity.main, "--model", place / "model", "--config", place / "row.yaml",
               "--data", place / "data", "--trials", place / "data" / "trials", "--out", place / "out",
               "--bootstrap", 0, "--level", "layer")
    rows = {row.block: row for row in read_blocks(place / "out" / "blocks.tsv")}
    layers = dict(quantizable(load_model(place / "model")[0]))
    assert list(rows) == ["float", *layers, "all"]
    for name, layer in layers.items():
        assert rows[name].layers == 1 and rows[name].weights == layer.weight.numel() and rows[name].drift > 0


def test_figures_and_sizes_of_a_network_without_convolutions(place):
    system = System("static", "model", "model", "Static", "", "Binary", 1.0, {})
    quant = QuantConfig("static", 1)
    net, config = load_model(place / "model")
    save_model(place / "static", quantize_(net, quant), ModelConfig(**{**vars(config), "quant": quant}))
    drawn = quant_page.of_layers(place, "model", [system], layer="rnn.weight_hh_l1")
    assert len(drawn) == 4
    size, bits = size_and_bits(str(place / "tuned"), None)
    run_worker(pack.main, place / "tuned", "--output", place / "x.svq")
    assert (size, bits) == (os.path.getsize(place / "x.svq"), 2)


def test_training_and_packing(place, arch):
    """A network is trained in float, then at mixed bits stage by stage, and packed: the file gives the embeddings."""
    tree = {"model": {"arch": arch, "embed_dim": EMBED, "front_end": {"num_mels": 24}},
            "data": {"crop_seconds": 0.2, "num_workers": 0}, "schedule": {"lr": 0.05}, "epochs": 2, "batch_size": 4,
            "average": 1, "precision": "fp32", "num_threads": 1}
    (place / "float.yaml").write_text(yaml.safe_dump(tree))
    run_worker(train.main, "--config", place / "float.yaml", "--data", place / "data", "--out", place / "float")
    tree |= {"multi_stage": True, "quant": {"bits": 4, "per_channel": False, "layers": {"rnn.weight_hh_l0": 2}}}
    del tree["model"]
    (place / "mixed.yaml").write_text(yaml.safe_dump(tree))
    run_worker(train.main, "--config", place / "mixed.yaml", "--data", place / "data", "--out", place / "mixed",
               "--init", place / "float")
    net, config = load_model(place / "mixed")
    start, _ = load_model(place / "float")
    bits = {name: quantizer.bits for name, _, quantizer in quantizers(net)}
    assert bits == {"rnn.weight_ih_l0": 4, "rnn.weight_hh_l0": 2, "embedding": 4}
    before = dict(quantizable(start))
    assert all(not torch.equal(float_weight(layer), before[name].weight) for name, layer, _ in quantizers(net))
    assert all((quantizer.alpha != 1).all() for _, _, quantizer in quantizers(net))
    save_packed(place / "x.svq", net, config)
    x = torch.randn(2, 20, 24)
    torch.testing.assert_close(load_packed(place / "x.svq")[0](x), net(x), rtol=1e-5, atol=1e-6)
    assert count_parameters(net) == count_parameters(start)
