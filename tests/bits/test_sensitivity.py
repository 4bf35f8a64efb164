"""The average Hessian trace of each layer: exact traces, standard errors, when to stop, tables, the worker."""

import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from svq.bin import sensitivity, train
from svq.bits.sensitivity import (
    LayerSensitivity,
    StoppingRule,
    TraceEstimator,
    mean_and_error,
    read_sensitivity,
    write_sensitivity,
)
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.nets import build
from svq.nets.pooling import VARIANCE_FLOOR
from svq.quant import QuantConfig, quantize_
from svq.quant.api import quantizable
from svq.train.checkpoint import load_checkpoint
from svq.train.sensitivity import Checkpoint
from tests.builders import data_dir
from tests.helpers import run_worker
from tests.train.conftest import TINY

EXACTLY = 1e-9


class Small(nn.Module):
    """Convolution, batch norm with statistics, ReLU, pooled deviation, two linear layers; float64."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.inner = nn.Linear(8, 5, bias=False)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = torch.cat([x.mean(-1), (x.var(-1) + 1e-3).sqrt()], 1)
        return self.last(torch.tanh(self.inner(x)))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_network():
    torch.manual_seed(0)
    net = Small().double().eval()
    net.norm.running_mean.normal_(0, 0.3), net.norm.running_var.uniform_(0.5, 2)
    batches = [(torch.randn(5, 3, 9, generator=seeded(s)).double(), torch.arange(5) % 3) for s in range(4)]
    return net, batches


@pytest.fixture
def small():
    return small_network()


def cross_entropy(net):
    return lambda batch: F.cross_entropy(net(batch[0]), batch[1])


def exact_block(net, name, batch):
    """The layer's whole Hessian block (n, n), by torch's own routine."""
    weight = net.get_submodule(name).weight

    def loss(flat):
        logits = torch.func.functional_call(net, {f"{name}.weight": flat.view(weight.shape)}, (batch[0],))
        return F.cross_entropy(logits, batch[1])

    return torch.autograd.functional.hessian(loss, weight.detach().flatten())


def estimate(net, loss, batches, probes, seed=0):
    estimator = TraceEstimator(net, loss, StoppingRule(2, probes, 0), seed)
    for _ in estimator.run(batches[i % len(batches)] for i in range(probes)):
        pass
    return estimator


def test_estimates_agree_with_the_exact_trace(small):
    net, batches = small
    estimator = estimate(net, cross_entropy(net), batches, 400)
    for row, (name, module) in zip(estimator.results(), quantizable(net), strict=True):
        exact = np.mean([float(exact_block(net, name, batch).trace()) for batch in batches]) / module.weight.numel()
        assert (row.layer, row.shape, row.samples) == (name, tuple(module.weight.shape), 400)
        assert abs(row.trace - exact) < 3.5 * row.std_error < 0.4 * abs(exact)


@pytest.fixture(scope="module")
def many():
    """A network, its one batch and 1600 samples of each layer."""
    net, batches = small_network()
    return net, batches[0], estimate(net, cross_entropy(net), batches[:1], 1600).samples


def test_many_samples_of_one_batch_meet_its_trace(many):
    net, batch, samples = many
    for name in samples:
        trace, std_error = mean_and_error(samples[name])
        exact = float(exact_block(net, name, batch).trace()) / net.get_submodule(name).weight.numel()
        assert abs(trace - exact) < 3.5 * std_error < 0.15 * abs(exact)


def test_samples_have_the_variance_of_hutchinson(many):
    """2 * sum of H_ab^2 over a != b, and nothing of the other layers' blocks."""
    net, batch, samples = many
    for name in samples:
        block = exact_block(net, name, batch)
        off_diagonal = block.square().sum() - block.diagonal().square().sum()
        exact = math.sqrt(2 * float(off_diagonal)) / block.shape[0]
        assert np.std(samples[name], ddof=1) == pytest.approx(exact, rel=0.12)


def test_standard_error_falls_with_the_root_of_the_number(many):
    for values in many[2].values():
        errors = [mean_and_error(values[:n])[1] for n in (100, 400, 1600)]
        assert errors[0] / errors[1] == pytest.approx(2, rel=0.25) and errors[1] / errors[2] == pytest.approx(2, rel=0.25)


def test_standard_error_is_honest(many):
    """Over many short runs, two thirds of the means lie within one standard error, nearly all within three."""
    net, batch, samples = many
    exact = float(exact_block(net, "inner", batch).trace()) / net.inner.weight.numel()
    runs = [mean_and_error(samples["inner"][i:i + 32]) for i in range(0, 1600, 32)]
    away = np.array([abs(trace - exact) / std_error for trace, std_error in runs])
    assert 0.5 < (away < 1).mean() < 0.85 and (away < 3).mean() > 0.95


