"""Recurrent networks as ONNX and OpenVINO files: float at any duration, INT8 around it, one line for what cannot be."""

import copy

import numpy as np
import pytest
import torch

from svq.data.frontend import FrontEndConfig
from svq.deploy.export import export_dynamic_int8, export_float, export_int8, float_layers, write
from svq.deploy.int8 import Int8Config
from svq.deploy.runtimes import load_embedder
from svq.errors import UserError
from svq.network import ModelConfig
from svq.quant import QuantConfig, quantize_
from svq.quant.api import freeze_, quantizable
from svq.search.tradeoff import counted_as, mean_bits
from tests.deploy.small_nets import cosines, feats
from tests.quant.recurrent_nets import recurrent, register

QUANT = QuantConfig("uniform", 4)


def network(monkeypatch, **case):
    """A frozen quantized network that takes 80 features, and its config."""
    config = ModelConfig(register(monkeypatch), case, 6, FrontEndConfig(), QUANT)
    return freeze_(quantize_(recurrent(feat_dim=80, **case), QUANT)), config


@pytest.mark.parametrize("case", [{"layers": 2, "bidirectional": True}, {"kind": "GRU", "batch_first": False},
                                  {"kind": "RNN", "bias": False}], ids=str)
@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_any_duration_in_float(monkeypatch, tmp_path, case, suffix):
    net, config = network(monkeypatch, **case)
    before = copy.deepcopy(net)
    graph = export_float(net, config)
    assert list(graph.layers) == ["embedding"]
    write(graph, tmp_path / f"x.{suffix}")
    embedder = load_embedder(tmp_path / f"x.{suffix}")
    for frames, batch in ((100, 2), (37, 1), (1, 3)):
        x = feats(frames, batch=batch)
        with torch.no_grad():
            expected = before(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(embedder(x), expected, rtol=1e-4, atol=1e-5)


def test_int8_leaves_recurrent_layers_in_float(monkeypatch, tmp_path):
    net, config = network(monkeypatch)
    graph = export_float(net, config)
    samples = [feats(60, seed, 1) for seed in range(4)]
    for int8 in (export_int8(graph, samples, Int8Config()), export_dynamic_int8(graph)):
        assert "LSTM" in {node.op_type for node in int8.model.graph.node}
        write(int8, tmp_path / "x.onnx")
        embedder = load_embedder(tmp_path / "x.onnx")
        assert embedder.metadata.details["float_layers"] == ["rnn.weight_hh_l0", "rnn.weight_ih_l0"]
        x = feats(60, 9)
        assert cosines(embedder(x), load_float(graph, tmp_path)(x)).min() > 0.99
        sizes = {name: layer.weight.numel() for name, layer in quantizable(net)}
        expected = sum(n * (8 if name == "embedding" else 32) for name, n in sizes.items()) / sum(sizes.values())
        assert mean_bits(counted_as(embedder)) == pytest.approx(expected)
    with pytest.raises(UserError, match="every layer that could be INT8 is to stay in float"):
        export_int8(graph, [feats(60)], Int8Config(), float_layers(net, ["rnn", "embedding"]))
    assert float_layers(net, ["rnn"]) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}


def load_float(graph, folder):
    write(graph, folder / "float.onnx")
    return load_embedder(folder / "float.onnx")


def test_names_of_matrices_may_be_kept_in_float(monkeypatch):
    net, config = network(monkeypatch)
    graph = export_float(net, config)
    int8 = export_int8(graph, [feats(60, 0, 1)], Int8Config(), float_layers(net, ["rnn"]))
    assert int8.snapped.keys() == {"embedding"}


def test_projections_are_refused(monkeypatch):
    net, config = network(monkeypatch, projection=4)
    with pytest.raises(UserError, match="^rnn: an LSTM with projections .*; ONNX has none: use a packed file$"):
        export_float(net, config)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_a_loop_over_frames_takes_one_duration(monkeypatch, tmp_path, kind):
    net, config = network(monkeypatch, kind=kind)
    with pytest.raises(UserError, match="^rnn: a loop over frames is unrolled, .* name it by --seconds$"):
        export_float(net, config)
    write(export_float(net, config, seconds=0.3), tmp_path / "x.onnx")
    x = feats(28)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(load_embedder(tmp_path / "x.onnx")(x), expected, rtol=1e-4, atol=1e-5)
