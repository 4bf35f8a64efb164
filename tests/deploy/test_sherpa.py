"""sherpa-onnx's own extractor and speaker manager on our files: our embeddings, our decisions; refusals in one line."""

import dataclasses
import importlib.util
import itertools
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from svq import Verifier
from svq.backend.calibration import Calibration, mean_text
from svq.backend.metrics import bayes_threshold
from svq.bin import export
from svq.deploy.runtimes import load_embedder
from svq.errors import UserError
from svq.models import save_model
from svq.quant import QuantConfig, quantize_
from tests.builders import data_dir, voice
from tests.deploy.small_nets import cosines, small_config, small_net
from tests.helpers import run_worker

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sherpa-onnx.md"
THEIRS = {"high_hz": -400.0, "snip_edges": False}  # sherpa-onnx's front end
needs_sherpa = pytest.mark.skipif(importlib.util.find_spec("sherpa_onnx") is None,
                                  reason="sherpa-onnx is not installed (utils/setup.sh --extras test)")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Recordings of four speakers, three each of other durations; the last ones begin with half a second of silence."""
    folder = tmp_path_factory.mktemp("sherpa")
    rng = np.random.default_rng(0)
    for speaker, take in itertools.product(range(4), range(3)):
        wave = voice(speaker, 1.3 + 0.37 * take, rng)
        if take == 2:
            wave[:8000] = 0
        soundfile.write(folder / f"{speaker}-{take}.wav", wave, 16000, subtype="PCM_16")
    data_dir(folder, speakers=2, utts=2, seconds=0.8)
    return folder


def model_of(folder, arch="ResNet18", name="model", bits=None, **front_end):
    """A model folder, and a calibration that subtracts a mean embedding."""
    config = small_config(arch, **front_end)
    net = small_net(config)
    if bits is not None:
        config = dataclasses.replace(config, quant=QuantConfig(bits=bits))
        net = quantize_(net, config.quant).eval()
    save_model(folder / name, net, config)
    mean = load_embedder(folder / name).waveforms(np.stack([voice(9, 1, np.random.default_rng(9))] * 2))[0]
    Calibration(20.0, -3.0, 0.5, "cosine_none", mean_text(0.9 * mean)).save(folder / f"{name}.json")
    return folder / name


def export_for(folder, model, out, *options):
    run_worker(export.main, "--model", model, "--out", folder / out, "--for", "sherpa-onnx", *options)
    return folder / out


def extractor_of(file):
    import sherpa_onnx

    return sherpa_onnx.SpeakerEmbeddingExtractor(sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=str(file)))


def theirs(extractor, path) -> np.ndarray:
    """A recording's embedding (D,), as sherpa-onnx computes it."""
    samples, rate = soundfile.read(path, dtype="float32")
    stream = extractor.create_stream()
    stream.accept_waveform(sample_rate=rate, waveform=samples)
    stream.input_finished()
    assert extractor.is_ready(stream)
    return np.array(extractor.compute(stream), dtype=np.float32)


@needs_sherpa
@pytest.mark.parametrize("settings, int8", [
    ({}, "false"), ({}, "true"), ({"bits": 2}, "false"), ({"bits": 4}, "true"), ({"mean_normalize": False}, "false"), ({"full_scale": 1.0}, "false"),
    ({"rate": 8000}, "false")])
def test_embeddings_are_ours(place, settings, int8):
    """With its very front end: those of svq's own front end and ONNX Runtime, of the same file. In INT8 a difference in the
    last bits of a feature may round an activation to the next integer."""
    model = model_of(place, **THEIRS, **settings)
    file = export_for(place, model, "m.onnx", "--calibration", place / "model.json", "--int8", int8, "--range-data",
                      place / "data", "--num-utts", 3)
    ours, extractor = Verifier.load(file), extractor_of(file)
    assert extractor.dim == 16
    for path in sorted(place.glob("*.wav")):
        if ours.rate != 16000:
            samples, _ = soundfile.read(path, dtype="float32")
            path = place / "at_its_rate.flac"
            soundfile.write(path, samples, ours.rate, subtype="PCM_16")
        found, expected = theirs(extractor, path), ours.embed(path)
        assert cosines(found, expected) >= (0.999 if int8 == "true" else 0.9999) and abs(np.linalg.norm(found) - 1) < 1e-5, path


@needs_sherpa
@pytest.mark.parametrize("arch", ["ResNet18", "ECAPA512"])
def test_decisions_are_ours(place, arch, capfd):
    """Enrolled with one and with two recordings, verified and identified by its manager at the printed threshold: what
    svq decides of the original model with the calibration, mean embedding and all."""
    import sherpa_onnx

    model = model_of(place, arch, **THEIRS)
    ours = Verifier.load(model, calibration=place / "model.json")
    # A threshold between the scores of these networks, whose weights are random.
    voices = {str(s): [place / f"{s}-{t}.wav" for t in range(1 + s % 2)] for s in range(4)}
    tests = [place / f"{s}-2.wav" for s in range(4)]
    scores = {(name, path): ours.score(ours.enroll(files), ours.embed(path))
              for name, files in voices.items() for path in tests}
    values = np.sort(list(scores.values()))
    widest = np.diff(values).argmax()
    middle = values[widest:widest + 2].mean()
    calibration = Calibration.load(place / "model.json")
    dataclasses.replace(calibration, offset=bayes_threshold(0.01) - 20.0 * middle).save(place / "model.json")
    file = export_for(place, model, "m.onnx", "--calibration", place / "model.json")
    threshold = float(capfd.readouterr().out.split("cosines: ")[1].split()[0])
    assert threshold == pytest.approx(middle, abs=1e-4)
    extractor = extractor_of(file)
    manager = sherpa_onnx.SpeakerEmbeddingManager(extractor.dim)
    for name, files in voices.items():
        assert manager.add(name, [theirs(extractor, path) for path in files])
    ours = Verifier.load(model, calibration=place / "model.json")
    accepted = set()
    for path in tests:
        found = theirs(extractor, path)
        for name, files in voices.items():
            decided = ours.verify(files, path, p_target=0.01)
            assert manager.verify(name, found, threshold=threshold) == decided.accepted
            assert manager.score(name, found) == pytest.approx(decided.score, abs=1e-3)
            accepted.add(decided.accepted)
        best = max(voices, key=lambda name: scores[name, path])
        assert manager.search(found, threshold=threshold) == (best if scores[best, path] >= threshold else "")
    assert accepted == {True, False}