def test_a_linear_layer_with_squared_error_in_closed_form():
    """loss = mean |Wx - y|^2 / 2: the block is the mean of x x^T for each output, whatever W and y."""
    net = nn.Linear(6, 4, bias=False).double()
    x, y = torch.randn(40, 6, generator=seeded()).double(), torch.randn(40, 4, generator=seeded(1)).double()
    estimator = estimate(net, lambda batch: (net(batch) - y).square().sum(1).mean() / 2, [x], 400)
    (row,) = estimator.results()
    assert abs(row.trace - float(x.square().mean())) < 3.5 * row.std_error < 0.1 * row.trace
    # With orthogonal inputs the block is diagonal: v^T H v is the trace for all signs, and no error is left.
    (row,) = estimate(net, lambda batch: (net(batch)).square().sum(1).mean() / 2, [2 * torch.eye(6).double()], 3).results()
    assert row.trace == pytest.approx(4 / 6, rel=EXACTLY) and row.std_error < EXACTLY


def test_a_sample_is_the_second_difference_of_the_loss(small):
    """(L(w + hv) - 2 L(w) + L(w - hv)) / h^2 along the signs of one layer."""
    net, batches = small
    estimator = TraceEstimator(net, cross_entropy(net), seed=3)
    estimator.probe(batches[0])
    step = 1e-4
    for name, module in quantizable(net):
        signs, losses = estimator._signs(name, 0), []
        assert set(signs.unique().tolist()) == {-1, 1}
        with torch.no_grad():
            for shift in (step, -step, -step, step):
                module.weight += shift * signs
                losses.append(float(cross_entropy(net)(batches[0])))
        difference = (losses[0] - 2 * losses[1] + losses[2]) / step**2 / module.weight.numel()
        assert estimator.samples[name][0] == pytest.approx(difference, rel=1e-4)


def test_float32_double_backward_of_a_resnet_is_that_of_float64():
    class Pooling(nn.Module):  # the network's own works in float32
        def forward(self, x):
            return torch.cat([x.mean(-1), (x.var(-1) + VARIANCE_FLOOR).sqrt()], 1)

    torch.manual_seed(0)
    net = build("ResNet18", 24, 8, width=4).eval()
    net.pool = Pooling()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2), module.running_mean.normal_(0, 0.2)
    x, labels = torch.randn(4, 40, 24), torch.arange(4)
    found = []
    for dtype in (torch.float32, torch.float64):
        net.to(dtype)
        found.append(estimate(net, cross_entropy(net), [(x.to(dtype), labels)], 2).samples)
    for name in found[1]:
        scale = max(map(abs, found[1][name]))
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=0, atol=1e-3 * scale)


def test_each_layer_stops_by_itself(small):
    net, batches = small
    rule = StoppingRule(5, 60, 0.15)
    estimator = TraceEstimator(net, cross_entropy(net), rule)
    for probe, _ in enumerate(estimator.run(batches[i % 4] for i in range(1000)), 1):
        assert estimator.probes == probe
    counts = [len(values) for values in estimator.samples.values()]
    assert len(set(counts)) > 1 and max(counts) <= 60 and min(counts) >= 5
    every = estimate(net, cross_entropy(net), batches, 60).samples
    for row in estimator.results():
        assert row.relative_error <= 0.15 or row.samples == 60
        # No sooner than allowed, no later than needed, and the samples are those of any other rule.
        assert not rule.done(estimator.samples[row.layer][:-1])
        assert estimator.samples[row.layer] == pytest.approx(every[row.layer][:row.samples], rel=EXACTLY)


def test_the_rule():
    rule = StoppingRule(4, 6, 0.5)
    assert not rule.done([1, 1, 1]) and rule.done([1, 1, 1, 1])
    assert not rule.done([1, -1, 1, -1, 1]) and rule.done([1, -1, 1, -1, 1, -1])
    assert rule.done([-1, -1.1, -1, -1]) and rule.done([0, 0, 0, 0])
    for wrong in ((1, 5, 0.1), (5, 4, 0.1), (5, 6, -0.1), (5, 6, math.nan)):
        with pytest.raises(ValueError):
            StoppingRule(*wrong)


