"""INT8 exports: codebooks exactly on the grid, floats that stay float, embeddings that stay near; the command line."""

import dataclasses
import json
import subprocess
from pathlib import Path

import kaldiio
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from svq.bin import export, extract
from svq.deploy.export import export_dynamic_int8, export_float, export_int8, float_layers, write
from svq.deploy.graph import initializer
from svq.deploy.int8 import SHARED, WEIGHTS, Int8Config, best_step, snap
from svq.deploy.runtimes import load_embedder
from svq.errors import UserError
from svq.models import save_model
from svq.quant import QuantConfig, quantize_
from svq.quant.api import freeze_, quantizable
from tests.builders import data_dir
from tests.deploy.small_nets import cosines, feats, small_config, small_net
from tests.helpers import run_worker

ROOT = Path(__file__).resolve().parents[2]
CALIBRATION = [feats(100, seed, batch=1) for seed in range(100, 106)]


def int8_of(arch="ResNet18", keep=(), quant=QuantConfig(bits=2), config=Int8Config()):
    model = small_config(arch)
    net = small_net(model)
    if quant is not None:
        freeze_(quantize_(net, quant).eval())
        model = dataclasses.replace(model, quant=quant)
    graph = export_float(net, model)
    return graph, export_int8(graph, CALIBRATION, config, float_layers(net, keep))


def weights(model, layer_node):
    """(int8 weights, steps) of a layer as the graph has them; None for a layer in float."""
    node = next(node for node in model.graph.node if node.name == layer_node.node)
    made = {output: node for node in model.graph.node for output in node.output}
    dequantize = made.get(node.input[1])
    if dequantize is None:
        return None
    assert dequantize.op_type == "DequantizeLinear" and made[node.input[0]].op_type == "DequantizeLinear"
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return values[dequantize.input[0]], values[dequantize.input[1]]


@given(st.sampled_from(sorted(WEIGHTS.values())), st.data(), st.floats(1e-4, 10))
def test_levels_on_a_grid_are_found(most, data, step):
    integers = data.draw(st.lists(st.integers(-most, most), min_size=1, max_size=16))
    levels = step * np.array(integers, dtype=np.float64)
    found = best_step(levels, np.ones(len(levels)), most)
    np.testing.assert_allclose(found * np.rint(levels / found), levels, atol=1e-9 * step)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.integers(0, 5), st.sampled_from(sorted(WEIGHTS.values())))
def test_no_step_of_a_fine_search_is_better(levels, seed, most):
    levels = np.array(levels)
    counts = np.random.default_rng(seed).integers(1, 50, len(levels))

    def error(step):
        rest = levels - step * np.rint(levels / step)
        return (counts * rest**2).sum() + SHARED * (counts * rest).sum() ** 2

    largest = np.abs(levels).max()
    steps = np.linspace(largest / most, largest, 500) if largest > 1e-6 else [1.0]
    found = best_step(levels, counts, most)
    assert np.rint(largest / found) <= most and error(found) <= 1.1 * min(map(error, steps)) + 1e-15


@pytest.mark.parametrize("quant", [QuantConfig(bits=2), QuantConfig(bits=4), QuantConfig("twn", 2),
                                   QuantConfig("uniform", 3, per_channel=True)])
def test_codebooks_are_on_the_grid_exactly(quant):
    """The int8 weights in the graph are, times their steps, the folded weights up to the step's error; independently:
    every level has one integer throughout a channel."""
    graph, int8 = int8_of(quant=quant)
    modules = dict(quantizable(graph.net))
    for name, node in graph.layers.items():
        integers, steps = weights(int8.model, node)
        snapped, own = int8.snapped[name], modules[name].weight.detach().numpy()
        assert integers.dtype == np.int8 and (steps == snapped.scale).all() and snapped.levels
        folded = initializer(graph.model, node.weight).reshape(len(integers), -1)
        integers, own = integers.reshape(len(integers), -1).astype(int), own.reshape(len(own), -1)
        off = np.abs(folded / steps[:, None].astype(np.float64) - integers)
        assert off.max() <= snapped.error + 1e-5 and snapped.error <= 0.5 + 1e-6
        if quant.method == "uniform" or quant.method == "twn":
            assert snapped.error < 1e-3
        for values, numbers in zip(own, integers):
            assert len(set(zip(values, numbers))) == len(np.unique(values))


