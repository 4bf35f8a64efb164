"""INT8 files of which no processor makes anything else: sums of two products fit into 16 bits.

Processors without VNNI are tried with qemu-user (Debian: apt-get install qemu-user), which emulates one.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from svq.bin import export
from svq.deploy import runtimes
from svq.deploy.export import export_dynamic_int8, export_float, export_int8, write
from svq.deploy.int8 import WEIGHTS, Int8Config
from svq.deploy.runtimes import load_embedder
from svq.errors import UserError
from svq.models import save_model
from svq.quant import QuantConfig, quantize_
from svq.quant.api import freeze_
from tests.deploy.small_nets import cosines, feats, small_config, small_net
from tests.helpers import run_worker

CALIBRATION = [feats(100, seed, batch=1) for seed in range(100, 104)]
INT16 = np.iinfo(np.int16)


def graph_of(arch="ResNet18", quant=None):
    """The float graph of a small network; its weights are as large as its largest, so that sums are long ones."""
    config = small_config(arch)
    net = small_net(config)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            largest = parameter.data.abs().amax()
            parameter.data = (0.9 * largest + 0.1 * parameter.data.abs()) * parameter.data.sign() / 4
    if quant is not None:
        freeze_(quantize_(net, quant).eval())
    return export_float(net, config)


def int8_weights(path) -> list[np.ndarray]:
    """The integers of all weights in an .onnx file: what convolutions and products multiply with."""
    found = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    return [weight for weight in found if weight.dtype == np.int8 and weight.ndim > 1]


def openvino_weights(path) -> list[np.ndarray]:
    """The same of an .xml file."""
    import openvino

    constants = [node.data for node in openvino.Core().read_model(path).get_ops() if node.get_type_name() == "Constant"]
    return [weight for weight in constants if weight.dtype in (np.int8, np.uint8) and weight.ndim > 1]


def extremes(weights) -> tuple[int, int]:
    """The largest and the smallest sum of two products of a byte and one of these weights."""
    largest = max(int(weight.max(initial=0)) for weight in weights)
    smallest = min(int(weight.min(initial=0)) for weight in weights)
    return 2 * 255 * largest, 2 * 255 * smallest


@pytest.mark.parametrize("arch, quant", [("ResNet18", None), ("ResNet18", QuantConfig(bits=4)), ("ECAPA512", None),
                                         ("XVector", QuantConfig("uniform", 8, per_channel=True))])
@pytest.mark.parametrize("activations", ["uint8", "int8", "dynamic"])
def test_two_products_fit_into_16_bits(tmp_path, arch, quant, activations):
    """In the integers of the files themselves; those of 8 bits do not."""
    graph = graph_of(arch, quant)
    for weights in WEIGHTS:
        if activations == "dynamic":
            made = export_dynamic_int8(graph, int8_weights=weights)
        else:
            made = export_int8(graph, CALIBRATION, Int8Config(activations, int8_weights=weights))
        write(made, tmp_path / "x.onnx")
        write(made, tmp_path / "x.xml")
        assert load_embedder(tmp_path / "x.onnx").metadata.details["int8_weights"] == weights
        for found in (int8_weights(tmp_path / "x.onnx"), openvino_weights(tmp_path / "x.xml")):
            assert len(found) >= (1 if activations == "dynamic" else len(graph.layers))
            high, low = extremes(found)
            assert (INT16.min <= low and high <= INT16.max) == (weights == "safe")


@pytest.mark.parametrize("options, weights", [((), "safe"), (("--int8-weights", "8bit"), "8bit"), (("--weights", "8bit"), "8bit")])
def test_from_the_command_line(tmp_path, capsys, options, weights):
    """Safe by itself; the other kind is made with a warning."""
    config = small_config("FCStudent")
    save_model(tmp_path / "model", small_net(config), config)
    run_worker(export.main, "--model", tmp_path / "model", "--out", tmp_path / "x.onnx", "--int8", "true", "--dynamic",
               "true", *options)
    assert load_embedder(tmp_path / "x.onnx").metadata.details["int8_weights"] == weights
    assert ("weights of 8 bits" in capsys.readouterr().err) == (weights == "8bit")


def emulator() -> str | None:
    """Why no processor with AVX2 and without VNNI can be emulated here; None where one can."""
    program = shutil.which("qemu-x86_64")
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "this is not Linux on x86-64"
    if program is None:
        return "qemu-x86_64 is not installed (Debian: apt-get install qemu-user)"
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    version = re.search(r"(\d+)\.(\d+)", said)
    if version is None or tuple(map(int, version.groups())) < (7, 2):
        return "qemu is older than 7.2, which has no AVX2"
    return None


RUN = {
    "onnx": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
found = session.run(None, {"input": x})[0]
""",
    "xml": """
import openvino
settings = {"INFERENCE_NUM_THREADS": "1", "INFERENCE_PRECISION_HINT": "f32"}
found = openvino.Core().compile_model(path, "CPU", settings)([x])[0]
"""}