def test_same_seed_same_samples_and_the_net_is_left_as_it_was(small):
    net, batches = small
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = estimate(net.train(), cross_entropy(net), batches, 5).samples
    assert first == estimate(net, cross_entropy(net), batches, 5).samples and not net.training
    assert first != estimate(net, cross_entropy(net), batches, 5, seed=1).samples
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_what_cannot_be_measured_is_said(small):
    net, batches = small
    with pytest.raises(UserError, match="layer conv: the curvature of the loss is nan in probe 1"):
        TraceEstimator(net, cross_entropy(net)).probe((batches[0][0] * math.nan, batches[0][1]))
    with pytest.raises(UserError, match="layer conv is quantized"):
        TraceEstimator(quantize_(net, QuantConfig(bits=2)), cross_entropy(net))


numbers = st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.6g}"))
shapes = st.lists(st.integers(1, 512), min_size=1, max_size=4).map(tuple)
table = st.lists(st.tuples(st.text("abc.012", min_size=1, max_size=8), shapes, numbers, numbers.map(abs), st.integers(1, 999)),
                 min_size=1, max_size=6, unique_by=lambda row: row[0])


@given(table)
def test_a_table_survives_the_file(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "sensitivity.tsv"
    rows = [LayerSensitivity(*row) for row in rows]
    write_sensitivity(path, rows)
    assert read_sensitivity(path) == rows


HEADER = "layer\tshape\ttrace\tstd_error\tsamples\n"


@pytest.mark.parametrize("text, message", [
    ("", "empty table"),
    ("layer\tshape\ttrace\tbits\n", ":1: the header must be layer shape trace std_error samples"),
    (HEADER, ":1: no row follows"),
    (HEADER + "a\t2x3\t1.0\t0.1\n", ":2: must have 5 fields"),
    (HEADER + "a\t2x3\t1.0\t0.1\t9\n# note\na\t2x3\t1.0\t0.1\t9\n", ":4: layer a is already on line 2"),
    (HEADER + "a\t2,3\t1.0\t0.1\t9\n", ":2: layer a: shape is '2,3'"),
    (HEADER + "a\t2x3\thuge\t0.1\t9\n", ":2: layer a: trace is 'huge'; it must be a number"),
    (HEADER + "a\t2x3\tnan\t0.1\t9\n", ":2: layer a: trace is 'nan'"),
    (HEADER + "a\t2x3\t1.0\t-0.1\t9\n", ":2: layer a: std_error is -0.1; it must not be negative"),
    (HEADER + "a\t2x3\t1.0\t0.1\t0\n", ":2: layer a: samples is '0'; it must be a positive integer"),
    (HEADER + "a\t2x3\t1.0\t0.1\t2.5\n", ":2: layer a: samples is '2.5'"),
])
def test_a_bad_table_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "sensitivity.tsv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_sensitivity(path)
    assert str(error.value).startswith(f"{path}:") and message in str(error.value) and "\n" not in str(error.value)


class Measured:
    """A tiny model, its data, and the worker run on them."""

    def __init__(self, folder):
        self.folder, self.data, self.model = folder, data_dir(folder, speakers=3, utts=8, seconds=0.6), folder / "model"
        config = folder / "conf.yaml"
        config.write_text(yaml.safe_dump({**TINY, "epochs": 1, "average": 1}))
        run_worker(train.main, "--config", config, "--data", self.data, "--out", self.model)

    def arguments(self, out, *more, model=None, data=None):
        return [str(word) for word in ("--model", model or self.model, "--data", data or self.data, "--out", out,
                                       "--num-threads", 1, "--batch-size", 4, "--min-probes", 3, "--max-probes", 7,
                                       "--tolerance", 0.3, *more)]

    def __call__(self, name, *more, **options):
        out = self.folder / name
        run_worker(sensitivity.main, *self.arguments(out, *more, **options))
        return out

    def refused(self, *more, **options):
        with pytest.raises(UserError) as error:
            self("refused.tsv", *more, **options)
        assert not list(self.folder.glob("*refused.tsv*")) and "\n" not in str(error.value)
        return str(error.value)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return Measured(tmp_path_factory.mktemp("measured model"))


@pytest.fixture(scope="module")
def undisturbed(measured):
    return measured("whole.tsv").read_bytes()


def test_the_worker_writes_a_row_for_each_layer(measured, undisturbed, capsys):
    rows = read_sensitivity(measured("again.tsv"))
    assert (measured.folder / "again.tsv").read_bytes() == undisturbed
    net = build("ResNet18", 24, 8, width=4)
    assert [(row.layer, row.shape) for row in rows] == [(n, tuple(m.weight.shape)) for n, m in quantizable(net)]
    assert all(3 <= row.samples <= 7 and row.std_error > 0 for row in rows)
    assert not list(measured.folder.glob("*.resume"))
    out, err = capsys.readouterr()
    assert "again.tsv: 21 layers, up to 7 probes" in out and "more --max-probes would help" in err and "probes: 7/7" in err


def test_the_loss_is_that_of_the_training(measured, monkeypatch):
    """Crops, margin and scale come from provenance.yaml; options go before."""
    for more, margin, seconds in (((), 0.2, 0.4), (("--margin", 0, "--crop-seconds", 0.3), 0, 0.3)):
        monkeypatch.setattr(sys, "argv", ["worker", *measured.arguments("out", *more)])
        options = sensitivity.with_defaults_of_training(sensitivity.parse_options())
        assert (options.margin, options.crop_seconds, options.input, options.scale) == (margin, seconds, "wav", 32)


def test_two_threads_give_the_same_up_to_rounding(measured, undisturbed):
    two = read_sensitivity(measured("two.tsv", "--num-threads", 2, "--min-probes", 2, "--max-probes", 2))
    one = read_sensitivity(measured("one.tsv", "--min-probes", 2, "--max-probes", 2))
    for row, other in zip(one, two, strict=True):
        assert abs(row.trace - other.trace) < 1e-3 * (abs(row.trace) + row.std_error)


class Stop(Exception):
    pass


@pytest.mark.parametrize("probes", [4, 6])  # 6: all batches of the first epoch
def test_resuming_after_any_probe_gives_the_same_bytes(measured, undisturbed, monkeypatch, capsys, probes):
    original = Checkpoint.save

    def save_or_stop(self, samples):
        original(self, samples)
        if max(map(len, samples.values())) == probes:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_or_stop)
        with pytest.raises(Stop):
            measured(f"stop{probes}.tsv")
    assert not (measured.folder / f"stop{probes}.tsv").exists()
    assert measured(f"stop{probes}.tsv").read_bytes() == undisturbed
    assert "resuming from" in capsys.readouterr().out