def test_plain_weights_take_nearly_all_integers():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 200)).astype(np.float32)
    for most in WEIGHTS.values():
        found = snap(weight, 2 * weight, codebook=False, most=most)
        largest = 2 * np.abs(weight).max(1) / found.scale
        assert (0.89 * most < largest).all() and (largest < most + 0.5).all()
    assert found.levels == 0 and snap(weight, weight + 1, codebook=True).levels == 0
    assert snap(np.zeros((2, 9), np.float32), np.zeros((2, 9), np.float32), codebook=True).scale.tolist() == [1, 1]


@pytest.mark.parametrize("arch, least", [("ResNet18", 0.99), ("ECAPA512", 0.95), ("XVector", 0.95), ("CAMPPlus", 0.95),
                                         ("ERes2NetBase", 0.95)])
def test_embeddings_stay_near(tmp_path, arch, least):
    """Random weights are the hard case: these networks have no margin trained into them."""
    graph, int8 = int8_of(arch, quant=None)
    write(graph, tmp_path / "float.onnx")
    expected = load_embedder(tmp_path / "float.onnx").features(feats(150, 7, batch=4))
    for suffix in ("onnx", "xml"):
        write(int8, tmp_path / f"int8.{suffix}")
        embedder = load_embedder(tmp_path / f"int8.{suffix}")
        found = cosines(embedder.features(feats(150, 7, batch=4)), expected)
        assert least < found.min() and found.max() < 1 - 1e-9
        assert embedder.metadata.precision == "int8" and embedder.metadata.details["range"] == "minmax"
    if arch == "ResNet18":  # the others are too small for it
        assert (tmp_path / "int8.onnx").stat().st_size < 0.4 * (tmp_path / "float.onnx").stat().st_size


@pytest.mark.parametrize("config", [Int8Config("int8"), Int8Config(sums=False), Int8Config(range="percentile")])
def test_other_settings(tmp_path, config):
    graph, int8 = int8_of(config=config)
    write(int8, tmp_path / "x.onnx")
    with torch.no_grad():
        expected = graph.net(torch.from_numpy(feats(150, 7))).numpy()
    assert cosines(load_embedder(tmp_path / "x.onnx").features(feats(150, 7)), expected).min() > 0.9


