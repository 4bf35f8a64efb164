"""ONNX files whose weights have no names become networks that give the same embeddings, or one line."""

import copy
import dataclasses

import numpy as np
import onnx
import pytest
import torch

from svq.bin import import_checkpoint
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.importing import Options
from svq.importing import import_checkpoint as imported
from svq.models import load_model
from svq.pack.file import save_packed
from svq.quant import QuantConfig, quantize_
from tests.helpers import run_worker
from tests.importing import anonymous
from tests.importing.anonymous import NETWORKS, exported, features, network, saved, with_metadata


@pytest.fixture(scope="module")
def x_vector():
    """A small x-vector, and its graph."""
    net = network("x-vector")
    return net, exported(net, 12)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_network_in_a_file(tmp_path, name):
    """Architecture and options are found, embeddings of other features than the importer's agree, and what was folded
    stays folded when the network is saved, loaded, quantized, packed and trained."""
    arch, mels, embed_dim, options = NETWORKS[name]
    net = network(name)
    found = imported(saved(exported(net, mels), tmp_path / "x.onnx"), "onnx")
    config, feats = found.config, features(mels)
    wanted = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    assert (config.arch, config.embed_dim, config.net.items() <= wanted.items()) == (arch, embed_dim, True)
    assert config.front_end == FrontEndConfig(num_mels=mels, window="hamming")
    expected = net(feats)
    np.testing.assert_allclose(found.net(feats), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert expected.std(dim=0).max() > 1e-3  # the comparison could fail
    assert ("resnet" in name or "cam" in name) == bool(config.folded)
    quant = QuantConfig("uniform", bits=8)
    quantized = quantize_(copy.deepcopy(found.net), quant)
    save_packed(tmp_path / "x.svq", quantized, dataclasses.replace(config, quant=quant))
    packed, _ = load_model(tmp_path / "x.svq")
    assert (packed(feats) - quantized(feats)).norm() < 0.02 * expected.norm()
    with torch.enable_grad():
        found.net.train()(feats).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in found.net.parameters())


def test_the_worker_writes_a_model_and_says_what_it_found(tmp_path, capsys):
    net = network("resnet")
    path = saved(exported(net, 16), tmp_path / "a file.onnx")
    run_worker(import_checkpoint.main, path, "--from", "onnx", "--out", tmp_path / "out", "--arch", "ResNet18")
    made, config = load_model(tmp_path / "out")
    feats = features(16)
    with torch.no_grad():
        np.testing.assert_allclose(made(feats), net(feats), rtol=0, atol=1e-5)
    said = capsys.readouterr().out
    assert "front end of wespeaker, as its input feats and output embs tell" in said
    assert f"{len(config.folded)} batch norms are folded" in said and "the largest difference is " in said


@torch.no_grad()
def test_a_mean_and_a_scale_behind_the_network(tmp_path):
    """They go into the embedding layer."""
    net = network("x-vector")
    random = torch.Generator().manual_seed(1)
    whole = anonymous.Less(net, torch.randn(7, generator=random), 1 + torch.rand(7, generator=random)).eval()
    found = imported(saved(exported(whole, 12), tmp_path / "x.onnx"), "onnx")
    feats = features(12)
    np.testing.assert_allclose(found.net(feats), whole(feats), rtol=0, atol=1e-5)
    norm = torch.nn.Sequential(net, torch.nn.BatchNorm1d(7)).eval()
    torch.nn.init.uniform_(norm[1].running_mean, generator=random)
    torch.nn.init.uniform_(norm[1].weight, 1, 2, generator=random)
    found = imported(saved(exported(norm, 12), tmp_path / "y.onnx"), "onnx")
    np.testing.assert_allclose(found.net(feats), norm(feats), rtol=0, atol=1e-5)


@torch.no_grad()
def test_batch_norms_that_are_not_folded(tmp_path):
    """They are kept as they are."""
    net = network("resnet")
    found = imported(saved(exported(net, 16, folded=False), tmp_path / "x.onnx"), "onnx")
    assert found.config.folded is None
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(found.net.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_a_file_of_one_duration(tmp_path):
    net = network("x-vector")
    found = imported(saved(exported(net, 12, frames=60), tmp_path / "x.onnx"), "onnx")
    np.testing.assert_allclose(found.net(features(12)), net(features(12)), rtol=0, atol=1e-5)


def behind_a_branch(graph):
    """The output passes an If, as torch's exporter writes a squeeze whose axis it does not know."""
    graph.node[-1].output[0] = "h"
    sides = [onnx.helper.make_graph([onnx.helper.make_node("Identity", ["h"], [side])], side, [],
                                    [onnx.helper.make_tensor_value_info(side, 1, None)]) for side in ("yes", "no")]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "is"))
    graph.node.append(onnx.helper.make_node("If", ["is"], ["embs"], then_branch=sides[0], else_branch=sides[1]))


@torch.no_grad()
def test_a_branch_of_the_exporter(tmp_path, x_vector):
    net, model = x_vector
    found = imported(saved(changed(model, behind_a_branch), tmp_path / "x.onnx"), "onnx")
    np.testing.assert_allclose(found.net(features(12)), net(features(12)), rtol=0, atol=1e-5)


