"""The runtime door: two recordings in, a decision out; the numbers of the recipe's workers; bad input in a line."""

import doctest
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

import svq.verifier
from svq import Verifier
from svq.backend.calibration import Calibration, mean_text
from svq.backend.embeddings import read_vector
from svq.bin import calibrate, embed, extract, pack, score, speaker_means, verify
from svq.cli import run_main
from svq.data.audio import sounding_seconds
from svq.data.frontend import FrontEndConfig
from svq.data.rxfilename import Rx
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.network import ModelConfig, load_tensors, save_tensors
from svq.quant import QuantConfig, quantize_
from svq.quant.api import freeze_
from tests.builders import data_dir, voice
from tests.helpers import run_worker

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """data/, m/model.svq packed with its calibration, and exp/cosine_none.{score,llr} of all pairs of data/."""
    folder = tmp_path_factory.mktemp("a place")
    data = data_dir(folder, speakers=3, utts=3, seconds=1.2)
    utts = [f"spk{s:02d}-utt{u:02d}" for s in range(3) for u in range(3)]
    (data / "spk2utt").write_text("".join(f"spk{s:02d} {' '.join(utts[3 * s:3 * s + 3])}\n" for s in range(3)))
    pairs = [(a, b) for i, a in enumerate(utts) for b in utts[i + 1:]]
    (data / "trials").write_text("".join(
        f"{a} {b} {'target' if a[:5] == b[:5] else 'nontarget'}\n" for a, b in pairs))
    torch.manual_seed(0)
    quant = QuantConfig(bits=4, per_channel=False)
    # Not normalized: the timbre by which these voices differ is in the mean of their features.
    config = ModelConfig("ResNet18", {"width": 4}, 16, FrontEndConfig(mean_normalize=False), quant)
    net = config.build().eval()
    for module in net.modules():  # as after training: batch norm is not the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    save_model(folder / "m", quantize_(net, quant), config)
    exp, dev = folder / "exp", folder / "exp/dev"
    run_worker(pack.main, folder / "m")
    run_worker(extract.main, data, folder / "m/model.svq", exp / "embedding")
    run_worker(speaker_means.main, data / "spk2utt", exp)
    run_worker(score.main, "--cohort", exp, "--threads", 1, data / "trials", exp, dev)
    run_worker(calibrate.main, "--mean", exp / "mean.vec", data / "trials", dev / "cosine_none.score",
               exp / "calibration.json", dev / "cosine_none.score")
    run_worker(pack.main, folder / "m", "--calibration", exp / "calibration.json")
    return folder


@pytest.fixture(scope="module")
def verifier(place):
    return Verifier.load(place / "m/model.svq", warn=lambda line: None)


def wav(place, name):
    return place / "data_wav" / f"{name}.wav"


def outcome(main, capsys, *arguments):
    """(exit status, stdout, stderr) of a worker."""
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: run_worker(main, *arguments))
    return ended.value.code, *capsys.readouterr()


def lines(path):
    return {tuple(line.split()[:2]): float(line.split()[2]) for line in open(path)}


def test_the_numbers_are_those_of_the_recipe(place, verifier):
    """Every pair's score as in svq.bin.score, less the mean, and its llr as in svq.bin.calibrate's file."""
    scores, llrs = (lines(place / f"exp/dev/cosine_none.{kind}") for kind in ("score", "llr"))
    vectors = {key: verifier.embed(wav(place, key)) for key in {key for pair in scores for key in pair}}
    plain = Verifier.load(place / "m/model.svq", mean="none", warn=lambda line: None)
    assert plain.calibration is None and "another mean" in plain.why_uncalibrated
    for (a, b), expected in scores.items():
        found = verifier.score(vectors[a], vectors[b])
        assert found == pytest.approx(expected, abs=1e-4)
        assert verifier.llr(found) == pytest.approx(llrs[a, b], abs=5e-3 * verifier.calibration.slope)
    apart = [plain.score(vectors[a], vectors[b]) - scores[a, b] for a, b in scores]
    assert max(map(abs, apart)) > 0.05  # a plain cosine would have been another score
    for key, vector in kaldiio.load_scp(str(place / "exp/embedding.scp")).items():
        np.testing.assert_allclose(vectors[key], vector, atol=1e-6)


