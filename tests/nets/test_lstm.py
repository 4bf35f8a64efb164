"""The LSTM over windows against its windows one by one, and its ONNX files at any duration."""

import copy

import numpy as np
import pytest
import torch

from svq.data.mels import WINDOW, WINDOW_HOP
from svq.deploy.compact import compact
from svq.deploy.export import export_float, write
from svq.deploy.runtimes import load_embedder
from svq.errors import UserError
from svq.nets import build, num_parameters, options_of
from svq.network import FrontEndConfig, ModelConfig
from svq.pack.file import load_with_codes, save_packed
from svq.quant import QuantConfig, quantize_
from svq.quant.api import freeze_
from svq.quant.calibrated import calibrate_
from tests.importing.formula import waveform

FRONT_END = FrontEndConfig(num_mels=40, mean_normalize=False, fbank="resemblyzer", least_dbfs=-30.0)


def network(**options):
    torch.manual_seed(0)
    net = build("GE2ELSTM", 10, 12, width=8, layers=2, **options).eval()
    net.embedding.bias.data.add_(0.2)
    return net


def test_it_has_the_size_that_is_published():
    with torch.device("meta"):
        assert num_parameters(build("GE2ELSTM", 40, 256)) == 1_423_618 - 2  # without scale and shift of its loss


def test_front_end_and_network_have_the_same_windows():
    """Features of the front end end with a window of the network."""
    assert (options_of("GE2ELSTM")["window"], options_of("GE2ELSTM")["hop"]) == (WINDOW, WINDOW_HOP)


@pytest.mark.parametrize("frames, starts", [(30, [0]), (44, [0]), (49, [0, 5]), (53, [0, 5]), (79, [0, 5, 10, 15, 20, 25, 30, 35])])
@torch.no_grad()
def test_the_mean_over_windows(frames, starts):
    net = network(window=44, hop=5)
    x = torch.randn(3, frames, 10, generator=torch.Generator().manual_seed(1))
    whole = x if frames >= 44 else torch.cat([x[:, :1]] * 7 + [x] + [x[:, -1:]] * 7, dim=1)
    parts = []
    for start in starts:
        _, (state, _) = net.lstm(whole[:, start:start + 44])
        part = net.embedding(state[-1]).clamp(min=0)
        parts.append(part / part.norm(dim=1, keepdim=True))
    mean = torch.stack(parts).mean(0)
    torch.testing.assert_close(net(x), mean / mean.norm(dim=1, keepdim=True), rtol=0, atol=1e-6)
    torch.testing.assert_close(net(x[1:2]), net(x)[1:2], rtol=0, atol=1e-6)


def test_gradients_are_finite_where_a_window_has_no_embedding():
    net = network(window=44, hop=5)
    net.embedding.weight.data.zero_()
    net.embedding.bias.data.fill_(-1)
    net(torch.zeros(1, 50, 10)).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The packed file of a quantized network."""
    torch.manual_seed(0)
    config = ModelConfig("GE2ELSTM", {"width": 16, "layers": 2}, 12, FRONT_END, QuantConfig("kmqat", bits=3, per_channel=False))
    net = quantize_(config.build().eval(), config.quant)
    path = tmp_path_factory.mktemp("lstm") / "model.svq"
    save_packed(path, net, config)
    return path


@pytest.mark.parametrize("suffix, front_end", [("onnx", True), ("onnx", False), ("xml", True)])
@torch.no_grad()
def test_exported_it_agrees_with_the_packed_file(packed, tmp_path, suffix, front_end):
    """Compact ONNX, with its front end, and OpenVINO: for recordings of one window, of several, and in a batch."""
    net, config, layers = load_with_codes(packed)
    graph = export_float(freeze_(net), config, front_end=front_end)
    if suffix == "onnx":
        plain, graph = graph, compact(graph, layers)
        assert len(graph.packed) == 5 and len(graph.model.SerializeToString()) < len(plain.model.SerializeToString())
    write(graph, tmp_path / f"model.{suffix}")
    reference, found = load_embedder(packed), load_embedder(tmp_path / f"model.{suffix}")
    assert found.input == ("waveform" if front_end else "features") and found.frames is None
    for samples, gain in ((400, 1.0), (31519, 1.0), (31520, 0.001), (100000, 1.0)):
        x = gain * torch.cat([waveform(samples), waveform(samples).flip(1)]).numpy()
        np.testing.assert_allclose(found.waveforms(x), reference.waveforms(x), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.waveforms(x[:1]), reference.waveforms(x)[:1], rtol=0, atol=1e-5)


@torch.no_grad()
def test_calibrated_on_several_windows_it_is_nearer_to_the_float_network_than_rounded():
    net, feats = network(window=44, hop=20), torch.randn(6, 110, 10, generator=torch.Generator().manual_seed(2))
    quant = QuantConfig("kmqat", bits=2, per_channel=False)
    rounded, calibrated = quantize_(copy.deepcopy(net), quant).eval(), calibrate_(copy.deepcopy(net), quant, feats)
    apart = [(1 - (other(feats) * net(feats)).sum(1)).mean() for other in (rounded, calibrated)]
    assert 0 < apart[1] < 0.7 * apart[0]


def test_sherpa_onnx_is_refused_in_one_line(packed):
    from svq.deploy.sherpa import for_sherpa

    net, config, _ = load_with_codes(packed)
    with pytest.raises(UserError, match="its front end has fbank resemblyzer, sherpa-onnx's kaldi"):
        for_sherpa(export_float(freeze_(net), config), "x.onnx")