def changed(model, change):
    made = onnx.ModelProto()
    made.CopyFrom(model)
    change(made.graph)
    return made


def leaky(graph):
    """Every activation passes a little of what is negative: the same layers, another network."""
    for node in graph.node:
        if node.op_type == "Relu":
            node.op_type = "LeakyRelu"


def test_another_network_of_the_same_layers_is_refused(tmp_path, x_vector):
    """Only running both tells."""
    with pytest.raises(UserError, match="looks like XVector, but its embeddings differ .* where 1e-05 is rounding"):
        imported(saved(changed(x_vector[1], leaky), tmp_path / "x.onnx"), "onnx")


def test_front_ends_by_origin(tmp_path, x_vector):
    model = x_vector[1]
    sherpa = {"high_hz": -400.0, "snip_edges": False, "num_mels": 12}
    theirs = {"framework": "3d-speaker", "sample_rate": 16000, "normalize_samples": 1, "output_dim": 7,
              "feature_normalize_type": "global-mean"}
    ours = {"framework": "wespeaker", "sample_rate": 8000, "normalize_features": 0, "output_dim": 7}
    cases = [
        (model, Options(), {"num_mels": 12, "window": "hamming"}, "front end of wespeaker"),
        (model, Options(8000, front_end="3dspeaker"), {"rate": 8000, "num_mels": 12, "full_scale": 1.0}, "as said"),
        (with_metadata(model, **theirs), Options(), {**sherpa, "full_scale": 1.0}, "sherpa-onnx, by its metadata"),
        (with_metadata(model, **ours), Options(), {**sherpa, "rate": 8000, "mean_normalize": False},
         "no mean is subtracted: for the front end that it was trained with take --front-end wespeaker"),
        (with_metadata(model, **ours), Options(front_end="wespeaker"), {"rate": 8000, "num_mels": 12, "window": "hamming"},
         "front end of wespeaker, as said"),
    ]
    for number, (file, options, settings, words) in enumerate(cases):
        found = imported(saved(file, tmp_path / f"{number}.onnx"), "onnx", options=options)
        assert found.config.front_end == FrontEndConfig(**settings)
        assert words in found.notes[0]


@pytest.mark.parametrize("properties, options, words", [
    ({"framework": "nemo"}, Options(), "of framework 'nemo', whose front end is not known here"),
    ({"framework": "wespeaker", "sample_rate": "fast"}, Options(), "sample_rate 'fast', no number of samples"),
    ({"framework": "wespeaker", "sample_rate": "16000"}, Options(8000), "--rate 8000, but its metadata say 16000"),
    ({"framework": "wespeaker", "normalize_samples": "2"}, Options(), "normalize_samples '2'"),
    ({"framework": "wespeaker", "feature_normalize_type": "per_feature"}, Options(), "'per_feature', where 0 or 1"),
    ({"svq": "{}"}, Options(), "svq exported it; take the model folder"),
    ({}, Options(front_end="sherpa-onnx"), "has no metadata of sherpa-onnx"),
    ({}, Options(front_end="kaldi"), "--front-end kaldi: known are wespeaker, 3dspeaker, sherpa-onnx"),
    ({}, Options(num_mels=80), "--num-mels 80, but its tensors are those of 12 mel channels"),
])
def test_front_ends_that_are_not_told(tmp_path, x_vector, properties, options, words):
    with pytest.raises(UserError) as error:
        imported(saved(with_metadata(x_vector[1], **properties), tmp_path / "x.onnx"), "onnx", options=options)
    assert words in str(error.value) and "\n" not in str(error.value)


def any_mels(graph):
    graph.input[0].type.tensor_type.shape.dim[2].dim_param = "F"


def test_mel_channels_that_the_file_does_not_tell(tmp_path):
    """The shapes of a small ResNet fit two numbers of them, with two poolings."""
    path = saved(changed(exported(network("resnet"), 16), any_mels), tmp_path / "x.onnx")
    with pytest.raises(UserError, match="no ResNet: .* say which, with --pooling tstp, --pooling tap or"):
        imported(path, "onnx")
    assert imported(path, "onnx", options=Options(num_mels=16)).config.front_end.num_mels == 16


def flat(graph):
    """The embedding layer has no weights but a bias: every recording gives the same."""
    for tensor in graph.initializer:
        if list(tensor.dims) == [7, 7]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((7, 7), np.float32), tensor.name))


def test_a_network_that_proves_nothing_is_refused(tmp_path, x_vector):
    with pytest.raises(UserError, match="its embeddings hardly change with the features"):
        imported(saved(changed(x_vector[1], flat), tmp_path / "x.onnx"), "onnx")


def test_names_that_no_toolkit_writes(tmp_path, x_vector):
    path = saved(exported(x_vector[0], 12, ("in", "out")), tmp_path / "x.onnx")
    with pytest.raises(UserError, match="does not say which features it takes .* --front-end wespeaker or 3dspeaker"):
        imported(path, "onnx")
    with pytest.raises(UserError, match="holds XVector, not ResNet34"):
        imported(path, "onnx", "ResNet34", Options(front_end="wespeaker"))
    with pytest.raises(UserError, match="--front-end is for --from onnx alone"):
        imported(path, "wespeaker", options=Options(front_end="wespeaker"))
