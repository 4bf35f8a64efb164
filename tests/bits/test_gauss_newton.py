"""Sensitivities without labels: the Hessian of the distance to the network's own embeddings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svq.bin import fit_head, sensitivity
from svq.bits.sensitivity import GaussNewtonEstimator, StoppingRule, TraceEstimator, read_sensitivity
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import save_model
from svq.network import ModelConfig, load_tensors
from svq.quant.api import quantizable
from tests.builders import data_dir
from tests.helpers import run_worker


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.inner, self.out = nn.Conv1d(3, 4, 3), nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, x):
        return F.normalize(self.out(torch.tanh(self.inner(torch.tanh(self.conv(x)).mean(-1)))))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Net().double().eval(), torch.randn(6, 3, 12, dtype=torch.float64)


def exact_trace(net, name, x) -> float:
    """Of the Hessian of 1 - cosine to the present embeddings, by torch's own routine."""
    weight, before = net.get_submodule(name).weight, net(x).detach()

    def loss(flat):
        after = torch.func.functional_call(net, {f"{name}.weight": flat.view(weight.shape)}, (x,))
        return (1 - F.cosine_similarity(after, before)).mean()

    return float(torch.autograd.functional.hessian(loss, weight.detach().flatten()).trace())


def test_one_backward_pass_gives_every_layers_trace(small):
    net, x = small
    estimator = GaussNewtonEstimator(net, net, StoppingRule(2, 500, 0))
    for _ in estimator.run([x] * 500):
        pass
    for row, (name, module) in zip(estimator.results(), quantizable(net), strict=True):
        exact = exact_trace(net, name, x) / module.weight.numel()
        assert abs(row.trace - exact) < 3.5 * row.std_error < 0.3 * exact


def test_second_derivatives_of_the_distance_give_the_same(small):
    net, x = small
    before = net(x).detach()
    loss = lambda batch: (net(batch) - before).square().sum(1).mean() / 2  # noqa: E731
    estimator = TraceEstimator(net, loss, StoppingRule(2, 300, 0))
    for _ in estimator.run([x] * 300):
        pass
    for row in estimator.results():
        exact = exact_trace(net, row.layer, x) / np.prod(row.shape)
        assert abs(row.trace - exact) < 3.5 * row.std_error < 0.4 * exact


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """(folder of a model without classifier and without provenance, speech)"""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    config = ModelConfig("ResNet18", {"width": 4}, 8, FrontEndConfig(num_mels=24))
    save_model(folder / "model", config.build().eval(), config)
    return folder / "model", data_dir(folder, speakers=3, utts=3, seconds=0.6)


def measure(foreign, *more):
    model, data = foreign
    out = model / "sensitivity.tsv"
    run_worker(sensitivity.main, "--model", model, "--data", data, "--out", out, "--num-threads", 1, "--batch-size", 3,
               "--min-probes", 3, "--max-probes", 5, "--crop-seconds", 0.4, *more)
    return read_sensitivity(out), out.read_bytes()


def test_the_worker_needs_no_labels_and_is_repeatable(foreign):
    rows, first = measure(foreign, "--objective", "embedding")
    assert len(rows) == 21 and all(row.trace > 0 and row.std_error > 0 for row in rows)
    assert measure(foreign, "--objective", "embedding")[1] == first
    with pytest.raises(UserError, match="leave them out with --objective embedding"):
        measure(foreign, "--objective", "embedding", "--margin", 0.1)
    with pytest.raises(UserError, match="or all of --input, --crop-seconds, --margin and --scale"):
        measure(foreign, "--margin", 0.1)


def test_a_fitted_classifier_will_do_for_labels(foreign):
    model, data = foreign
    run_worker(fit_head.main, "--model", model, "--data", data)
    weight = load_tensors(model / "head.safetensors")["weight"]
    assert weight.shape == (3, 8) and torch.allclose(weight.norm(dim=1), torch.ones(3))
    assert (model / "speakers.txt").read_text() == "spk00\nspk01\nspk02\n"
    run_worker(fit_head.main, "--model", model, "--data", data)
    assert torch.equal(load_tensors(model / "head.safetensors")["weight"], weight)
    rows, _ = measure(foreign, "--input", "wav", "--margin", 0.2, "--scale", 32)
    assert len(rows) == 21
    with pytest.raises(SystemExit, match="2"):
        run_worker(fit_head.main, "--model", model, "--data", data, "--max-seconds", -1)