def test_models_of_several_recordings(place, verifier, tmp_path):
    utts = ["spk00-utt00", "spk00-utt01", "spk00-utt02"]
    (tmp_path / "enroll").write_text(f"model {' '.join(utts)}\n")
    (tmp_path / "trials").write_text("model spk01-utt00\n")
    run_worker(score.main, "--cohort", place / "exp", "--threads", 1, "--enroll-spk2utt", tmp_path / "enroll",
               tmp_path / "trials", place / "exp", tmp_path)
    expected, = lines(tmp_path / "cosine_none.score").values()
    model = verifier.enroll([wav(place, utt) for utt in utts])
    assert model.recordings == 3 and verifier.score(model, model) == pytest.approx(1, abs=1e-6)
    assert verifier.score(model, verifier.embed(wav(place, "spk01-utt00"))) == pytest.approx(expected, abs=1e-4)


def test_command_line(place, verifier, capsys):
    a, b = wav(place, "spk00-utt00"), wav(place, "spk00-utt01")
    arguments = ["--model", place / "m/model.svq", a, "--", b]
    status, out, err = outcome(verify.main, capsys, "--json", "true", "--p-target", 0.5, *arguments)
    found = json.loads(out)
    assert status == 0 and err == "" and found["warnings"] == []
    scores = lines(place / "exp/dev/cosine_none.score")
    assert found["score"] == pytest.approx(scores["spk00-utt00", "spk00-utt01"], abs=1e-4)
    assert found["llr"] == verifier.llr(found["score"]) and found["threshold"] == 0 and found["mean_subtracted"]
    assert found["decision"] == "accept" and found["backend"] == "torch" and found["peak_memory_bytes"] > 5e7
    short = [word for word in arguments if word != "--"]  # of two recordings the last is the test
    assert json.loads(outcome(verify.main, capsys, "--json", "true", *short)[1])["score"] == found["score"]
    status, out, _ = outcome(verify.main, capsys, "--threshold", 1e6, *arguments)
    assert status == 0 and re.search("^decision +reject$", out, re.M)
    for name, value in (("score", found["score"]), ("llr", found["llr"]), ("threshold", 1e6)):
        assert re.search(f"^{name} +{value:.6f} ", out, re.M)
    assert all(re.search(f"^{name} +[0-9]", out, re.M) for name in ("load", "embed", "peak memory"))


@pytest.mark.parametrize("p_target, c_miss, c_fa, threshold", [
    (0.5, 1, 1, 0.0), (0.01, 1, 1, np.log(99)), (0.01, 10, 1, np.log(9.9)), (0.2, 1, 5, np.log(20)),
])
def test_bayes_threshold(verifier, p_target, c_miss, c_fa, threshold):
    slope, offset = verifier.calibration.slope, verifier.calibration.offset
    for llr, decision in ((threshold + 1e-6, "accept"), (threshold - 1e-6, "reject")):
        result = verifier.decide((llr - offset) / slope, p_target, c_miss, c_fa)
        assert result.threshold == pytest.approx(threshold) and result.decision == decision


@pytest.mark.parametrize("bad, words", [
    ([], "the following arguments are required"), (["a.wav"], "and one test"), (["a.wav", "--"], "and one test"),
    (["a.wav", "--", "b.wav", "c.wav"], "and one test"), (["a.wav", "b.wav", "c.wav"], "and one test"), (["--", "b.wav"], "required: ENROLL"),
    (["--p-target", "1", "a", "--", "b"], "--p-target"), (["--c-fa", "-1", "a", "--", "b"], "--c-"),
    (["--threshold", "nan", "a", "--", "b"], "--threshold"), (["--json", "yes", "a", "--", "b"], "neither true nor"),
    (["--window-seconds", "0.5", "a", "--", "b"], "--window-seconds"),
    (["--num-threads", "0", "a", "--", "b"], "threads"),
    (["--runtime", "tf", "a", "--", "b"], "invalid choice"),
])
def test_wrong_options(capsys, bad, words):
    status, out, err = outcome(verify.main, capsys, "--model", "m.svq", *bad)
    assert status == 2 and out == "" and words in err


