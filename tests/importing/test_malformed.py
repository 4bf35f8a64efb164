"""Malformed and foreign files: each is refused in one line that says what it holds, and what to do or what would be
taken. Nothing is written, and no code of a file runs."""

import gzip
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from svq.bin import import_checkpoint
from svq.errors import UserError
from svq.importing.onnx_graph import read_graph
from svq.importing.onnx_import import recognised
from svq.importing.plan import Options, read_state
from svq.importing.source import Source, find_source
from tests.helpers import run_worker
from tests.importing.anonymous import exported, network, with_metadata
from tests.importing.test_import_checkpoint import xvec

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.fixture(scope="module")
def model():
    """A file that is right: a small x-vector."""
    return exported(network("x-vector"), 12)


def changed(model, change) -> bytes:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    change(made)
    return made.SerializeToString()


def to_half(model):
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def to_integers(model):
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    node.op_type = "ConvInteger"


def weights_outside(model):
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del model.graph.initializer[:]


def weights_elsewhere(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def wrong_shape(model):
    model.graph.initializer[0].dims[0] += 1


def wrong_attribute(model):
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    del node.input[1:]


def lost_weight(model):
    """One of the convolutions has the weights of another width."""
    tensor = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [8, 8, 3])
    tensor.CopyFrom(numpy_helper.from_array(np.ones((8, 9, 3), np.float32), tensor.name))


def not_finite(model):
    tensor = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [8, 8, 3])
    tensor.CopyFrom(numpy_helper.from_array(np.full((8, 8, 3), np.nan, np.float32), tensor.name))


def cut_graph(model):
    """A node takes a tensor that nobody makes."""
    model.graph.node[-1].input[0] = "nowhere"


def opset(version):
    def change(model):
        model.opset_import[0].version = version
    return change


def second_output(model):
    model.graph.output.append(helper.make_tensor_value_info(model.graph.node[3].output[0], 1, ["B", 8, "T"]))


def of_a_runtime(model):
    model.graph.node[3].domain = "com.microsoft"


def made_by_hand(inputs, nodes, weights=()) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(value, name) for name, value in weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def value(name, kind, *sizes):
    return helper.make_tensor_value_info(name, kind, sizes)


def synthesizer() -> bytes:
    inputs = [value("input", TensorProto.INT64, "B", "L"), value("input_lengths", TensorProto.INT64, "B"),
              value("scales", TensorProto.FLOAT, 3)]
    return made_by_hand(inputs, [helper.make_node("Gather", ["table", "input"], ["y"])],
                        [("table", np.ones((9, 4), np.float32))])


def waveforms() -> bytes:
    return made_by_hand([value("wave", TensorProto.FLOAT, "B", "T")],
                        [helper.make_node("MatMul", ["wave", "w"], ["y"])], [("w", np.ones((9, 4), np.float32))])