@needs_sherpa
def test_the_lines_of_the_page(place, tmp_path, monkeypatch, capsys):
    """What docs/sherpa-onnx.md shows in Python runs as it stands."""
    export_for(tmp_path, model_of(place, **THEIRS), "small.onnx")
    for name, source in (("ann1", "0-0"), ("ann2", "0-1"), ("who", "0-0")):
        (tmp_path / f"{name}.wav").symlink_to(place / f"{source}.wav")
    monkeypatch.chdir(tmp_path)
    lines, = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    capsys.readouterr()
    exec(compile(lines, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "True\n"  # a recording that was enrolled


def test_the_file_is_ours_too(place, capfd):
    """svq decides of the file as of the model it was made of, and warns of no other front end."""
    model = model_of(place, **THEIRS)
    file = export_for(place, model, "m.onnx", "--calibration", place / "model.json")
    assert "warning" not in capfd.readouterr().err
    one, other = Verifier.load(model, calibration=place / "model.json"), Verifier.load(file)
    for test in ("0-1.wav", "2-2.wav"):
        expected = one.verify([place / "0-0.wav", place / "1-0.wav"], place / test)
        found = other.verify([place / "0-0.wav", place / "1-0.wav"], place / test)
        assert found.llr == pytest.approx(expected.llr, abs=1e-3) and found.accepted == expected.accepted
    said = {entry.key: entry.value for entry in onnx.load(file).metadata_props if not entry.key.startswith("svq")}
    assert said == {
        "framework": "wespeaker", "language": "unknown", "sample_rate": "16000", "output_dim": "16",
        "normalize_samples": "0", "feature_normalize_type": "global-mean"}


def test_its_voices_and_means_are_not_those_of_the_model(place):
    """With a mean inside it refuses the model's voices; no file for sherpa-onnx takes another mean: scores would be others
    without a word."""
    model = model_of(place, name="own", **THEIRS)
    plain, calibration = Verifier.load(model), place / "own.json"
    bare, centred = export_for(place, model, "bare.onnx"), export_for(place, model, "c.onnx", "--calibration", calibration)
    voice, other = plain.enroll([place / "0-0.wav"]), place / "2-2.wav"
    for file in (bare, centred):
        with pytest.raises(UserError, match="no mean embedding is to be subtracted"):
            Verifier.load(file, calibration=calibration)
    bare, centred = Verifier.load(bare), Verifier.load(centred)
    assert bare.score(voice, bare.embed(other)) == pytest.approx(plain.score(voice, plain.embed(other)), abs=1e-5)
    with pytest.raises(UserError, match="c.onnx has another network"):
        centred.score(voice, centred.embed(other))


def test_another_front_end_is_said(place, capfd):
    """Kaldi's usual one works nearly as well; each difference is a line."""
    file = export_for(place, model_of(place, name="usual"), "usual.onnx")
    err = capfd.readouterr().err
    assert "end at 8000 Hz, sherpa-onnx's at 7600 Hz" in err and "mirrored at the edges" in err
    assert err.count("warning: ") == 2 == err.count("\n")
    if importlib.util.find_spec("sherpa_onnx") is not None:
        extractor, ours = extractor_of(file), Verifier.load(file)
        found = [cosines(theirs(extractor, path), ours.embed(path)) for path in place.glob("*.wav")]
        assert 0.9 < min(found) < 0.99999


@pytest.mark.parametrize("settings, options, words", [
    ({"num_mels": 40}, [], "num_mels 40, sherpa-onnx's 80"), ({"window": "hamming"}, [], "window hamming"),
    ({"fbank": "speechbrain"}, [], "fbank speechbrain"), ({"fbank": "clova"}, [], "fbank clova"),
    ({"variance_normalize": True}, [], "variance_normalize True"), ({"preemphasis": 0.9}, [], "preemphasis 0.9"),
    ({"full_scale": 100.0}, [], "full_scale 100"), ({}, ["--front-end", "true"], "leave --front-end out"),
    ({}, ["--seconds", "1"], "leave --seconds out"), ({}, ["--out", "x.xml"], "takes .onnx files"),
    ({}, ["--calibration", "plda.json"], "one of plda_none scores"),
    ({}, ["--calibration", "other.json"], "mean embedding has 2 values")])
def test_what_cannot_work_is_refused(place, tmp_path, monkeypatch, settings, options, words):
    monkeypatch.chdir(tmp_path)
    config = small_config("FCStudent", **settings)
    save_model(tmp_path / "model", small_net(config), config)
    Calibration(1.0, 0.0, score="plda_none").save(tmp_path / "plda.json")
    Calibration(1.0, 0.0, score="cosine_none", mean=mean_text(np.ones(2))).save(tmp_path / "other.json")
    given = {"--model": "model", "--out": "x.onnx", "--for": "sherpa-onnx"} | dict([options] if options else [])
    with pytest.raises(UserError, match=words) as caught:
        run_worker(export.main, *[text for pair in given.items() for text in pair])
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other.json", "plda.json"]