# ---- which score a calibration belongs to


def repacked(place, tmp_path, about):
    """The packed model with another calibration."""
    shutil.copytree(place / "m", tmp_path / "m")
    (tmp_path / "c.json").write_text(json.dumps(about))
    run_worker(pack.main, tmp_path / "m", "--calibration", tmp_path / "c.json")
    return tmp_path / "m/model.svq"


@pytest.mark.parametrize("about, words", [
    ({}, "does not say which mean embedding"), ({"score": "cosine_none"}, "does not say which mean"),
    ({"score": "cosine_asnorm", "mean": "none"}, "cosine_asnorm scores"), ({"score": "plda_none"}, "plda_none scores"),
    ({"score": "cosine_none", "mean": "f16:&"}, "not readable"),
    ({"score": "cosine_none", "mean": ""}, "not readable"),
])
def test_a_calibration_of_another_score_is_not_used(place, tmp_path, capsys, about, words):
    about = {"slope": 10.0, "offset": -5.0, "prior": 0.5, **about}
    model = repacked(place, tmp_path, about)
    recordings = [wav(place, "spk00-utt00"), "--", wav(place, "spk01-utt00")]
    status, out, err = outcome(verify.main, capsys, "--model", model, *recordings)
    assert status == 0 and "llr" not in out and re.search("^decision +none", out, re.M)
    assert err.count("\n") == 1 and err.startswith("warning: ") and str(model) in err and words in err
    status, out, err = outcome(verify.main, capsys, "--model", model, "--threshold", 0.5, *recordings)
    assert status == 0 and re.search(r"^threshold +0.500000 \(of the score; --threshold\)$", out, re.M)
    status, out, err = outcome(verify.main, capsys, "--model", place / "m", "--calibration", tmp_path / "c.json",
                               *recordings)
    assert status == 1 and out == "" and err.count("\n") == 1 and "c.json" in err and words in err
    uncalibrated = Verifier.load(model)
    with pytest.raises(UserError, match=words):
        uncalibrated.llr(0.3)


def test_the_user_may_say_what_the_calibration_does_not(place, tmp_path, verifier):
    about = json.loads((place / "exp/calibration.json").read_text())
    assert about.pop("mean") and about.pop("score") == "cosine_none"
    (tmp_path / "old.json").write_text(json.dumps(about))
    old = Verifier.load(place / "m", calibration=tmp_path / "old.json", mean=place / "exp/mean.vec", warn=print)
    files = [wav(place, "spk00-utt00")], wav(place, "spk02-utt01")
    assert old.verify(*files).llr == pytest.approx(verifier.verify(*files).llr, abs=5e-3 * verifier.calibration.slope)
    (tmp_path / "plain.json").write_text(json.dumps({**about, "score": "cosine_none", "mean": "none"}))
    assert Verifier.load(place / "m", calibration=str(tmp_path / "plain.json")).mean is None
    np.save(tmp_path / "three", np.ones(3))
    with pytest.raises(UserError, match="a mean embedding of 3 values, the model's embeddings have 16"):
        Verifier.load(place / "m", mean=np.ones(3))


def test_calibration_round_trip(tmp_path, place):
    mean = read_vector(place / "exp/mean.vec")
    found = Calibration.load(place / "exp/calibration.json")
    assert np.array_equal(found.mean_vector(), mean) and found.score == "cosine_none"
    for values in (mean * 1e30, np.zeros(2, np.float32), None):
        made = found.of("cosine_none", mean_text(values))
        made.save(tmp_path / "c.json")
        assert Calibration.load(tmp_path / "c.json") == made
        assert made.mean_vector() is None if values is None else np.array_equal(made.mean_vector(), values)
    Calibration(2.0, 1.0).save(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()) == {"slope": 2.0, "offset": 1.0, "prior": 0.5}