def without_vnni(path, x) -> np.ndarray:
    """What others' programs, which know nothing of svq, get of the file on a processor of 2013."""
    np.save(path.with_suffix(".npy"), x)
    code = f"""
import sys
sys.path.insert(0, {str(Path(onnxruntime.__file__).parents[1])!r})
import numpy
path, x = {str(path)!r}, numpy.load({str(path.with_suffix(".npy"))!r})
{RUN[path.suffix[1:]]}
numpy.save({str(path.with_suffix(".out.npy"))!r}, found)
"""
    subprocess.run(["qemu-x86_64", "-cpu", "Haswell", os.path.realpath(sys.executable), "-c", code], check=True,
                   capture_output=True, env={"OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]})
    return np.load(path.with_suffix(".out.npy"))


@pytest.mark.skipif(emulator() is not None, reason=str(emulator()))
@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_a_processor_without_vnni(tmp_path, suffix):
    """Emulated: safe files give there what they give anywhere, in others' runtimes too; those of 8 bits do not."""
    graph, x = graph_of(), feats(30, 7, batch=1)
    for weights in WEIGHTS:
        path = tmp_path / f"{weights}.{suffix}"
        made = export_int8(graph, CALIBRATION, Int8Config(int8_weights=weights))
        write(made, path)
        write(made, tmp_path / "plain.onnx")
        options = onnxruntime.SessionOptions()  # node by node, as the graph says
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.x64quantprecision", "1")
        plain = onnxruntime.InferenceSession(tmp_path / "plain.onnx", options, providers=["CPUExecutionProvider"])
        near = cosines(without_vnni(path, x), plain.run(None, {"input": x})[0]).min()
        assert near > 0.999 if weights == "safe" else near < 0.99, weights


def test_who_holds_the_session_makes_it_right(tmp_path, monkeypatch):
    """ONNX Runtime is told to be precise with 8-bit weights where there may be no VNNI, and OpenVINO, which cannot be
    told, is refused them; a safe file runs anywhere."""
    told = []
    entry = onnxruntime.SessionOptions.add_session_config_entry
    monkeypatch.setattr(onnxruntime.SessionOptions, "add_session_config_entry",
                        lambda self, key, value: (told.append(key), entry(self, key, value)))
    graph = graph_of("FCStudent")
    for weights in WEIGHTS:
        made = export_int8(graph, CALIBRATION, Int8Config(int8_weights=weights))
        for suffix in ("onnx", "xml"):
            write(made, tmp_path / f"{weights}.{suffix}")
    for vnni in (False, None, True):
        monkeypatch.setattr(runtimes, "has_vnni", lambda vnni=vnni: vnni)
        for weights in WEIGHTS:
            told.clear()
            load_embedder(tmp_path / f"{weights}.onnx")
            assert ("session.x64quantprecision" in told) == (not vnni)
            if weights == "8bit" and vnni is False:
                for suffix in ("onnx", "xml"):
                    with pytest.raises(UserError, match="saturate in OpenVINO on this processor.*--int8-weights safe"):
                        load_embedder(tmp_path / f"8bit.{suffix}", "openvino")
            else:
                load_embedder(tmp_path / f"{weights}.xml")
