"""Compact ONNX files: every kind of codes comes out as it went in, folded by the runtime; small; damage is noticed."""

import collections
import copy
import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from torch import nn

from svq import nets
from svq.bin import export
from svq.deploy import codes, seal
from svq.deploy.compact import CLOSE, check, compact
from svq.deploy.constants import Constants
from svq.deploy.export import export_dynamic_int8, export_float, export_int8, float_layers, write
from svq.deploy.graph import OPSET, initializer
from svq.deploy.int8 import Int8Config
from svq.deploy.runtimes import load_embedder
from svq.errors import UserError
from svq.models import save_model
from svq.network import ModelConfig
from svq.pack.file import as_packed, load_with_codes, save_packed
from svq.pack.reading import unpack_layers
from svq.pack.writing import pack_layers
from svq.quant import QuantConfig, quantize_
from svq.quant.api import freeze_, quantizable
from svq.quant.batchnorm_fold import fold_into_layers_
from svq.quant.quantizers import METHODS
from tests.builders import data_dir, voice
from tests.deploy.small_nets import cosines, feats, small_config, small_net
from tests.helpers import run_worker
from tests.quant.recurrent_nets import recurrent, register

CALIBRATION = [feats(60, seed, batch=1) for seed in range(100, 104)]


def computed(constants, *names):
    """What ONNX Runtime makes of constants."""
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in names]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in constants.tensors.items()]
    graph = onnx.helper.make_graph(constants.nodes, "constants", [], outputs, stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(list(names), {})


LEARNED = [QuantConfig(method, bits, per_channel=each) for method in ("kmqat", "uniform", "pot", "apot", "admm")
           for bits in range(1, 9) for each in (False, True)]
GRIDS = [QuantConfig("integer", bits, scheme=scheme, per_channel=each) for bits in range(2, 9)
         for scheme in ("symmetric", "affine") for each in (False, True)]
BINARY = [QuantConfig(method, bits, per_channel=each) for method, bits in (("static", 1), ("adaptive", 1), ("twn", 2))
          for each in (False, True)]
OTHERS = [QuantConfig(bits=3, rescaling="asymmetric"), QuantConfig(bits=1, binary="adaptive"),
          QuantConfig("integer", 1, binary="static")]


def name_of(config):
    return f"{config.method}{config.bits}{config.scheme[0]}{'-channels' if config.per_channel else ''}"


def packed_layer(config, shape, seed=0):
    """A quantized convolution or linear layer of that weight, its quantized weight, its UnpackedLayer."""
    torch.manual_seed(seed)
    layer = nn.Conv2d(shape[1], shape[0], shape[2:]) if len(shape) == 4 else nn.Linear(*shape[::-1])
    net = quantize_(nn.Sequential(layer), config).eval()
    rows, tensors = pack_layers(net, entropy=False)
    (unpacked,) = unpack_layers([row.as_list() for row in rows], {"0": net[0].weight.shape}, tensors)
    return net[0].weight.detach().numpy(), unpacked


@pytest.mark.parametrize("config", LEARNED + GRIDS + BINARY + OTHERS, ids=name_of)
def test_weights_of_every_method(config):
    """To float16, which codebooks of channels are kept in; the packed ones exactly. 315 and 21 weights fill no byte, and some take routes of their own."""
    constants, factor = Constants(), np.linspace(-2, 3, 7, dtype=np.float32)
    shapes = ((7, 5, 3, 3), (7, 3), (7, 520))
    layers = [packed_layer(config, shape) for shape in shapes]
    made = computed(constants, *[codes.float_weight(constants, layer, by, shape)
                                 for (_, layer), shape in zip(layers, shapes) for by in (None, factor)])
    for (weight, layer), shape, found, times in zip(layers, shapes, made[::2], made[1::2]):
        np.testing.assert_array_equal(found, layer.weight().numpy())
        np.testing.assert_allclose(found, weight, rtol=1e-3, atol=1e-3 * np.abs(weight).max())
        np.testing.assert_allclose(times, found * factor.reshape(-1, *[1] * (len(shape) - 1)), rtol=1e-6)
        bits = 8 * codes.packed_bytes(weight.size, layer.row.levels) / weight.size
        assert bits <= config.bits + 24 / weight.size and (layer.row.levels != 3 or shape == (7, 3) or bits < 1.65)


def test_every_method_was_tried():
    tried = LEARNED + GRIDS + BINARY
    assert {config.method for config in tried} | {"nested"} == METHODS.keys()
    assert {config.bits for config in tried if config.method == "kmqat"} == set(range(1, 9))


levels_and_codes = st.integers(1, 256).flatmap(
    lambda levels: st.tuples(st.just(levels), st.lists(st.integers(0, levels - 1), min_size=1, max_size=60)))


@given(levels_and_codes)
def test_split_codes(case):
    """Digits, leading ones first, are the code; as densely as bits can lie."""
    levels, numbers = case[0], np.array(case[1], dtype=np.uint8)
    parts, back = codes.split(numbers, levels), np.zeros(numbers.size, dtype=np.int64)
    for base, packed in parts:
        digits = codes.digits_of(base)
        powers = base ** np.arange(digits - 1, -1, -1)
        back = back * base + (packed[:, None] // powers % base).ravel()[:numbers.size]
    assert back.tolist() == numbers.tolist()
    assert sum(packed.size for _, packed in parts) == codes.packed_bytes(numbers.size, levels)
    if levels != 3:  # a bit of a code is a bit of the file
        bits = max(1, int(levels - 1).bit_length())
        assert 8 * codes.packed_bytes(numbers.size, levels) < bits * numbers.size + 8 * len(parts)
    with pytest.raises(ValueError, match="levels"):
        codes.split(np.array([levels], dtype=np.int64), levels)


@settings(max_examples=40)
@given(st.integers(1, 256), st.integers(1, 5), st.sampled_from([1, 7, 8, 520]), st.booleans(),
       st.sampled_from([np.float32, np.int8]), st.integers(0, 2**32 - 1))
def test_codes_are_looked_up(levels, channels, each, one_row, dtype, seed):
    """In tables of one row or one a channel, of short and long channels, that fill bytes or do not."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, levels, (channels, each)).astype(np.uint8)
    rows = 1 if one_row else channels
    table = rng.integers(0, 127, (rows, levels)).astype(dtype)
    constants, shapes = Constants(), ((channels, 1, each), (1, channels, each))
    outputs = [codes.looked_up(constants, numbers, constants.tensor(table.ravel()), rows, levels, shape)
               for shape in shapes]
    expected = np.broadcast_to(table, (channels, levels))[np.arange(channels)[:, None], numbers]
    for found, shape in zip(computed(constants, *outputs), shapes):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected.reshape(shape))


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(2, 16), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_integers_of_codes(channels, weights, levels, kinds, seed):
    """Rows of integers are shared where channels allow it, and give every weight back."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-127, 128, (kinds, levels))
    numbers = rng.integers(0, levels, (channels, weights))
    which = rng.integers(0, kinds, channels)
    weight = rows[which[:, None], numbers].astype(np.int8)
    found, row_of = codes.integer_rows(numbers, weight, levels)
    assert (found[row_of[:, None], numbers] == weight).all() and len(found) <= channels
    assert kinds > 1 or len(found) == 1
    if weights > 1:
        numbers[0], weight[0, :2] = 0, (1, 2)
        with pytest.raises(ValueError, match="different integers"):
            codes.integer_rows(numbers, weight, levels)


def network(arch="ResNet18", quant=QuantConfig(bits=2), fold=False):
    """A packed network, its config and its layers as codes."""
    config = dataclasses.replace(small_config(arch), quant=quant)
    net = small_net(config)
    if fold:
        config = dataclasses.replace(config, folded=fold_into_layers_(net, torch.from_numpy(feats(50))))
    return as_packed(quantize_(net, quant).eval(), config)


def optimized(path, folder):
    """Operators that are left when ONNX Runtime has loaded a file."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 3
    onnxruntime.InferenceSession(path, options)
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def compared(graph, layers, folder, weights=("packed",)):
    """Writes both forms; (plain, compact embedder), having seen that the runtime makes the same graph of both.

    weights: what the second may say of its weights."""
    small = compact(graph, layers)
    write(graph, folder / "plain.onnx")
    write(small, folder / "compact.onnx")
    onnx.checker.check_model(onnx.load(folder / "compact.onnx"))
    assert optimized(folder / "compact.onnx", folder) == optimized(folder / "plain.onnx", folder)
    plain, small = (load_embedder(folder / f"{name}.onnx") for name in ("plain", "compact"))
    assert plain.metadata.weights == "plain" and small.metadata.weights in weights
    return plain, small


QUICK = [("ResNet18", QuantConfig(bits=3, layers={"layers.[01]*": 5, "conv1": 32, "embedding": 1}), False),
         ("XVector", QuantConfig("integer", 7, per_channel=False), False),
         ("FCStudent", QuantConfig("static", 1), False), ("FCStudent", QuantConfig("nested", 4), False)]
LARGER = [("ResNet18", QuantConfig("integer", 4, scheme="affine"), True),
          ("ECAPASpeechBrain", QuantConfig(bits=4, per_channel=False), False),
          ("CAMPPlus", QuantConfig(bits=4), False), ("CAMPPlus", QuantConfig(bits=1), False),
          ("ERes2NetBase", QuantConfig(bits=4), False), ("ERes2NetV2", QuantConfig(bits=1), False),
          ("SimAMResNet34", QuantConfig(bits=4), False), ("GeminiDFResNet60", QuantConfig(bits=1), False),
          ("RepVGGA0", QuantConfig(bits=1), False)]


def names(value):
    return value if isinstance(value, str) else getattr(value, "method", "folded" if value else "")


@pytest.mark.parametrize("arch, quant, fold", QUICK, ids=names)
def test_embeddings_are_those_of_the_packed_file(tmp_path, arch, quant, fold):
    net, config, layers = network(arch, quant, fold=fold)
    graph = export_float(net, config)
    plain, small = compared(graph, layers, tmp_path)
    for frames in (1, 40):
        x = feats(frames, frames)
        with torch.no_grad():
            np.testing.assert_allclose(small(x), net(torch.from_numpy(x)).numpy(), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(small(x), plain(x))
    assert compact(graph, layers).packed == {layer.row.name: layer.row.bits for layer in layers}
    assert small.metadata.config == config


@pytest.mark.parametrize("arch, quant, fold", QUICK, ids=names)
def test_int8_is_that_of_the_plain_file(tmp_path, arch, quant, fold):
    net, config, layers = network(arch, quant, fold=fold)
    graph = export_int8(export_float(net, config), CALIBRATION, Int8Config(), float_layers(net, quant=quant))
    plain, small = compared(graph, layers, tmp_path)
    assert arch != "ResNet18" or "QLinearConv" in optimized(tmp_path / "compact.onnx", tmp_path)
    np.testing.assert_array_equal(small(feats(50)), plain(feats(50)))
    assert len(compact(graph, layers).packed) == len(layers)
    assert os.path.getsize(tmp_path / "compact.onnx") < 0.75 * os.path.getsize(tmp_path / "plain.onnx")


@pytest.mark.parametrize("arch, quant, fold", LARGER, ids=names)
def test_larger_networks(tmp_path, arch, quant, fold):
    test_embeddings_are_those_of_the_packed_file(tmp_path, arch, quant, fold)
    test_int8_is_that_of_the_plain_file(tmp_path, arch, quant, fold)


@pytest.mark.parametrize("arch, bits", [("ReDimNetB2", 4), ("ReDimNet2B6", 1)])
def test_networks_with_attention(tmp_path, arch, bits):
    """ONNX Runtime joins sums and layer norms in the plain INT8 file alone, so that one is met up to rounding."""
    test_embeddings_are_those_of_the_packed_file(tmp_path, arch, QuantConfig(bits=bits), False)
    net, config, layers = network(arch, QuantConfig(bits=bits))
    graph = export_int8(export_float(net, config), CALIBRATION, Int8Config())
    found = {}
    for name, each in (("plain", graph), ("small", compact(graph, layers))):
        write(each, tmp_path / f"{name}.onnx")
        found[name] = load_embedder(tmp_path / f"{name}.onnx").features(feats(50))
    assert os.path.getsize(tmp_path / "small.onnx") < os.path.getsize(tmp_path / "plain.onnx")
    assert cosines(found["small"], found["plain"]).min() > 0.9999


def test_dynamic_int8_and_layers_kept_in_float(tmp_path):
    net, config, layers = network("XVector")
    linear = [name for name, layer in quantizable(net) if isinstance(layer, nn.Linear)]
    float_graph = export_float(net, config)
    for graph in (export_dynamic_int8(float_graph),
                  export_int8(float_graph, CALIBRATION, Int8Config(), float_layers(net, linear))):
        plain, small = compared(graph, layers, tmp_path)
        np.testing.assert_array_equal(small(feats(50)), plain(feats(50)))


def test_weights_are_folded(tmp_path):
    """Convolutions alone are left of a ResNet's weights, and nothing that unpacks."""
    net, config, layers = network()
    compared(export_float(net, config), layers, tmp_path)
    left = optimized(tmp_path / "compact.onnx", tmp_path)
    assert left["Conv"] + left["FusedConv"] == sum(isinstance(module, nn.Conv2d) for module in net.modules())
    assert left.keys().isdisjoint({"GatherElements", "Expand", "Range", "Mod", "BatchNormalization"})


@pytest.mark.parametrize("front_end", [{}, {"window": "hamming", "full_scale": 1.0}, {"fbank": "speechbrain"},
                                       {"fbank": "clova", "variance_normalize": True, "preemphasis": 0.97},
                                       {"fbank": "redimnet", "hop_ms": 15},
                                       {"fbank": "redimnet2", "waveform_normalize": True},
                                       {"fbank": "resemblyzer", "mean_normalize": False, "least_dbfs": -30.0},
                                       {"high_hz": -400.0, "snip_edges": False}, {"rate": 8000, "num_mels": 40}], ids=str)
def test_front_end_for_nothing(tmp_path, front_end):
    """The tables are those that the plain file stores, up to 1 MB."""
    quant = QuantConfig(bits=2)
    config = dataclasses.replace(small_config("FCStudent", **front_end), quant=quant)
    net, config, layers = as_packed(quantize_(small_net(config), quant).eval(), config)
    write(compact(export_float(net, config), layers), tmp_path / "features.onnx")
    plain, small = compared(export_float(net, config, front_end=True), layers, tmp_path)
    x = np.stack([voice(s, 1.1, np.random.default_rng(s)) for s in range(2)])
    np.testing.assert_allclose(small(x), plain(x), rtol=0, atol=1e-6)
    openvino = load_embedder(tmp_path / "compact.onnx", "openvino")
    assert cosines(openvino(x), plain(x)).min() > 0.99999
    features, waveform = (os.path.getsize(tmp_path / f"{name}.onnx") for name in ("features", "compact"))
    assert waveform < features + 6_000 and os.path.getsize(tmp_path / "plain.onnx") > features + 200_000


@pytest.mark.parametrize("arch", ["ResNet18", "ECAPASpeechBrain", "XVector"])
@pytest.mark.parametrize("bits", [4, 1])
def test_front_end_and_graph_take_little(tmp_path, arch, bits):
    config = dataclasses.replace(small_config(arch), quant=QuantConfig(bits=bits))
    net = quantize_(small_net(config), config.quant).eval()
    save_packed(tmp_path / "model.svq", net, config)
    net, config, layers = load_with_codes(tmp_path / "model.svq")
    write(compact(export_float(net, config, front_end=True), layers), tmp_path / "x.onnx")
    assert os.path.getsize(tmp_path / "x.onnx") < os.path.getsize(tmp_path / "model.svq") + 25_000


def test_the_size_of_a_real_network(tmp_path):
    """A ResNet34 of width 32 at 1 to 4 bits, in float and in INT8."""
    torch.manual_seed(0)
    for bits in (4, 3, 2, 1):
        config = ModelConfig("ResNet34", {"width": 32}, quant=QuantConfig("uniform", bits))
        net = quantize_(config.build(), config.quant).eval()
        allowed = 1.03 * save_packed(tmp_path / "model.svq", net, config) + 40_000
        net, config, layers = load_with_codes(tmp_path / "model.svq")
        graph = export_float(net, config, front_end=True)
        samples = [0.1 * np.random.default_rng(0).standard_normal((1, 8000)).astype(np.float32)]
        for exported in (graph, export_int8(graph, samples, Int8Config())):
            write(compact(exported, layers), tmp_path / "x.onnx")
            assert os.path.getsize(tmp_path / "x.onnx") <= allowed


@pytest.mark.parametrize("case", [{"layers": 2, "bidirectional": True}, {"kind": "GRU", "batch_first": False},
                                  {"kind": "RNN", "bias": False}], ids=str)
def test_recurrent_layers(monkeypatch, tmp_path, case):
    for quant in (QuantConfig("kmqat", 3), QuantConfig("integer", 4, scheme="affine"),
                  QuantConfig(bits=2, per_channel=False)):
        config = ModelConfig(register(monkeypatch), case, 6, quant=quant)
        net, config, layers = as_packed(quantize_(recurrent(feat_dim=80, **case), quant), config)
        graph = export_float(net, config)
        plain, small = compared(graph, layers, tmp_path)
        np.testing.assert_array_equal(small(feats(30)), plain(feats(30)))
        assert compact(graph, layers).packed.keys() == {name for name, _ in quantizable(net)}


class Frames(nn.Module):
    """Linear layers over frames, of which matrix products are made, with weights the other way round."""

    def __init__(self, feat_dim, embed_dim):
        super().__init__()
        self.each, self.embedding = nn.Linear(feat_dim, 7), nn.Linear(7, embed_dim)

    def forward(self, x):
        return self.embedding(self.each(x).relu().mean(1))


def test_matrix_products(monkeypatch, tmp_path):
    monkeypatch.setitem(nets.ARCHITECTURES, "Frames", Frames)
    for quant in (QuantConfig(bits=3), QuantConfig("integer", 4, per_channel=False)):
        torch.manual_seed(0)
        config = ModelConfig("Frames", {}, 6, quant=quant)
        net, config, layers = as_packed(quantize_(config.build().eval(), quant), config)
        graph = export_float(net, config)
        assert {place.axis for place in graph.layers.values()} == {0, 1}
        for exported in (graph, export_int8(graph, CALIBRATION, Int8Config()), export_dynamic_int8(graph)):
            # So few weights may be smaller as integers than as codes with a table of integers.
            may_be = ("packed",) if exported is graph else ("packed", "plain")
            plain, small = compared(exported, layers, tmp_path, may_be)
            np.testing.assert_array_equal(small(feats(30)), plain(feats(30)))


def test_same_bytes_twice(tmp_path):
    net, config, layers = network("FCStudent")
    for name in ("a", "b"):
        write(compact(export_float(net, config), layers), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_what_does_not_come_out_is_not_written():
    constants = Constants()
    name = constants.node("Neg", constants.tensor(np.ones(3, dtype=np.float32)))
    check(constants, {name: -np.ones(3, dtype=np.float32) * (1 + CLOSE / 2)})
    for wrong in (np.ones(3, np.float32), -np.ones(2, np.float32), -np.ones(3), np.full(3, np.nan, np.float32)):
        with pytest.raises(RuntimeError, match="constant"):
            check(constants, {name: wrong})


def test_another_networks_codes_are_not_taken():
    """Layers whose codes do not give the weights stay as they are."""
    net, config, layers = network("FCStudent")
    other = copy.deepcopy(net)
    for parameter in other.parameters():
        parameter.data = torch.randn_like(parameter)
    assert not compact(export_float(other, config), layers).packed


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compact")
    net, config, layers = network("FCStudent")
    write(compact(export_float(net, config, {"slope": 1.0, "offset": 0.0, "prior": 0.5}), layers), folder / "x.onnx")
    return folder / "x.onnx"


@settings(max_examples=80)
@given(st.data())
def test_every_bit_counts(small_file, data):
    content = bytearray(small_file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    changed = small_file.with_name("changed.onnx")
    changed.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_embedder(changed)
    assert str(changed) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    changed.write_bytes(small_file.read_bytes()[:place])
    with pytest.raises(UserError) as caught:
        load_embedder(changed)
    assert str(changed) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def resealed(path, model):
    path.write_bytes(seal.sealed(model.SerializeToString()))
    return path


def test_other_damage_is_one_line(small_file, tmp_path):
    whole = small_file.read_bytes()
    assert seal.check_seal(small_file)
    bare = whole[: -len(seal.HEAD) - seal.DIGITS]
    assert seal.sealed(bare) == whole
    for content, words in ((bare, "has lost the digest"), (whole + b"x", "x.onnx: "), (b"", "x.onnx: "),
                           (whole[:100] + whole[200:], "does not match its digest: damaged or altered"),
                           (whole + whole[len(bare):], "does not match")):
        (tmp_path / "x.onnx").write_bytes(content)
        for backend in ("onnxruntime", "openvino"):
            with pytest.raises(UserError, match=words) as caught:
                load_embedder(tmp_path / "x.onnx", backend)
            assert len(str(caught.value).splitlines()) == 1
    model = onnx.load_from_string(bare)
    text = model.metadata_props[0].value
    for new, words in ((text.replace('"format":2', '"format":3'), "format version 3, this svq reads 1 and 2; update"),
                       (text.replace('"packed"', '"folded"'), "weights")):
        onnx.helper.set_model_props(model, {"svq": new})
        with pytest.raises(UserError, match=words):
            load_embedder(resealed(tmp_path / "x.onnx", model))


def test_the_seal_needs_no_libraries(small_file):
    code = ("import sys; from svq.deploy.seal import check_seal; assert check_seal(sys.argv[1]); "
            "assert {'onnx', 'onnxruntime', 'torch', 'numpy'}.isdisjoint(sys.modules)")
    subprocess.run([sys.executable, "-c", code, str(small_file)], check=True)


def test_the_digest_covers_the_codes(tmp_path):
    net, config, layers = network("FCStudent")
    other, _, others = network("FCStudent", QuantConfig(bits=2, retention=0.8))
    found = []
    for graph in (compact(export_float(net, config), layers), compact(export_float(other, config), others)):
        write(graph, tmp_path / "x.onnx")
        found.append(load_embedder(tmp_path / "x.onnx").metadata.digest)
    assert found[0] != found[1]


def test_without_folding(small_file):
    """The file itself says the embedding: so find ONNX's own reference, and a runtime that optimizes nothing."""
    x = feats(20, batch=1)
    expected = load_embedder(small_file)(x)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = onnxruntime.InferenceSession(small_file, options).run(None, {"input": x})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ReferenceEvaluator(onnx.load(small_file)).run(None, {"input": x})[0], expected, rtol=0, atol=1e-5)


def test_openvino_runs_it(small_file):
    np.testing.assert_allclose(load_embedder(small_file, "openvino")(feats(40)), load_embedder(small_file)(feats(40)),
                               rtol=0, atol=1e-5)


def test_names_lead_back_to_layers():
    """Layers keep their names and find their weights, which no initializer is any more."""
    net, config, layers = network("FCStudent")
    graph = compact(export_float(net, config), layers)
    names = [node.name for node in graph.model.graph.node if node.name]
    assert sorted(names) == sorted(graph.layers) == sorted(name for name, _ in quantizable(net))
    with pytest.raises(StopIteration):
        initializer(graph.model, graph.layers["embedding"].weight)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a place")
    data_dir(folder, speakers=2, utts=2, seconds=0.6)
    config = dataclasses.replace(small_config("FCStudent"), quant=QuantConfig(bits=4, layers={"embedding": 32}))
    net = quantize_(small_net(config), config.quant).eval()
    save_model(folder / "model", net, config)
    save_packed(folder / "model.svq", net, config, {"slope": 1.5, "offset": -2.0, "prior": 0.5})
    save_model(folder / "float", small_net(small_config("FCStudent")), small_config("FCStudent"))
    return folder


def exported(place, model, out, *options):
    run_worker(export.main, "--model", place / model, "--out", out, "--range-data", place / "data", "--num-utts", 2,
               *options)
    return load_embedder(out)


@pytest.mark.parametrize("int8", ["false", "true"])
def test_command_line(place, tmp_path, capsys, int8):
    """Compact by default, the same of a folder and of its packed file; plain on demand; .xml and float are plain."""
    x = feats(40)
    small = exported(place, "model.svq", tmp_path / "a.onnx", "--int8", int8, "--summary", tmp_path / "bits.json")
    assert "weights packed, takes features" in capsys.readouterr().out and small.calibration["slope"] == 1.5
    np.testing.assert_array_equal(exported(place, "model", tmp_path / "b.onnx", "--int8", int8)(x), small(x))
    plain = exported(place, "model.svq", tmp_path / "c.onnx", "--int8", int8, "--compact", "false")
    np.testing.assert_array_equal(plain(x), small(x))
    forms = [embedder.metadata.weights for embedder in (
        small, plain, exported(place, "model", tmp_path / "d.xml", "--int8", int8),
        exported(place, "float", tmp_path / "e.onnx", "--int8", int8))]
    assert forms == ["packed", "plain", "plain", "plain"]
    counts = {name: layer.weight.numel() for name, layer in quantizable(small_net(small_config("FCStudent")))}
    bits = sum(count * (32 if name == "embedding" else 8 if int8 == "true" else 4) for name, count in counts.items())
    told = json.loads((tmp_path / "bits.json").read_text())
    assert told["avg_bits"] == pytest.approx(bits / sum(counts.values()))
    assert told["size_bytes"] == os.path.getsize(tmp_path / "a.onnx")


def test_norms_of_packed_files_are_folded():
    """Plain exports of packed files, too, have their norms in the convolutions, and the network keeps its own."""
    net, config, _ = network()
    before = copy.deepcopy(net)
    graph = export_float(freeze_(net), config)
    assert {"Mul", "BatchNormalization"}.isdisjoint(node.op_type for node in graph.model.graph.node[:30])
    assert [type(module) for module in net.modules()] == [type(module) for module in before.modules()]