def another_network() -> bytes:
    return made_by_hand([value("feats", TensorProto.FLOAT, "B", "T", 80)],
                        [helper.make_node("MatMul", ["feats", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
                        [("w", np.ones((80, 4), np.float32))])


def loop() -> bytes:
    return made_by_hand([value("feats", TensorProto.FLOAT, "B", "T", 80)],
                        [helper.make_node("Loop", ["feats", "", "feats"], ["y"], body=helper.make_graph([], "b", [], []))])


# What --from onnx refuses: name of the file, what it holds, made of a right one, and words of the line.
ONNX = {
    "cut": (lambda model: model.SerializeToString()[:3000], "x.onnx: not an ONNX model, or cut short; copy it again"),
    "empty": (lambda model: b"", "an empty file: not an ONNX model"),
    "a picture": (lambda model: PICTURE, "a picture (PNG): not an ONNX model"),
    "a text": (lambda model: b"Hello, world!\n" * 9, "a text: not an ONNX model"),
    "a web page": (lambda model: b"<!DOCTYPE html><html>log in</html>", "a web page; download the file itself"),
    "a pointer": (lambda model: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull` fetches"),
    "a state dict": (lambda model: pickled(xvec()), "a zip archive, such as torch.save writes: not an ONNX"),
    "float16": (lambda model: changed(model, to_half), "weights in float16; take the float32 file"),
    "int8": (lambda model: changed(model, to_integers), "an INT8 or low-bit file (ConvInteger); take the float32 file"),
    "weights as inputs": (lambda model: changed(model, weights_outside), "export it with export_params=True"),
    "weights in another file": (lambda model: changed(model, weights_elsewhere), "(external data); put them inside"),
    "a wrong shape": (lambda model: changed(model, wrong_shape), "has not as many numbers as its shape"),
    "a node without weights": (lambda model: changed(model, wrong_attribute), "is no Conv as ONNX defines it"),
    "layers that do not fit": (lambda model: changed(model, lost_weight), "no x-vector: it has nothing for frame2.conv"),
    "not finite": (lambda model: changed(model, not_finite), "values that are not finite; copy the file again"),
    "a broken graph": (lambda model: changed(model, cut_graph), "ONNX Runtime cannot run it"),
    "an opset of the future": (lambda model: changed(model, opset(99)), "opset 99, newer than the"),
    "two outputs": (lambda model: changed(model, second_output), "gives 2 outputs (embs ("),
    "a runtime's operators": (lambda model: changed(model, of_a_runtime), "has operators of com.microsoft"),
    "a synthesizer": (lambda model: synthesizer(), "takes 3 inputs (input (B, L) int64, "),
    "waveforms": (lambda model: waveforms(), "takes wave (B, T) float32, where a speaker network takes features (B, T, F)"),
    "another network": (lambda model: another_network(),
                        "none of the networks that are recognised in ONNX (ResNet, ECAPA-TDNN, x-vector, CAM++): it takes feats"),
    "a loop": (lambda model: loop(), "has Loop, as no network that is known here"),
    "our own": (lambda model: with_metadata(model, svq="{}").SerializeToString(), "svq exported it; take the model folder"),
}


@pytest.mark.parametrize("name", ONNX)
def test_onnx_files(tmp_path, model, name):
    make, words = ONNX[name]
    refused(tmp_path, "x.onnx", make(model), words, "onnx")


@given(st.integers(0, 20_000), st.binary(min_size=1, max_size=8), st.booleans())
def test_damage_of_any_kind_is_one_line(model, start, bytes_, cut):
    """Whatever bytes of a file are others or missing, it is read or refused."""
    whole = model.SerializeToString()
    damaged = whole[:start] + bytes_ + (b"" if cut else whole[start + len(bytes_):])
    try:
        graph = read_graph(Source("x.onnx", "x.onnx", damaged))
        recognised(graph, Options(num_mels=12))
    except UserError as error:
        assert str(error).startswith("x.onnx: ") and "\n" not in str(error)


def refused(tmp_path, name, content, words, origin):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        run_worker(import_checkpoint.main, path, "--from", origin, "--out", tmp_path / "out")
    text = str(error.value)
    assert text.startswith(str(path)) and words in text and "\n" not in text and len(text) < 700
    assert not (tmp_path / "out").exists()


def pickled(what) -> bytes:
    buffer = io.BytesIO()
    torch.save(what, buffer)
    return buffer.getvalue()


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def names(*tensors) -> bytes:
    return pickled({name: torch.ones(2) for name in tensors})


# What --from wespeaker refuses.
STATES = {
    "a picture": (lambda: PICTURE, "a picture (PNG): neither a whole file of torch.save nor"),
    "an onnx file": (lambda: another_network(), "an ONNX file; --from onnx takes it"),
    "code": (lambda: pickle.dumps(Code()), "holds more than tensors"),
    "code beside tensors": (lambda: pickled({"state_dict": xvec(), "hook": Code()}), "which is not read because"),
    "a network": (lambda: pickled(torch.nn.Linear(2, 2)), "save its state dict alone"),
    "settings alone": (lambda: pickled({"epoch": 3, "lr": 0.1}), "holds no state dict (tensors by name): it has epoch, lr"),
    "one tensor": (lambda: pickled(torch.ones(3)), "holds no state dict (tensors by name): it is one Tensor"),
    "a recogniser": (lambda: names("encoder.embed.conv.0.weight", "ctc.ctc_lo.weight"), "a speech recogniser: it writes text"),
    "wav2vec": (lambda: names("wav2vec2.feature_extractor.conv_layers.0.conv.weight"), "it takes waveforms, not log-mels"),
    "a synthesizer": (lambda: names("enc_p.emb.weight", "dec.conv_pre.weight"), "a voice of a synthesizer (VITS)"),
    "titanet": (lambda: names("encoder.encoder.0.mconv.0.conv.weight", "decoder._pooling.x"), "NeMo's TitaNet or SpeakerNet"),
    "sincnet": (lambda: names("sincnet.conv1d.0.filterbank.low_hz_"), "through filters of its own (SincNet)"),
    "another ecapa": (lambda: names("speaker_encoder.fc6.weight", "speaker_encoder.layer4.weight",
                                    "speaker_encoder.attention.0.weight"), "TaoRuijie's ECAPA-TDNN: its blocks take the sum"),
    "an empty archive": (lambda: zipped({}), "an archive without a checkpoint"),
    "an archive of texts": (lambda: zipped({"README.md": b"hello"}), "it holds README.md; name the file that has the weights"),
    "an archive of several": (lambda: tarred({"a/1.pt": b"x", "b/2.pt": b"y"}), "several checkpoints (a/1.pt, b/2.pt)"),
    "a cut archive": (lambda: tarred({"avg_model.pt": pickled(xvec())})[:-9000], "damaged or cut short"),
    "a link": (lambda: tarred({"avg_model.pt": None}), "an archive without a checkpoint"),
    "a bomb": (lambda: tarred({"avg_model.pt": bytes(80 << 20)}), "unpacks to more than 100 times its size"),
    "a bomb of zip": (lambda: zipped({"avg_model.pt": bytes(80 << 20)}), "unpacks to more than 100 times its size"),
    "the same name twice": (lambda: zipped({"x.pt": b"1"}, {"x.pt": b"2"}), "with x.pt in it 2 times"),
    "a picture in an archive": (lambda: tarred({"avg_model.pt": PICTURE}), "(avg_model.pt in it): a picture (PNG): neither"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STATES)
def test_state_dicts(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make, words = STATES[name]
    refused(tmp_path, "x.pt", make(), words, "wespeaker")
    assert sorted(os.listdir(tmp_path)) == ["x.pt"]


def zipped(*folders) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (item for folder in folders for item in folder.items()):
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files, mode="w:gz") -> bytes:
    """A tar archive; a file without content is a link to /etc/passwd."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


@pytest.mark.parametrize("name, pack", [
    ("hub.tar.gz", lambda content: tarred({"hub/config.yaml": b"a: 1", "hub/avg_model.pt": content})),
    ("hub.tar", lambda content: tarred({"hub/avg_model.pt": content, "hub/convert_head.pt": b"x"}, "w")),
    ("hub.tar.xz", lambda content: tarred({"avg_model.pt": content}, "w:xz")),
    ("hub.tar.bz2", lambda content: tarred({"avg_model.pt": content}, "w:bz2")),
    ("hub.zip", lambda content: zipped({"hub/config.yaml": b"a: 1", "hub/": b"", "hub/x.bin": content})),
    ("a model.nemo", lambda content: tarred({"./model_config.yaml": b"a: 1", "./model_weights.ckpt": content}, "w")),
    ("tricks.tar.gz", lambda content: tarred({"../../evil.txt": b"x", "/etc/x.pt": content})),
    ("tricks.zip", lambda content: zipped({"../../x.pt": content})),
])
def test_archives_are_read_in_place(tmp_path, name, pack):
    """Whatever the names in them are, nothing is written anywhere."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(pack(pickled(xvec())))
    found = read_state(path)
    assert found.keys() == xvec().keys() and torch.equal(found["seg_1.weight"], xvec()["seg_1.weight"])
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == [name]


def test_an_onnx_file_in_an_archive(tmp_path, model):
    content = model.SerializeToString()
    (tmp_path / "x.zip").write_bytes(zipped({"a/final.onnx": content, "a/avg_model.pt": b"x"}))
    assert find_source(tmp_path / "x.zip", (".onnx",)).content == content
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"no tar"))
    with pytest.raises(UserError, match="x.gz: an archive that is damaged or cut short"):
        find_source(tmp_path / "x.gz")
