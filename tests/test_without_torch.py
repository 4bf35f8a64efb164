"""Using an exported model needs neither torch nor scipy: each command runs where they cannot be imported."""

import json
import subprocess
import sys

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

from svq.data.frontend import FrontEndConfig
from svq.deploy.export import export_float, write
from svq.network import ModelConfig
from svq.verifier import Verifier
from tests.builders import voice
from tests.conftest import ROOT
from tests.deploy.small_nets import trained_like

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# A name whose module is None cannot be imported, as one that is not installed.
ABSENT = ("torch", "scipy", "matplotlib", "safetensors", "onnx", "openvino", "optuna")
RUN = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))
sys.argv = ["svq", *sys.argv[1:]]
from svq.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """waveform.onnx and features.onnx of about 1 MB, SpeechBrain's front end before the second; a.wav, b.wav; c.flac at
    44.1 kHz and two channels."""
    folder = tmp_path_factory.mktemp("a place")
    torch.manual_seed(0)
    for name, front_end in (("waveform", FrontEndConfig()), ("features", FrontEndConfig(fbank="speechbrain"))):
        config = ModelConfig("ResNet18", {"width": 6}, 64, front_end)
        write(export_float(trained_like(config.build()), config, front_end=name == "waveform"), folder / f"{name}.onnx")
    rng = np.random.default_rng(0)
    for name, speaker, rate in (("a.wav", 0, 16000), ("b.wav", 1, 16000), ("c.flac", 0, 44100)):
        samples = voice(speaker, 3, rng, rate)
        soundfile.write(folder / name, samples if rate == 16000 else np.stack([samples, samples], 1), rate)
    return folder


def svq(place, *words, status=0):
    done = subprocess.run([sys.executable, "-c", RUN, *map(str, words)], cwd=place, capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)})
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


@pytest.mark.parametrize("model", ["waveform.onnx", "features.onnx"])
def test_verify(place, model):
    told = json.loads(svq(place, "verify", "--model", model, "--json", "true", "a.wav", "c.flac", "--", "b.wav"))
    verifier = Verifier.load(place / model)
    voice = verifier.enroll([place / "a.wav", place / "c.flac"])
    assert told["score"] == pytest.approx(verifier.score(voice, verifier.embed(place / "b.wav")), abs=1e-6)
    assert told["peak_memory_bytes"] < 150e6


@pytest.mark.parametrize("model", ["waveform.onnx", "features.onnx"])
def test_embed(place, model):
    svq(place, "embed", "--model", model, "--out", place / "e", "a.wav", "c.flac")
    svq(place, "embed", "--model", model, "--out", "e.npz", "a.wav", "c.flac")
    found, again = kaldiio.load_scp(str(place / "e.scp")), np.load(place / "e.npz")
    for row, name in enumerate(("a.wav", "c.flac")):
        expected = Verifier.load(place / model).embed(place / name)
        np.testing.assert_allclose(found[name[0]], expected, atol=1e-6)
        np.testing.assert_array_equal(found[name[0]], again["embeddings"][row])


def test_enroll_and_identify(place):
    if not (ROOT / "svq" / "bin" / "enroll.py").is_file():
        pytest.skip("there is no svq enroll yet")
    for name, recording in (("ann", "a.wav"), ("bob", "b.wav")):
        svq(place, "enroll", "--model", "waveform.onnx", "--name", name, "--store", "voices.svs", recording)
    assert "ann" in svq(place, "identify", "--model", "waveform.onnx", "--store", "voices.svs", "c.flac")


def test_a_ladder(place):
    (place / "ladder.yaml").write_text(
        "operating: {threshold: 0.5}\nrungs:\n"
        "- {name: one, model: waveform.onnx, map: none, mean: none, delta: .inf}\n"
        "- {name: two, model: features.onnx, map: none, mean: none}\n")
    told = json.loads(svq(place, "verify", "--cascade", "ladder.yaml", "--json", "true", "a.wav", "--", "b.wav"))
    assert [rung["rung"] for rung in told["rungs"]] == ["one", "two"] and told["peak_memory_bytes"] < 150e6


def test_features_are_those_of_torch(place):
    """The embedding of a file that takes features is that of its own network with torch's front end."""
    from svq.data.audio import load
    from svq.data.frontend import FrontEnd

    verifier = Verifier.load(place / "features.onnx")
    feats = FrontEnd(verifier.embedder.config.front_end)(torch.from_numpy(load(place.as_posix() + "/a.wav"))[None])
    np.testing.assert_allclose(verifier.embed(place / "a.wav"), verifier.embedder.features(feats.numpy())[0], atol=1e-3)


def test_configs_are_checked(tmp_path):
    """A config of each method, and what is wrong with one."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))
from svq.config import from_dict, to_dict
from svq.data.front_end_config import FrontEndConfig
from svq.errors import UserError
from svq.network import ModelConfig
from svq.quant import QuantConfig
from svq.quant.methods import METHODS
assert len(METHODS) == 10
for name, method in METHODS.items():
    config = ModelConfig("ResNet18", {{"width": 4}}, 16, FrontEndConfig(num_mels=40), QuantConfig(name, method.bits or 4))
    assert from_dict(to_dict(config), ModelConfig) == config
try:
    from_dict({{"quant": {{"method": "twn", "bits": 4}}}}, ModelConfig, "c.yaml")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "c.yaml: quant.method twn quantizes to 2 bits, not 4; set bits: 2\n", done.stderr


def test_configs_keep_their_addresses():
    import svq.data.frontend
    import svq.data.front_end_config
    import svq.models
    import svq.network
    import svq.quant
    import svq.quant.api

    assert svq.models.FrontEndConfig is svq.data.frontend.FrontEndConfig is svq.data.front_end_config.FrontEndConfig
    assert svq.models.ModelConfig is svq.network.ModelConfig and svq.quant.QuantConfig is svq.quant.api.QuantConfig
    assert svq.quant.quantize_ is svq.quant.api.quantize_


@pytest.mark.parametrize("words, package", [
    (["verify", "--model", "m.svq", "a.wav", "--", "b.wav"], "torch"), (["inspect", "m.svq"], "torch"),
    (["export", "--model", "m.svq", "--out", "m.onnx"], "onnx"), (["import", "--from", "wespeaker", "m", "--out", "o"], "torch"),
    (["verify", "--runtime", "openvino", "--model", "waveform.onnx", "a.wav", "--", "b.wav"], "openvino")])
def test_what_needs_more_says_so_in_one_line(place, words, package):
    line = svq(place, *words, status=1)
    assert line.count("\n") == 1 and line.startswith(f"svq {words[0]}: ")
    assert f"this needs {package}, which is not installed: " in line