# ---- recordings


def test_same_recording_in_any_format(place, verifier, tmp_path):
    """44.1 kHz stereo mp3, 8 kHz, 8-bit and an array against the 16 kHz wav."""
    rng = np.random.default_rng(3)
    wave, other = voice(1, 2.5, rng, rate=44100), voice(2, 2.5, rng, rate=44100)
    soundfile.write(tmp_path / "a.mp3", np.stack([wave, 0.8 * wave], 1), 44100, format="MP3")
    reference = verifier.embed(np.float32(svq.data.audio.at_rate(wave, 44100, 16000)))
    soundfile.write(tmp_path / "a.wav", svq.data.audio.at_rate(wave, 44100, 16000), 16000)
    soundfile.write(tmp_path / "u8.wav", wave, 44100, subtype="PCM_U8")
    against = verifier.enroll([reference])
    assert verifier.score(against, verifier.embed(tmp_path / "a.wav")) > 0.999
    assert verifier.score(against, verifier.embed(tmp_path / "a.mp3")) > 0.9
    assert verifier.score(against, verifier.embed(tmp_path / "u8.wav")) > 0.9
    assert verifier.score(against, verifier.embed(wave, rate=44100)) > 0.9999
    assert verifier.score(against, verifier.embed(np.round(wave * 32767).astype(np.int16), rate=44100)) > 0.999
    assert verifier.score(against, verifier.embed(np.stack([wave, wave], 1), rate=44100)) > 0.9999
    assert verifier.score(against, verifier.embed(other, rate=44100)) < 0.8


def bad_recordings(folder):
    """name -> words of the one line that must come."""
    sound = voice(0, 2, np.random.default_rng(0))
    cases = {"silent.wav": (np.zeros(32000), "silence"), "offset.wav": (np.full(32000, 0.25), "silence"),
             "hiss.wav": (1e-5 * np.random.default_rng(0).standard_normal(32000), "silence: nothing in its 2 s"),
             "short.wav": (sound[:1600], "0.1 s of sound"),
             "click.wav": (np.pad(sound[:200], (0, 30000)), "s of sound"),
             "frame.wav": (sound[:300], "s of sound"), "none.wav": (np.zeros(0), "no samples")}
    for name, (samples, _) in cases.items():
        soundfile.write(folder / name, samples, 16000, subtype="PCM_24")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.txt").write_text("hello")
    (folder / "text.wav").write_text("hello")
    return {name: words for name, (_, words) in cases.items()} | {
        "empty.wav": "the file is empty", "text.txt": "not a recording", "text.wav": "not a recording",
        "gone.wav": "no such file", "touch hacked |": "no such file", "gone.ark:7": "no such file"}


