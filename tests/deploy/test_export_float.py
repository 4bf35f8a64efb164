"""Float exports: the embeddings of torch, in both runtimes, at any duration; one clear line for what cannot be."""

import copy
import dataclasses
import os

import numpy as np
import pytest
import torch

from svq.deploy import runtimes
from svq.deploy.export import export_float, write
from svq.deploy.runtimes import load_embedder
from svq.errors import UserError, require
from svq.hardware import has_vnni, warn_without_vnni
from svq.models import save_model
from svq.nets import pooling, redimnet
from tests.builders import voice
from tests.deploy.small_nets import SIZES, cosines, feats, small_config, small_net, trained_like

SUFFIXES = ("onnx", "xml")
CALIBRATION = {"slope": 1.5, "offset": -2.0, "prior": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def resnet(folder):
    """A model folder, its network, and the same exported to both formats."""
    config = small_config("ResNet18")
    net = small_net(config)
    save_model(folder / "model", net, config)
    graph = export_float(net, config, CALIBRATION)
    for suffix in SUFFIXES:
        write(graph, folder / f"resnet.{suffix}")
    return folder / "model", net, config, graph


@pytest.mark.parametrize("arch", SIZES)
def test_embeddings_are_those_of_torch(folder, arch):
    """At 0.3, 1 and 3.7 s, and for single frames, where a deviation is 0 and networks lengthen their input."""
    config = small_config(arch)
    net = small_net(config)
    graph = export_float(net, config)
    assert not any(node.op_type == "BatchNormalization" and "Conv" in node.input[0] for node in graph.model.graph.node)
    for suffix in SUFFIXES:
        write(graph, folder / f"{arch}.{suffix}")
        embedder = load_embedder(folder / f"{arch}.{suffix}")
        for frames in (1, 2, 28, 98, 368):
            x = feats(frames, frames)
            with torch.no_grad():
                expected = net(torch.from_numpy(x)).numpy()
            assert cosines(embedder.features(x), expected).min() >= 0.99999, (suffix, frames)
            assert np.abs(embedder.features(x) - expected).max() < 1e-5 * np.abs(expected).max() + 1e-6
    assert np.abs(np.diff(expected, axis=0)).max() > 1e-5  # the embeddings depend on the input


def test_tracing_leaves_the_networks_as_they_are(resnet):
    assert pooling.variance.__module__ == "svq.nets.pooling" and redimnet.attention.__module__ == "svq.nets.redimnet"


def test_batch_norms_are_folded(resnet):
    assert {node.op_type for node in resnet[3].model.graph.node}.isdisjoint({"BatchNormalization", "Identity"})
    assert not any(node.doc_string for node in resnet[3].model.graph.node)


@pytest.mark.parametrize("front_end", [{}, {"window": "hamming", "full_scale": 1.0}, {"fbank": "speechbrain"},
                                       {"high_hz": -400.0, "snip_edges": False},
                                       {"fbank": "clova", "variance_normalize": True, "preemphasis": 0.97},
                                       {"fbank": "redimnet", "hop_ms": 15},
                                       {"fbank": "redimnet2", "waveform_normalize": True},
                                       {"fbank": "resemblyzer", "mean_normalize": False, "least_dbfs": -30.0}])
def test_front_end_inside(folder, front_end):
    """Waveforms in: the embeddings of svq.data.frontend and torch, for loud and for quiet recordings."""
    config = small_config("FCStudent", **front_end)
    net = small_net(config)
    save_model(folder / "student", net, config)
    reference = load_embedder(folder / "student")
    graph = export_float(net, config, front_end=True)
    for suffix in SUFFIXES:
        write(graph, folder / f"waveform.{suffix}")
        embedder = load_embedder(folder / f"waveform.{suffix}")
        assert (embedder.input, embedder.frames) == ("waveform", None)
        for seconds, gain in ((0.025, 1), (0.3, 0.01), (1, 1), (3.7, 3)):
            x = gain * np.stack([voice(s, seconds, np.random.default_rng(s)) for s in range(2)])
            assert cosines(embedder.waveforms(x), reference.waveforms(x)).min() >= 0.99999, (suffix, seconds)
        with pytest.raises(UserError, match="399 samples are too few"):
            embedder.waveforms(x[:, :399])
        with pytest.raises(UserError, match="takes waveforms only"):
            embedder.features(feats(20))


def test_fixed_duration(folder, resnet):
    _, net, config, _ = resnet
    write(export_float(net, config, seconds=1.0), folder / "fixed.xml")
    embedder = load_embedder(folder / "fixed.xml")
    x = feats(98, batch=3)
    with torch.no_grad():
        assert cosines(embedder.features(x), net(torch.from_numpy(x)).numpy()).min() >= 0.99999
    with pytest.raises(UserError, match="exported for 98 frames, not 99; export it without --seconds"):
        embedder.features(feats(99))
    with pytest.raises(UserError, match="the front end needs 400 samples at least"):
        export_float(net, config, seconds=0.02)


@pytest.mark.parametrize("name, backend", [("resnet.onnx", None), ("resnet.onnx", "openvino"), ("resnet.xml", None)])
def test_metadata_is_in_the_file(folder, resnet, tmp_path, name, backend):
    """Moved elsewhere, with its weights if it is an .xml, the file still says all that it should."""
    for file in (name, name.replace(".xml", ".bin")):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    embedder = load_embedder(tmp_path / name, backend)
    assert embedder.config == resnet[2] and embedder.calibration == CALIBRATION
    assert embedder.metadata.precision == "float32"


def test_same_bytes_twice(folder, resnet, tmp_path):
    _, net, config, _ = resnet
    graph = export_float(net, config, CALIBRATION)
    for suffix in ("onnx", "xml"):
        write(graph, tmp_path / f"again.{suffix}")
    for suffix in ("onnx", "bin"):
        assert (tmp_path / f"again.{suffix}").read_bytes() == (folder / f"resnet.{suffix}").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.bin", "again.onnx", "again.xml"]


def test_every_file_tells_its_weights(resnet, tmp_path):
    """An .xml is another one for other weights of the same shapes, though they are in its .bin."""
    _, net, config, graph = resnet
    other = copy.deepcopy(net)
    other.conv1.weight.data[0, 0, 0, 0] += 1
    digests = []
    for number, exported in enumerate((graph, export_float(net, config), export_float(other, config))):
        for suffix in SUFFIXES:
            write(exported, tmp_path / f"{number}.{suffix}")
            digests.append(load_embedder(tmp_path / f"{number}.{suffix}").metadata.digest)
    assert len(digests[0]) == 64 and digests[0] in (tmp_path / "0.xml").read_text()
    assert len(set(digests[:4])) == 1 and digests[4] == digests[5] != digests[0]


def test_an_xml_never_stands_beside_other_weights(resnet, tmp_path, monkeypatch):
    """A writer that ends between the two files leaves no .xml."""
    write(resnet[3], tmp_path / "x.xml")

    def replace(source, target):
        if str(target).endswith(".xml"):
            raise OSError("killed")
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(OSError, match="killed"):
            write(resnet[3], tmp_path / "x.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["x.bin"]
    write(resnet[3], tmp_path / "x.xml")
    load_embedder(tmp_path / "x.xml")


def test_all_backends_have_one_interface(folder, resnet):
    x = feats(50)
    embedders = [load_embedder(path) for path in (resnet[0], folder / "resnet.onnx", folder / "resnet.xml")]
    assert [embedder.backend for embedder in embedders] == list(runtimes.BACKENDS)
    wav = np.stack([voice(0, 0.5, np.random.default_rng(0))] * 2)
    for embedder in embedders:
        assert embedder.features(x).dtype == np.float32 and embedder.features(x).shape == (2, 16)
        assert cosines(embedder.waveforms(wav), embedders[0].waveforms(wav)).min() >= 0.99999
        for wrong in (x[0], x[:, :, :79], x[:, :0]):
            with pytest.raises(ValueError, match="expected features"):
                embedder.features(wrong)
        kept = embedder.features(x)
        copy = kept.copy()
        embedder.features(2 * x)
        assert (kept == copy).all()  # not a view of the runtime's memory


@pytest.mark.parametrize("name, backend, words", [
    ("none.onnx", None, "no such file"), ("model", "openvino", "openvino cannot run it"),
    ("resnet.xml", "onnxruntime", "cannot run it"), ("resnet.onnx", "tensorrt", "known: torch"),
    ("cut.onnx", None, "not an ONNX model"), ("cut.onnx", "openvino", "not an OpenVINO or ONNX model"),
    ("cut.xml", None, "not an OpenVINO"), ("alone.xml", None, "not an OpenVINO"),
    ("stranger.onnx", None, "not one that svq.bin.export made"),
    ("stranger.onnx", "openvino", "not one that svq.bin.export made"),
    ("newer.onnx", None, "format version 99.*update svq"), ("broken.onnx", None, "export the model again"),
])
def test_files_that_cannot_be_run(folder, resnet, name, backend, words):
    import onnx

    whole = (folder / "resnet.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.xml").write_bytes((folder / "resnet.xml").read_bytes()[:2000])
    (folder / "alone.xml").write_bytes((folder / "resnet.xml").read_bytes())
    model = onnx.load_from_string(whole)
    text = model.metadata_props[0].value
    for file, value in (("newer", text.replace('"format":2', '"format":99')), ("broken", "[]"), ("stranger", None)):
        del model.metadata_props[:]
        if value is not None:
            onnx.helper.set_model_props(model, {"svq": value})
        onnx.save(model, folder / f"{file}.onnx")
    with pytest.raises(UserError, match=words) as caught:
        load_embedder(folder / name, backend)
    assert len(str(caught.value).splitlines()) == 1


def test_another_bin_is_refused(tmp_path):
    """Weights of the same shapes, which OpenVINO takes without a word, and one bit of its own."""
    config = small_config("XVector")
    for name in ("a", "b"):
        write(export_float(trained_like(config.build()), config), tmp_path / f"{name}.xml")
    own, other = ((tmp_path / f"{name}.bin").read_bytes() for name in ("a", "b"))
    assert len(own) == len(other)
    for content in (other, own[:99] + bytes([own[99] ^ 1]) + own[100:]):
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(UserError, match="a.bin: not the weights of .*a.xml"):
            load_embedder(tmp_path / "a.xml")
    (tmp_path / "a.bin").write_bytes(own)
    load_embedder(tmp_path / "a.xml")


def test_missing_package_is_one_line(monkeypatch, folder, resnet):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="needs onnxruntime.*setup.sh$"):
        load_embedder(folder / "resnet.onnx")
    with pytest.raises(UserError, match="needs no_such_package"):
        require("no_such_package.part")


def test_unknown_suffix(resnet, tmp_path):
    with pytest.raises(UserError, match="must end in .onnx"):
        write(resnet[3], tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags, expected", [("flags : sse avx2", False), ("flags : avx_vnni", True),
                                             ("model : x", None)])
def test_processors_without_int8(tmp_path, monkeypatch, flags, expected):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    said = []
    warn_without_vnni(said.append, tmp_path / "cpuinfo")
    assert has_vnni(tmp_path / "cpuinfo") is expected and len(said) == (expected is False)
    assert has_vnni(tmp_path / "nothing") is None


def test_metadata_is_plain(resnet):
    metadata = dataclasses.replace(resnet[3].metadata, frames=3, details={"a": [1]})
    assert type(metadata).loads(metadata.dumps(), "x") == metadata


def test_a_module_of_the_network_may_be_named_frames():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.frames = torch.nn.Linear(80, 16)

        def forward(self, x):
            return self.frames(x).mean(dim=1)

    assert list(export_float(Net().eval(), small_config("ResNet18")).layers) == ["frames"]