@pytest.mark.parametrize("arch", ["ResNet18", "ECAPA512"])
def test_integer_kernels_compute_the_graph(tmp_path, arch):
    """What ONNX Runtime's fused INT8 kernels give, on whatever processor this is, is what the graph says node by node.

    Without VNNI they saturate unless asked not to: a cosine of 0.9 and less. Of dynamic ranges (test_dynamic) the graph
    itself has integer products, which saturate where nothing is fused.
    """
    graph = export_float(small_net(small_config(arch)), small_config(arch))
    write(export_int8(graph, CALIBRATION, Int8Config()), tmp_path / "x.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    unfused = onnxruntime.InferenceSession(tmp_path / "x.onnx", options, providers=["CPUExecutionProvider"])
    x = feats(150, 7, batch=4)
    expected = unfused.run(None, {unfused.get_inputs()[0].name: x})[0]
    assert cosines(load_embedder(tmp_path / "x.onnx").features(x), expected).min() > 0.999


@pytest.mark.parametrize("keep", [("layers.2", "embedding"), ("conv1",)])
def test_floats_stay_float(keep):
    graph, int8 = int8_of(keep=keep)
    kept = {name for name in graph.layers if name in keep or name.startswith("layers.2.") and "layers.2" in keep}
    made = {output: node.op_type for node in int8.model.graph.node for output in node.output}
    for name, node in graph.layers.items():
        assert (weights(int8.model, node) is None) == (name in kept), name
        if name in kept:
            found = next(n for n in int8.model.graph.node if n.name == node.node)
            assert made.get(found.input[0]) != "DequantizeLinear"
            assert (initializer(int8.model, node.weight) == initializer(graph.model, node.weight)).all()
    assert int8.metadata.details["float_layers"] == sorted(kept)


def test_nothing_left_to_quantize():
    """ONNX Runtime would quantize everything."""
    config = small_config("ResNet18")
    graph = export_float(small_net(config), config)
    for export_it in (lambda: export_int8(graph, CALIBRATION, Int8Config(), set(graph.layers)),
                      lambda: export_dynamic_int8(graph, {"embedding"})):
        with pytest.raises(UserError, match="every layer that could be INT8 is to stay in float"):
            export_it()


def test_pooling_is_in_float():
    _, int8 = int8_of()
    made = {output: node.op_type for node in int8.model.graph.node for output in node.output}
    means = [node for node in int8.model.graph.node if node.op_type == "ReduceMean"]
    assert means and all(made[node.input[0]] != "DequantizeLinear" for node in means)


def test_dynamic(tmp_path):
    config = small_config("ECAPA512")
    graph = export_float(small_net(config), config)
    int8 = export_dynamic_int8(graph)
    types = [node.op_type for node in int8.model.graph.node]
    assert "MatMulInteger" in types and "Conv" in types and "ConvInteger" not in types
    modules = dict(quantizable(graph.net))
    floats = int8.metadata.details["float_layers"]
    assert floats == sorted(name for name, module in modules.items() if not isinstance(module, torch.nn.Linear))
    assert export_dynamic_int8(graph, ["conv1"]).metadata.details["float_layers"] == floats
    for suffix in ("onnx", "xml"):
        write(int8, tmp_path / f"x.{suffix}")
        found = load_embedder(tmp_path / f"x.{suffix}").features(feats(100))
        with torch.no_grad():
            assert cosines(found, graph.net(torch.from_numpy(feats(100))).numpy()).min() > 0.999


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a place")
    data_dir(folder, speakers=2, utts=2, seconds=0.6)
    config = small_config("ResNet18")
    save_model(folder / "model", small_net(config), config)
    (folder / "text.json").write_text('{"slope": "steep"}')
    (folder / "llr.json").write_text('{"slope": 2.0, "offset": 1.0, "prior": 0.5}')
    return folder


def embeddings(folder, model, *options):
    run_worker(extract.main, folder / "data", model, folder / "out", *options)
    return {key: np.array(vector) for key, vector in kaldiio.load_scp(str(folder / "out.scp")).items()}


@pytest.mark.parametrize("suffix, front_end", [("onnx", "true"), ("xml", "false")])
def test_from_the_command_line_to_embeddings(place, suffix, front_end):
    expected = embeddings(place, place / "model")
    for int8, least in (("false", 0.99999), ("true", 0.98)):
        out = place / f"{int8}.{suffix}"
        run_worker(export.main, "--model", place / "model", "--out", out, "--front-end", front_end, "--int8", int8,
                   "--range-data", place / "data", "--num-utts", 3, "--calibration", place / "llr.json")
        found = embeddings(place, out)
        assert min(cosines(found[key], expected[key]) for key in expected) > least and found.keys() == expected.keys()
        assert load_embedder(out).calibration == json.loads((place / "llr.json").read_text())
    with pytest.raises(UserError, match="cpu|CPU"):
        embeddings(place, out, "--device", "cuda")


def test_torch_by_name_is_torch(place, monkeypatch):
    """With --runtime torch a folder runs as without it, on any device."""
    expected = embeddings(place, place / "model")
    monkeypatch.setattr("svq.deploy.runtimes.load_embedder", None)
    found = embeddings(place, place / "model", "--runtime", "torch")
    assert found.keys() == expected.keys() and all((found[key] == expected[key]).all() for key in expected)


@pytest.mark.parametrize("dynamic", ["false", "true"])
def test_float_layers_of_a_quantized_model_stay_float(place, tmp_path, dynamic):
    """As its own quant config says, without --float-layers; in the file, its metadata and the recipe's summary."""
    config = small_config("ECAPA512")
    layers = [name for name, _ in quantizable(small_net(config))]
    linear = [name for name, module in quantizable(small_net(config)) if isinstance(module, torch.nn.Linear)]
    kept = {layers[0], layers[3]} if dynamic == "false" else {linear[0]}
    assert dynamic == "false" or len(linear) > 1
    config = dataclasses.replace(config, quant=QuantConfig(bits=4, layers=dict.fromkeys(kept, 32)))
    save_model(tmp_path / "model", quantize_(small_net(config), config.quant).eval(), config)
    options = ["--summary", tmp_path / "summary.json"] if dynamic == "false" else []
    run_worker(export.main, "--model", tmp_path / "model", "--out", tmp_path / "x.onnx", "--int8", "true", "--dynamic",
               dynamic, "--range-data", place / "data", "--num-utts", 2, "--bits", bits_with(tmp_path, layers[5]),
               *options)
    floats = set(load_embedder(tmp_path / "x.onnx").metadata.details["float_layers"])
    if dynamic == "true":
        assert floats == kept | {layers[5]} | set(layers) - set(linear)
        return
    assert floats == kept | {layers[5]}
    counts = {name: module.weight.numel() for name, module in quantizable(small_net(config))}
    told = dict.fromkeys(counts, 8) | {layers[5]: 4} | dict.fromkeys(kept, 32)  # the file is compact
    bits = sum(count * told[name] for name, count in counts.items()) / sum(counts.values())
    assert json.loads((tmp_path / "summary.json").read_text())["avg_bits"] == pytest.approx(bits)


def bits_with(folder, kept, arch="ECAPA512"):
    """A bits.tsv of 8 bits in all layers but one, which stays in float."""
    from svq.bits.table import LayerBits, write_bits

    write_bits(folder / "bits.tsv", [LayerBits(name, tuple(module.weight.shape), None, 32 if name == kept else 8)
                                     for name, module in quantizable(small_net(small_config(arch)))])
    return folder / "bits.tsv"


def test_layers_by_a_table(tmp_path):
    net = small_net(small_config("ResNet18"))
    table = bits_with(tmp_path, "embedding", "ResNet18")
    assert float_layers(net, ["conv1"], table) == {"conv1", "embedding"}


@pytest.mark.parametrize("options, words", [
    (["--float-layers", "layers.77"], "no layer layers.77"), (["--bits", "none.tsv"], "no such file"),
    (["--calibration", "none.json"], "none.json is missing; steps/calibrate.sh makes it"),
    (["--calibration", "{place}/text.json"], "text.json: not a calibration"),
    (["--percentile", "10"], "percentile is 10"),
    (["--range-data", "nowhere"], "nowhere"), (["--range-seconds", "0.01"], "samples are too few"),
    (["--seconds", "9"], "none of 4 utterances is long enough"), (["--out", "x.pt"], "must end in"),
])
def test_mistakes_are_one_line_and_leave_nothing(place, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    given = {"--model": place / "model", "--out": tmp_path / "x.onnx", "--int8": "true",
             "--range-data": place / "data"} | {options[0]: options[1].format(place=place)}
    with pytest.raises(UserError, match=words):
        run_worker(export.main, *[text for pair in given.items() for text in pair])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option, value", [("--dynamic", "true"), ("--range-data", "data"), ("--num-utts", "3"),
                                           ("--activations", "int8"), ("--int8-weights", "8bit"), ("--bits", "bits.tsv")])