def test_bad_recordings_are_one_line(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, words in bad_recordings(tmp_path).items():
        status, out, err = outcome(verify.main, capsys, "--model", place / "m/model.svq",
                                   wav(place, "spk00-utt00"), "--", name)
        assert (status, out, err.count("\n")) == (1, "", 1), (name, out, err)
        assert f": {name}: " in err and words in err
    assert not (tmp_path / "hacked").exists()


def test_short_recordings_that_are_allowed(place, tmp_path, capsys):
    soundfile.write(tmp_path / "short.wav", voice(0, 0.1, np.random.default_rng(0)), 16000)
    status, out, err = outcome(verify.main, capsys, "--model", place / "m/model.svq", "--min-seconds", 0.05,
                               wav(place, "spk00-utt00"), "--", tmp_path / "short.wav")
    assert status == 0 and err == err.strip() + "\n" and err.startswith(f"warning: {tmp_path}/short.wav: 0.1 s")
    with pytest.warns(UserWarning, match="0.1 s of sound are little"):
        Verifier.load(place / "m/model.svq", min_seconds=0).embed(tmp_path / "short.wav")


def test_long_recordings_are_cut(place, tmp_path, verifier):
    """Windows of a long file, one after another: the mean of their embeddings; silent windows do not count."""
    rng = np.random.default_rng(5)
    waves = [voice(s, 2.0, rng) for s in (0, 1)]
    soundfile.write(tmp_path / "a.wav", np.concatenate([waves[0], np.zeros(32000), waves[1]]), 16000, subtype="FLOAT")
    cut = Verifier.load(place / "m/model.svq", window_seconds=2)
    expected = np.mean([verifier.embed(wave) for wave in waves], axis=0)
    np.testing.assert_allclose(cut.embed(tmp_path / "a.wav"), expected, atol=1e-6)
    np.testing.assert_allclose(cut.embed(soundfile.read(tmp_path / "a.wav")[0]), expected, atol=1e-6)
    assert np.abs(verifier.embed(tmp_path / "a.wav") - expected).max() > 1e-4


@pytest.mark.parametrize("rate, seconds", [(16000, 0.8), (44100, 0.8), (11025, 0.33), (8000, 5.0)])
def test_windows_are_the_whole(tmp_path, rate, seconds):
    wave = voice(1, 1.7, np.random.default_rng(0), rate)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    pieces = list(svq.data.audio.windows(str(tmp_path / "a.wav"), 16000, seconds))
    whole = svq.data.audio.load(str(tmp_path / "a.wav"))
    assert len(pieces) == -(-len(whole) // round(seconds * 16000)) and max(map(len, pieces)) <= round(seconds * 16000)
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)
    np.testing.assert_allclose(svq.data.audio.at_rate(wave, rate, 16000), whole, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_recording_without_the_upper_frequencies_is_warned_of(place, tmp_path, monkeypatch, rate):
    monkeypatch.setenv("SVQ_ALLOW_PIPES", "true")
    wave = voice(1, 1.7, np.random.default_rng(0), rate)
    soundfile.write(tmp_path / "a.wav", wave, rate)
    said = []
    verifier = Verifier.load(place / "m/model.svq", warn=said.append)
    verifier.embed(tmp_path / "a.wav")
    verifier.embed(Rx("pipe", f"cat {tmp_path}/a.wav"))
    verifier.embed(wave, rate=rate)
    expected = "8000 samples a second, the model takes 16000: it hears nothing above 4000 Hz"
    assert len(said) == (3 if rate == 8000 else 0) and all(expected in line for line in said)
    assert not said or said[0].startswith(f"{tmp_path}/a.wav: ") and said[2].startswith("the samples: ")


@pytest.mark.parametrize("level, expected", [(0.0, 0.5), (0.9e-4, 0.5), (1.1e-4, 1.3)])
def test_seconds_of_sound(level, expected):
    tone = np.sign(np.sin(np.arange(8000)))
    samples = np.concatenate([0.3 * tone, level * np.resize([1, -1], 12800)])
    assert sounding_seconds(samples, 16000) == pytest.approx(expected)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4)), np.zeros(0), np.zeros(9, complex), np.full(16000, np.nan)])
def test_arrays_that_are_no_recording(verifier, array):
    with pytest.raises(UserError, match="^the samples: "):
        verifier.embed(array)


@pytest.mark.parametrize("thing", [[0.1] * 16000, b"ann.wav", None, 3])
def test_things_that_are_no_recording(verifier, thing):
    with pytest.raises(UserError, match=f"of type {type(thing).__name__} is no recording; give a file name"):
        verifier.embed(thing)


@pytest.mark.parametrize("rate", [0, -8000, 0.5, float("nan")])
def test_rates_that_are_none(verifier, rate):
    with pytest.raises(UserError, match=f"^the samples: a rate of {rate} Hz; give the whole number .* such as 16000"):
        verifier.embed(np.ones(16000), rate=rate)


@pytest.mark.parametrize("array", [np.ones(16000), np.ones((16000, 2)), np.ones(16), np.array("a.wav"), np.ones(())])
def test_arrays_are_enrolled_in_a_list(verifier, array):
    with pytest.raises(UserError, match=r"^an array \(.*\) to enroll: put samples or an embedding in a list"):
        verifier.enroll(array)


