"""Enrolment from the command line and in Python: the same numbers as in one go, and no voice for another model's."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from svq.backend.calibration import mean_text
from svq.bin import enroll, export, identify, pack, verify
from svq.cli import run_main
from svq.data.frontend import FrontEndConfig
from svq.deploy.runtimes import Embedder
from svq.errors import UserError
from svq.models import load_model, network_digest, save_model
from svq.network import ModelConfig
from svq.quant import QuantConfig, quantize_
from svq.verifier import Verifier
from svq.voices import Enrollment, Voices, changed
from tests.builders import voice
from tests.conftest import ROOT
from tests.helpers import run_worker

DIM = 8


def saved(folder, seed: int):
    torch.manual_seed(seed)
    quant = QuantConfig(bits=4)
    # Not normalized: the timbre by which these voices differ is in the mean of their features.
    config = ModelConfig("FCStudent", {"width": 16, "layers": 2, "splice": 3}, DIM,
                         FrontEndConfig(num_mels=24, mean_normalize=False), quant)
    save_model(folder, quantize_(config.build().eval(), quant), config)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """m/ and other/, networks with model.svq and a calibration that subtracts a mean; recordings annN.wav, bobN.wav."""
    folder = tmp_path_factory.mktemp("a place")
    rng = np.random.default_rng(0)
    for number, name in enumerate(("ann", "bob")):
        for take in range(3):
            soundfile.write(folder / f"{name}{take}.wav", voice(3 * number, 1.5, rng), 16000)
    for seed, name in enumerate(("m", "other")):
        saved(folder / name, seed)
        run_worker(pack.main, folder / name)
        plain = Verifier.load(folder / name / "model.svq")
        mean = np.mean([plain.embed(folder / f"{who}{take}.wav") for who in ("ann", "bob") for take in (0, 1)], axis=0)
        about = {"slope": 10.0, "offset": -2.0, "prior": 0.5, "score": "cosine_none", "mean": mean_text(mean)}
        (folder / f"{name}.json").write_text(json.dumps(about))
        run_worker(pack.main, folder / name, "--calibration", folder / f"{name}.json")
    return folder


@pytest.fixture(scope="module")
def verifier(place):
    return Verifier.load(place / "m/model.svq")


def outcome(main, capsys, *arguments):
    """(exit status, stdout, stderr) of a worker."""
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: run_worker(main, *arguments))
    return ended.value.code, *capsys.readouterr()


def refused(main, capsys, *arguments) -> str:
    """The one line of a worker that refuses its input."""
    status, out, err = outcome(main, capsys, *arguments)
    assert status == 1 and out == "" and err.count("\n") == 1, (status, out, err)
    return err


@pytest.fixture
def store(place, tmp_path, verifier):
    """voices.svs with ann, of two recordings, and bob, of one."""
    path = tmp_path / "voices.svs"
    verifier.enroll([place / "ann0.wav", place / "ann1.wav"]).save(path, "ann")
    verifier.enroll(place / "bob0.wav").save(path, "bob")
    return path


# ---- in Python


def test_a_kept_voice_scores_as_a_fresh_one(place, verifier, store):
    fresh = verifier.enroll([place / "ann0.wav", place / "ann1.wav"])
    kept = Enrollment.load(store, "ann")
    assert kept.recordings == 2 and kept.seconds == pytest.approx(3, abs=0.2)
    for who in ("ann2", "bob2"):
        test = verifier.embed(place / f"{who}.wav")
        assert verifier.score(kept, test) == verifier.score(fresh, test) == verifier.score(test, kept)
    again = Verifier.load(place / "m/model.svq")  # another day
    assert again.score(kept, kept) == pytest.approx(1, abs=1e-6)


def test_a_voice_is_never_taken_for_an_embedding(place, verifier, tmp_path):
    """What np.save and np.load can carry is an embedding, and scores as the voice; a centred vector is refused."""
    made = verifier.enroll([place / "ann0.wav", place / "ann1.wav"])
    test = verifier.embed(place / "ann2.wav")
    expected = verifier.score(made, test)
    np.save(tmp_path / "e", made.embedding)
    assert verifier.score(np.load(tmp_path / "e.npy"), test) == pytest.approx(expected, abs=1e-5)
    assert not hasattr(made, "vector")
    centred = made._unit
    twice = centred - verifier.mean
    assert abs(twice @ (test - verifier.mean) / np.linalg.norm(twice) / np.linalg.norm(test - verifier.mean)
               - expected) > 0.05  # what it would have said
    for use in (lambda: verifier.score(centred, test), lambda: verifier.score(test, centred.astype(float)),
                lambda: verifier.enroll([test, centred]), lambda: verifier.enroll(centred[None]),
                lambda: verifier.rank(Voices(verifier.origin), centred)):
        with pytest.raises(UserError, match="an array of length 1 to compare: it was centred and scaled already"):
            use()
    for other in (2 * centred, 1.001 * centred, test):
        verifier.score(made, other)
    with pytest.raises(ValueError, match="allow_pickle"):  # nor does a voice go through np.save unseen
        np.save(tmp_path / "v", made, allow_pickle=True)
        np.load(tmp_path / "v.npy")


def test_length_1_is_no_matter_where_no_mean_is_subtracted_or_the_network_scales(place, verifier, monkeypatch):
    plain = Verifier.load(place / "m", mean="none")
    test = plain.embed(place / "ann2.wav")
    scaled = test / np.linalg.norm(test)
    assert plain.score(scaled, plain.embed(place / "ann0.wav")) == pytest.approx(
        plain.score(test, plain.embed(place / "ann0.wav")), abs=1e-6)
    run = verifier.embedder._run
    normalizing = Verifier.load(place / "m/model.svq")
    monkeypatch.setattr(normalizing.embedder, "_run", lambda x: (run(x) / np.linalg.norm(run(x))).astype(np.float32))
    a, b = normalizing.embed(place / "ann0.wav"), normalizing.embed(place / "ann2.wav")
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-6)
    x, y = (v.astype(float) - verifier.mean for v in (a, b))
    assert normalizing.score(a, b) == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-5)


def test_seconds_are_of_sound_and_unknown_of_embeddings(place, verifier, tmp_path):
    padded = np.pad(soundfile.read(place / "ann0.wav")[0], (0, 32000))
    sound = verifier.enroll([place / "ann0.wav"]).seconds
    assert verifier.enroll([padded]).seconds == pytest.approx(sound, abs=0.05) and 1 < sound <= 1.5
    mixed = verifier.enroll([place / "ann0.wav", verifier.embed(place / "ann1.wav")])
    assert mixed.seconds is None and mixed.recordings == 2
    mixed.save(tmp_path / "v.svs", "x")
    assert Enrollment.load(tmp_path / "v.svs", "x").seconds is None


def test_a_voice_is_no_recording(verifier, store):
    kept = Enrollment.load(store, "ann")
    for use in (lambda: verifier.enroll(kept), lambda: verifier.enroll([kept]), lambda: verifier.embed(kept)):
        with pytest.raises(UserError, match="a recording is needed, not a voice that is enrolled already"):
            use()


def test_voices_of_another_model_or_mean_are_refused(place, verifier, store):
    kept, other = Enrollment.load(store, "ann"), Verifier.load(place / "other/model.svq")
    test = other.embed(place / "ann2.wav")
    with pytest.raises(UserError, match=r"a voice of model.svq: made with model.svq \(network \w{8}\), and model.svq has "
                                        r"another network"):
        other.score(kept, test)
    with pytest.raises(UserError, match="voices.svs: made with model.svq"):
        other.rank(Voices.load(store), test)
    with pytest.raises(UserError, match="goes with no mean embedding"):
        Verifier(verifier.embedder).score(kept, test)


def test_ranks_are_scores_in_order(place, verifier, store):
    voices = Voices.load(store)
    with changed(store) as more:
        more.add("another ann", more["ann"])
    for test in (place / "bob2.wav", verifier.embed(place / "bob2.wav"), verifier.enroll(place / "bob2.wav")):
        ranked = verifier.rank(Voices.load(store), test)
        assert [name for name, _ in ranked] == ["bob", "ann", "another ann"] and ranked[1][1] == ranked[2][1]
        assert dict(ranked)["ann"] == verifier.score(voices["ann"], verifier.embed(place / "bob2.wav"))


def test_one_network_in_other_files(place, tmp_path, verifier, store):
    """Other codes, another calibration of the same mean, another name: the network is the same. A folder's is not."""
    run_worker(pack.main, place / "m", "--entropy", "--output", tmp_path / "small.svq", "--calibration", place / "m.json")
    about = json.loads((place / "m.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({**about, "slope": 3.0}))
    run_worker(pack.main, place / "m", "--output", tmp_path / "again.svq", "--calibration", tmp_path / "c.json")
    for name in ("small.svq", "again.svq"):
        found = Verifier.load(tmp_path / name)
        assert found.origin == verifier.origin and found.origin.file == name
    for path in ("m", "other/model.svq"):
        assert Verifier.load(place / path, calibration=place / "m.json").origin.network != verifier.origin.network
    assert Verifier.load(place / "m/").origin.file == "m"
    assert network_digest(*load_model(place / "m")) == network_digest(*load_model(place / "m"))


def test_digests_of_networks_stay_what_they_are():
    """Stores hold them for years. Where this fails, every store there is would be refused."""
    config = ModelConfig("FCStudent", {"width": 4, "layers": 2, "splice": 3}, 2, FrontEndConfig(num_mels=5))
    net = config.build().eval()
    for number, parameter in enumerate(net.parameters()):
        torch.nn.init.constant_(parameter, number / 8)
    plain = network_digest(net, config)
    assert plain == "9044204fd71edbf8d08d5c8a8b72a2605fff5571b9ebe8329472e7535ac2bbfa"
    other = network_digest(net, dataclasses.replace(config, front_end=FrontEndConfig(num_mels=5, mean_normalize=False)))
    quant = QuantConfig(bits=2, method="uniform")
    quantized = network_digest(quantize_(net, quant), dataclasses.replace(config, quant=quant))
    assert len({plain, other, quantized, network_digest(config.build(), config)}) == 4


def told(found: Verifier, **new) -> Verifier:
    """The verifier of a file whose metadata say something else."""
    old = found.embedder
    embedder = Embedder(dataclasses.replace(old.metadata, **new), old.backend, old._run, old.path)
    return Verifier(embedder, found.calibration, found.mean)


def test_exports_share_the_store_of_their_packed_file(place, tmp_path, verifier, store):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    exported = Verifier.load(made_onnx(place, tmp_path))
    assert exported.origin == verifier.origin and exported.origin.file == "m.onnx"
    test = place / "ann2.wav"
    assert exported.score(Enrollment.load(store, "ann"), exported.embed(test)) == pytest.approx(
        verifier.score(Enrollment.load(store, "ann"), verifier.embed(test)), abs=1e-5)
    with pytest.raises(UserError, match=r"made with model.svq \(float32\), and m.onnx computes the same network in other "
                                        r"arithmetic \(int8 \w{8}\); enrol again"):
        told(exported, precision="int8").score(Enrollment.load(store, "ann"), exported.embed(test))
    int8 = [told(exported, precision="int8", digest=digest).origin for digest in "ab"]
    assert int8[0] != int8[1]  # other ranges, other embeddings
    # Exported before networks had digests, and before files had.
    assert told(exported, network=None, digest="d" * 64).origin.network == "d" * 64
    assert len(told(exported, network=None, digest=None).origin.network) == 32


def made_onnx(place, folder):
    run_worker(export.main, "--model", place / "m/model.svq", "--out", folder / "m.onnx")
    return folder / "m.onnx"


# ---- from the command line


def test_enrol_list_verify_identify_remove(place, tmp_path, verifier, capsys):
    path, model = tmp_path / "v.svs", ["--model", place / "m/model.svq"]
    ann = [place / "ann0.wav", place / "ann1.wav"]
    status, out, err = outcome(enroll.main, capsys, *model, "--name", "Ann Zo\u00eb", "--store", path, *ann)
    assert status == 0 and err == "" and re.fullmatch(f"Ann Zo\u00eb: 2 recordings, [23].[0-9] s of sound, kept in {path}\n",
                                                      out)
    assert outcome(enroll.main, capsys, *model, "--name", "bob", "--store", path, place / "bob0.wav")[0] == 0
    status, out, _ = outcome(enroll.main, capsys, "--store", path, "--list", "true")
    assert status == 0 and re.fullmatch(
        rf"{path}: 2 voices of model.svq \(network {verifier.origin.network[:8]}, float32\)\n"
        "Ann Zo\u00eb  2 recordings, [23].[0-9] s of sound\nbob      1 recording, 1.[0-9] s of sound\n", out)
    status, out, _ = outcome(enroll.main, capsys, "--store", path, "--list", "true", "--json", "true")
    assert [row["name"] for row in json.loads(out)["voices"]] == ["Ann Zo\u00eb", "bob"]

    fresh = outcome(verify.main, capsys, *model, "--json", "true", "--p-target", 0.3, *ann, "--", place / "ann2.wav")
    kept = outcome(verify.main, capsys, *model, "--json", "true", "--p-target", 0.3, "--store", path, "--name",
                   "Ann Zoe\u0308", "--", place / "ann2.wav")
    fresh, kept = json.loads(fresh[1]), json.loads(kept[1])
    assert kept["store"] == str(path) and kept["name"] == "Ann Zoe\u0308" and "enroll" not in kept
    for key in ("score", "llr", "threshold", "decision", "mean_subtracted", "backend", "test", "warnings"):
        assert kept[key] == fresh[key]
    status, out, _ = outcome(verify.main, capsys, *model, "--store", path, "--name", "bob", "--", place / "ann2.wav")
    assert status == 0 and re.search(r"^embed .* s \(1 recording\)$", out, re.M)

    status, out, _ = outcome(identify.main, capsys, *model, "--store", path, "--json", "true", place / "ann2.wav")
    found = json.loads(out)
    assert status == 0 and [row["name"] for row in found["ranking"]] == ["Ann Zo\u00eb", "bob"] and found["voices"] == 2
    assert found["ranking"][0]["score"] == fresh["score"] and found["ranking"][0]["llr"] == fresh["llr"]
    status, out, _ = outcome(enroll.main, capsys, "--store", path, "--remove", "Ann Zoe\u0308")
    assert (status, out) == (0, f"Ann Zoe\u0308: removed from {path}; 1 voice left\n")
    assert list(Voices.load(path)) == ["bob"] and os.listdir(tmp_path) == ["v.svs"]


def test_the_same_command_gives_the_same_bytes(place, tmp_path, capsys):
    stores = [tmp_path / "a.svs", tmp_path / "b.svs"]
    for path in stores:
        for name in ("ann", "bob") if path == stores[0] else ("bob", "ann"):
            run_worker(enroll.main, "--model", place / "m/model.svq", "--name", name, "--store", path, place / f"{name}0.wav")
    assert stores[0].read_bytes() == stores[1].read_bytes()


def test_a_name_that_is_taken(place, store, capsys):
    before = store.read_bytes()
    arguments = ["--model", place / "m/model.svq", "--name", "ann", "--store", store]
    line = refused(enroll.main, capsys, *arguments, place / "none.wav")  # before any recording is read
    assert f"{store}: a voice is named 'ann' already; --replace true" in line and store.read_bytes() == before
    run_worker(enroll.main, *arguments, "--replace", "true", place / "ann2.wav")
    assert Enrollment.load(store, "ann").recordings == 1 and len(Voices.load(store)) == 2


def test_the_best_name_or_nobody(place, store, capsys):
    arguments = ["--model", place / "m/model.svq", "--store", store, place / "bob2.wav"]
    status, out, err = outcome(identify.main, capsys, "--threshold", 0.1, *arguments)
    assert status == 0 and err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["rank", "score", "llr", "name"] and [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert [line.split()[3] for line in lines[1:3]] == ["bob", "ann"]
    assert lines[3] == "threshold    0.100000 (of the llr; --threshold)" and lines[4] == "decision     bob"
    status, out, _ = outcome(identify.main, capsys, "--threshold", 99, "--top", 1, *arguments)
    assert "and 1 more below\n" in out and "decision     unknown: no name is at or above the threshold\n" in out
    found = json.loads(outcome(identify.main, capsys, "--threshold", 99, "--json", "true", *arguments)[1])
    assert (found["decision"], found["name"]) == ("unknown", None)
    assert Verifier.load(place / "m/model.svq").calibration(found["ranking"][0]["score"]) == found["ranking"][0]["llr"]


def test_without_a_calibration_scores_alone(place, tmp_path, capsys):
    path, model = tmp_path / "v.svs", ["--model", place / "m"]
    for name in ("ann", "bob"):
        run_worker(enroll.main, *model, "--name", name, "--store", path, place / f"{name}0.wav")
    capsys.readouterr()
    status, out, _ = outcome(identify.main, capsys, *model, "--store", path, place / "bob2.wav")
    assert status == 0 and out.splitlines()[0].split() == ["rank", "score", "name"] and "llr" not in out.splitlines()[1]
    assert "decision     none: give --calibration, or --threshold of the score\n" in out
    found = json.loads(outcome(identify.main, capsys, *model, "--store", path, "--threshold", -1, "--json", "true",
                               place / "bob2.wav")[1])
    assert (found["decision"], found["name"], found["ranking"][0]["llr"]) == ("accept", found["ranking"][0]["name"], None)


@pytest.mark.parametrize("arguments, words", [
    (["--model", "other/model.svq", "--name", "cy", "ann0.wav"], "another network"),
    (["--model", "m/model.svq", "--name", "a\nb", "ann0.wav"], "a newline or another control character"),
    (["--model", "m/model.svq", "--name", "cy", "none.wav"], "none.wav: no such file"),
    (["--model", "none.svq", "--name", "cy", "ann0.wav"], "none.svq: no such file"),
    (["--remove", "cy"], "no voice is named 'cy'; it has ann, bob"), (["--remove", ""], "is empty"),
])
def test_what_enrolment_refuses_leaves_the_store(place, store, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(place)
    before = store.read_bytes()
    assert words in refused(enroll.main, capsys, "--store", store, *arguments)
    assert store.read_bytes() == before and os.listdir(store.parent) == [store.name]


def test_what_reads_a_store_refuses_another_models_and_a_missing_one(place, store, capsys):
    other, mine = ["--model", place / "other/model.svq"], ["--model", place / "m/model.svq"]
    test = place / "ann2.wav"
    for model, path, words in ((other, store, f"{store}: made with model.svq (network "),
                               (mine, store.parent / "none.svs", "none.svs: no such file; svq.bin.enroll makes one"),
                               ([*mine, "--calibration", place / "other.json"], store, "another calibration, or --mean")):
        assert words in refused(verify.main, capsys, *model, "--store", path, "--name", "ann", "--", test)
        assert words in refused(identify.main, capsys, *model, "--store", path, test)
    assert "no voice is named 'cy'; it has ann, bob" in refused(
        verify.main, capsys, *mine, "--store", store, "--name", "cy", "--", test)
    for name in ("ann", "bob"):
        run_worker(enroll.main, "--store", store, "--remove", name)
    capsys.readouterr()
    assert "it has no voices" in refused(identify.main, capsys, *mine, "--store", store, test)


@pytest.mark.parametrize("worker, arguments, words", [
    (enroll, [], "the following arguments are required: --store"), (enroll, ["--store", "s"], "one of these: --name"),
    (enroll, ["--store", "s", "--list", "true", "--remove", "x"], "one of these"),
    (enroll, ["--store", "s", "--name", "x", "--model", "m"], "required: RECORDING"),
    (enroll, ["--store", "s", "--model", "m", "a.wav"], "required: --name"),
    (enroll, ["--store", "s", "--list", "true", "--replace", "true"], "--replace true is for"),
    (enroll, ["--store", "s", "--list", "yes"], "neither true nor"),
    (identify, ["a.wav"], "required: --store"),
    (identify, ["data/test", "m.svq", "out"], "svq.bin.identification_accuracy's now"),
    (identify, ["--store", "s", "--model", "m", "a.wav", "b.wav"], "one recording at a time, not 2"),
    (identify, ["--store", "s", "--model", "m", "--top", "0", "a.wav"], "--top must be at least 1"),
    (identify, ["--store", "s", "--model", "m", "--p-target", "1", "a.wav"], "--p-target"),
    (identify, ["--store", "s", "--model", "m", "--c-fa", "0", "a.wav"], "--c-miss and --c-fa"),
    (verify, ["--model", "m", "--store", "s", "--", "b.wav"], "--store and --name go together"),
    (verify, ["--model", "m", "--name", "ann", "--", "b.wav"], "--store and --name go together"),
    (verify, ["--model", "m", "--store", "s", "--name", "ann", "a.wav", "--", "b.wav"], "or --store, not both"),
    (verify, ["--cascade", "l", "--store", "s", "--name", "ann", "--", "b.wav"], "--store is not for --cascade"),
    (verify, ["--model", "m", "--store", "s", "--name", "ann"], "one test recording"),
])
def test_wrong_options(capsys, worker, arguments, words):
    status, out, err = outcome(worker.main, capsys, *arguments)
    assert status == 2 and out == "" and words in err.splitlines()[-1]


def test_listing_brings_in_no_network():
    code = "import sys, svq.voices, svq.bin.enroll; print(*sorted({'torch', 'onnxruntime', 'scipy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "\n", done.stdout + done.stderr