def test_a_killed_worker_resumes_to_the_same_bytes(measured, undisturbed):
    out = measured.folder / "killed.tsv"
    process = subprocess.Popen([sys.executable, "-m", "svq.bin.sensitivity", *measured.arguments(out)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    resume = measured.folder / "killed.tsv.resume"
    while not resume.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(), process.stderr.close()
    assert not out.exists() and load_checkpoint(resume)["samples"]["conv1"]
    assert measured("killed.tsv").read_bytes() == undisturbed
    assert sorted(path.name for path in measured.folder.glob("*killed*")) == ["killed.tsv"]


def test_samples_of_another_run_are_not_taken_up(measured, undisturbed, monkeypatch, capsys):
    def stop(self, samples, original=Checkpoint.save):
        original(self, samples)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", stop)
        with pytest.raises(Stop):
            measured("anew.tsv", "--seed", 5)
    assert measured("anew.tsv").read_bytes() == undisturbed
    assert "starting anew" in capsys.readouterr().out


def test_the_worker_refuses_in_one_line(measured, tmp_path):
    def copy(name, *without):
        shutil.copytree(measured.model, tmp_path / name)
        for file in without:
            os.unlink(tmp_path / name / file)
        return tmp_path / name

    model = copy("headless", "head.safetensors")
    assert measured.refused(model=model) == f"{model}/head.safetensors: no such file"
    model = copy("nobody", "speakers.txt")
    assert f"{model}/speakers.txt: no such file" in measured.refused(model=model)
    model = copy("unknown", "provenance.yaml")
    assert f"{model}/provenance.yaml: no such file; a folder that svq.bin.train wrote" in measured.refused(model=model)
    model = copy("empty")
    (model / "provenance.yaml").write_text("seed: 1\n")
    assert "does not tell how the model was trained" in measured.refused(model=model)
    others = data_dir(tmp_path, speakers=2, utts=8, seconds=0.6, name="others")
    assert "trained on other speakers" in measured.refused(data=others)
    assert "none/utt2spk is missing" in measured.refused(data=tmp_path / "none")
    assert "feats.scp is missing" in measured.refused("--input", "feats")
    assert "do not fill a batch of 400" in measured.refused("--batch-size", 400)
    assert "--batch-size 0: must be at least 1" in measured.refused("--batch-size", 0)
    assert "--margin 2: must be in" in measured.refused("--margin", 2)
    assert "min_probes (3)" in measured.refused("--max-probes", 2)
    assert "neither a model folder" in measured.refused(model=tmp_path / "none")
    net, config = load_model(measured.model)
    quant = QuantConfig(bits=3)
    model = copy("quantized")
    save_model(model, quantize_(net, quant), dataclasses.replace(config, quant=quant))
    assert f"{model}: is quantized; measure the float model" in measured.refused(model=model)