def test_an_array_of_embeddings_is_a_list_of_them(verifier):
    rows = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    assert np.array_equal(verifier.enroll(rows).embedding, verifier.enroll(list(rows)).embedding)


@pytest.mark.parametrize("other, words", [
    (np.ones(3), "an array (3,) to score, this model's embeddings are (16,)"), (np.ones((1, 16)), "an array (1, 16)"),
    (np.ones(8, np.float32), "an array (8,) to score"), (0.5, "an array () to score"),
    ("a.wav", "a.wav: score() compares what enroll() and embed() return"),
])
def test_only_embeddings_are_scored(verifier, other, words):
    for pair in ((np.ones(16), other), (other, np.ones(16))):
        with pytest.raises(UserError) as refusal:
            verifier.score(*pair)
        assert str(refusal.value).startswith(words)


@pytest.mark.parametrize("options, words", [
    ({"window_seconds": 0.01}, "window_seconds is 0.01; it must be 0, for no windows, or at least 1"),
    ({"window_seconds": -1}, "window_seconds is -1"), ({"window_seconds": float("nan")}, "window_seconds is nan"),
    ({"min_seconds": -0.1}, "min_seconds is -0.1; it must not be negative"),
])
def test_settings_out_of_range(verifier, options, words):
    with pytest.raises(UserError, match=words):
        Verifier(verifier.embedder, **options)


# ---- models


def test_models_that_cannot_be_used(place, tmp_path, capsys):
    model = tmp_path / "new.svq"
    tensors = load_tensors(place / "m/model.svq")
    save_tensors(model, tensors, {"svq": json.dumps({"format": 99})})
    text = tmp_path / "text.svq"
    text.write_text("hello")
    for path, words in ((model, "format version 99, this svq reads"), (text, "not a whole packed model"),
                        (tmp_path / "none.svq", "no such file"), (tmp_path / "none.onnx", "no such file"),
                        (tmp_path / "none", "neither a model folder")):
        status, out, err = outcome(verify.main, capsys, "--model", path, "a.wav", "--", "b.wav")
        assert (status, out, err.count("\n")) == (1, "", 1) and str(path) in err and words in err
    status, _, err = outcome(verify.main, capsys, "--model", place / "m/model.svq", "--runtime", "openvino",
                             "a", "--", "b")
    assert status == 1 and "svq.bin.export" in err and err.count("\n") == 1


@pytest.mark.parametrize("name, runtime, front_end", [
    ("m.onnx", "onnxruntime", True), ("m.xml", "openvino", False), ("m.onnx", "openvino", False)])
def test_exported_models(place, tmp_path, capsys, name, runtime, front_end):
    """The same numbers from the other runtimes, by the calibration that the exported file carries."""
    pytest.importorskip("onnx")
    pytest.importorskip(runtime)
    from svq.deploy.export import export_float, write

    net, config = load_model(place / "m")
    calibration = json.loads((place / "exp/calibration.json").read_text())
    write(export_float(freeze_(net), config, calibration, front_end), tmp_path / name)
    files = [wav(place, "spk00-utt00")], wav(place, "spk01-utt00")
    expected = Verifier.load(place / "m", calibration=place / "exp/calibration.json").verify(*files)
    status, out, err = outcome(verify.main, capsys, "--model", tmp_path / name, "--runtime", runtime, "--json", "true",
                               *files[0], "--", files[1])
    found = json.loads(out)
    assert status == 0 and err == "" and found["backend"] == runtime
    assert found["score"] == pytest.approx(expected.score, abs=1e-4)
    assert found["llr"] == pytest.approx(expected.llr, abs=1e-4 * abs(calibration["slope"]))