def test_what_is_about_int8_needs_int8(place, tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as stopped:
        run_worker(export.main, "--model", place / "model", "--out", tmp_path / "x.onnx", option, value)
    assert stopped.value.code == 2 and f"{option} is about INT8: say --int8 true, too" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, package", [("x.xml", "openvino"), ("x.onnx", "onnxruntime")])
def test_what_is_lacking_is_said_before_the_work(place, tmp_path, monkeypatch, name, package):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("svq.models.load_model", None)
    with pytest.raises(UserError, match=f"needs {package}, which is not installed"):
        run_worker(export.main, "--model", place / "model", "--out", tmp_path / name)
    with pytest.raises(UserError, match="must end in"):
        run_worker(export.main, "--model", place / "model", "--out", tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_step(place, monkeypatch):
    for name in ("steps", "utils", "path.sh"):
        (place / name).symlink_to(ROOT / name)

    def step(*arguments):
        return subprocess.run(["bash", *arguments], cwd=place, capture_output=True, text=True)

    done = step("steps/export.sh", "--int8", "true", "--range-data", "data", "--num-utts", "1", "model", "int 8/a.xml")
    assert done.returncode == 0, done.stderr
    done = step("steps/extract.sh", "--nj", "1", "--runtime", "openvino", "data", "int 8/a.xml", "emb")
    assert done.returncode == 0, done.stderr + done.stdout
    expected = embeddings(place, place / "model")
    monkeypatch.chdir(place)  # the scp's paths are relative
    found = {key: np.array(vector) for key, vector in kaldiio.load_scp("emb/embedding.scp").items()}
    assert found.keys() == expected.keys() and min(cosines(found[key], expected[key]) for key in found) > 0.9
    assert load_embedder("int 8/a.xml").metadata.details["calibration_inputs"] == 1
    refused = step("steps/export.sh", "--int8", "true", "model", "x.xml")
    assert refused.returncode == 2 and "--int8 true needs --range-data" in refused.stderr
    assert not (place / "x.xml").exists()


@pytest.mark.parametrize("arch", ["XVector", "ECAPA512"])
def test_batches_in_openvino_are_their_rows(tmp_path, arch):
    """INT8 embeddings of a batch are those of ONNX Runtime, whose are the same alone; OpenVINO's own batches are not."""
    config = small_config(arch)
    graph = export_int8(export_float(small_net(config), config), CALIBRATION, Int8Config())
    write(graph, tmp_path / "x.onnx")
    x = feats(98, 9, 3)
    expected = load_embedder(tmp_path / "x.onnx").features(x)
    assert cosines(load_embedder(tmp_path / "x.onnx", "openvino").features(x), expected).min() > 0.999