def test_exported_model_of_a_newer_format(place, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from svq.deploy import runtimes
    from svq.deploy.export import export_float, write

    with monkeypatch.context() as patch:
        patch.setattr(runtimes, "FORMAT_VERSION", 99)
        net, config = load_model(place / "m")
        write(export_float(freeze_(net), config), tmp_path / "new.onnx")
    with pytest.raises(UserError, match="new.onnx: format version 99, this svq reads 1 and 2; update svq"):
        Verifier.load(tmp_path / "new.onnx")


def test_damaged_models_are_told(place, verifier, monkeypatch):
    monkeypatch.setattr(verifier.embedder, "_run", lambda x: np.full((1, 16), np.nan, np.float32))
    with pytest.raises(UserError, match="utt00.wav: its embedding is not finite"):
        verifier.embed(wav(place, "spk00-utt00"))


# ---- svq.bin.embed


def test_embeddings_of_a_list_and_of_files(place, tmp_path, capsys):
    model = ["--model", place / "m/model.svq"]
    run_worker(embed.main, *model, "--out", tmp_path / "list", place / "data/wav.scp")
    ours, other = (dict(kaldiio.load_ark(str(path))) for path in (tmp_path / "list.ark", place / "exp/embedding.ark"))
    assert list(ours) == list(other)  # as svq.bin.extract writes them, whose batches round otherwise
    np.testing.assert_allclose(np.stack(list(ours.values())), np.stack(list(other.values())), atol=1e-6)
    run_worker(embed.main, *model, "--out", tmp_path / "dir", place / "data")
    assert (tmp_path / "dir.ark").read_bytes() == (tmp_path / "list.ark").read_bytes()
    for name in ("a.npz", "b.npz"):
        run_worker(embed.main, *model, "--out", tmp_path / name, wav(place, "spk01-utt01"), wav(place, "spk00-utt00"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = np.load(tmp_path / "a.npz")
    assert found["ids"].tolist() == ["spk00-utt00", "spk01-utt01"] and found["embeddings"].dtype == np.float32
    assert np.array_equal(found["embeddings"][1], kaldiio.load_scp(str(tmp_path / "list.scp"))["spk01-utt01"])


def test_unreadable_recordings_are_all_named(place, tmp_path, capsys):
    bad = bad_recordings(tmp_path)
    names = ["text.txt", "silent.wav", "short.wav"]
    status, out, err = outcome(embed.main, capsys, "--model", place / "m/model.svq", "--out", tmp_path / "out",
                               wav(place, "spk00-utt00"), *(tmp_path / name for name in names))
    assert status == 1 and "3 of 4 recordings have no embedding" in err and err.endswith("short, silent, text\n")
    assert all(f"{name}: {bad[name]}"[:12] in err and bad[name] in err for name in names)
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("inputs, words", [
    (["x/a.wav", "y/a.mp3"], "y/a.mp3: the id `a` of two"), (["two words.wav"], "no id without spaces"),
    (["none.scp"], "none.scp: no such file"), (["twice.scp"], "twice"), (["pipe.scp"], "pipe.scp:1: `a` runs a command"),
])
def test_inputs_that_give_no_ids(tmp_path, monkeypatch, inputs, words):
    monkeypatch.chdir(tmp_path)
    Path("twice.scp").write_text("a x.wav\na y.wav\n")
    Path("pipe.scp").write_text("a |\n")
    with pytest.raises(UserError, match=words):
        run_worker(embed.main, "--model", "m", "--out", "out", *inputs)


# ---- the package


def test_the_documented_example(place, tmp_path, monkeypatch):
    """The lines of the module's docstring, run as they stand."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(place / "m/model.svq", "model.svq")
    for utt, name in enumerate(("ann1.wav", "ann2.mp3", "who.flac")):
        soundfile.write(name, soundfile.read(wav(place, f"spk01-utt{utt:02d}"))[0], 16000)
    found = doctest.testmod(svq.verifier, extraglobs={"samples": voice(1, 1.5, np.random.default_rng(0), 8000)})
    assert found.failed == 0 and found.attempted >= 7


def test_importing_svq_brings_in_nothing_heavy():
    code = "import sys, svq; print(svq.Verifier.__name__, 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"import sys, svq; assert 'numpy' not in sys.modules; {code}"],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "Verifier False False\n", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        svq.Nothing
