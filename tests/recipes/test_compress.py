"""steps/compress.sh: a checkpoint of SpeechBrain's in, a packed file of the size asked for out."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from svq.bin import compress as compress_worker
from svq.bits.table import read_bits
from svq.compression import report
from svq.compression.plan import Settings, most_utterances
from svq.errors import UserError
from svq.models import load_model
from svq.train.objective import imprinted
from tests import warm
from tests.builders import data_dir
from tests.helpers import run_worker
from tests.importing import formula

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "importing" / "fixtures" / "speechbrain_ecapa_small.json"
QUICK = ("--max-probes", 3, "--crop-seconds", 0.5, "--steps", 2, "--batch-size", 4, "--calibration-utts", 4, "--nj", 1,
         "--num-threads", 1)
STEPS = ["float", "rounded", "calibrated", "finetuned"]


class Compressing:
    """Data, trials and a checkpoint; called with options it runs the script to the status that is expected."""

    def __init__(self, folder):
        self.folder = folder
        self.checkpoint = folder / "embedding_model.ckpt"
        layers = json.loads(SMALL.read_text())["layers"]
        torch.save(formula.checkpoint(formula.expand(layers)), self.checkpoint)
        self.data = data_dir(folder, speakers=3, utts=3, seconds=0.7, name="speech")
        (self.data / "utt2dur").unlink()  # made on the way
        self.tests = data_dir(folder, speakers=6, utts=2, seconds=0.7, seed=1, name="tests")
        names = [line.split()[0] for line in (self.tests / "wav.scp").read_text().splitlines()][:-1]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
        lines = [f"{a} {b} {'target' if a[:5] == b[:5] else 'nontarget'}\n" for a, b in pairs]
        self.trials = self.tests / "trials"
        self.trials.write_text("".join(lines))

    def words(self, replaced: dict) -> list:
        given = {"model": self.checkpoint, "from": "speechbrain", "target_mb": 0.1, "data": self.data,
                 "trials": self.trials}
        return [word for name, value in (given | replaced).items() for word in (f"--{name.replace('_', '-')}", value)]

    def __call__(self, *options, status: int = 0, **replaced) -> str:
        words = self.words({"out": self.folder / "out", **replaced})
        command = ["bash", "steps/compress.sh", *map(str, (*words, *QUICK, *options))]
        shared = {} if status else warm.environment()
        done = subprocess.run(command, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, env={**os.environ, **shared, "OMP_NUM_THREADS": "1"})
        assert done.returncode == status, done.stdout[-4000:]
        return done.stdout

    def refused(self, *options, status: int = 1, **replaced) -> str:
        """The one line that it is refused with, nothing made."""
        out = self.folder / "refused"
        said = self(*options, status=status, **{"out": out, **replaced})
        assert not out.exists() and len(said.splitlines()) == 1, said
        return said

    def checked(self, *options, **replaced) -> str:
        """The message of the check that the script begins with, in this process."""
        words = self.words({"trials_data": self.tests, **replaced})
        with pytest.raises(UserError) as error:
            run_worker(compress_worker.main, "check", *words, *options)
        assert "\n" not in str(error.value)
        return str(error.value)


@pytest.fixture(scope="module")
def compress(tmp_path_factory):
    return Compressing(tmp_path_factory.mktemp("a checkpoint"))


def results(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def test_every_step_is_measured_and_none_is_done_twice(compress):
    out = compress.folder / "out"
    said = compress()
    assert "\nfinetuned: " in said and "took: sensitivity " in said and " finetuned " in said.splitlines()[-2]
    found, size = results(out), (out / "quantized" / "model.svq").stat().st_size
    assert [step["name"] for step in found["steps"]] == STEPS
    before, rounded, calibrated, last = found["steps"]
    assert size <= 100_000 and size == last["size_bytes"] > 80_000
    assert before["size_bytes"] == (out / "float" / "model.safetensors").stat().st_size
    assert before["interval"][0] <= before["eer"] <= before["interval"][1]
    assert rounded["cosine"] < calibrated["cosine"] <= 1 and last["lowest"] < last["cosine"]
    assert last["to_before"]["eer"] == pytest.approx(last["eer"] - calibrated["eer"])
    assert last["to_float"]["eer"] == pytest.approx(last["eer"] - before["eer"])
    net, config = load_model(out / "quantized" / "model.svq")
    assert config.front_end.fbank == "speechbrain" and config.quant.method == "kmqat" and not config.quant.per_channel
    assert (out / "data" / "trials" / "wav.scp").read_text().count("\n") == 11  # the twelfth is in no trial
    assert (out / "data" / "speech" / "wav.scp").read_text().count("\n") == 8  # two batches of four
    assert not (out / "finetuned" / "head.safetensors").exists()
    assert not (compress.data / "utt2dur").exists()
    text = (out / "report.md").read_text()
    for words in ("learns the float embeddings of crops of 0.5 s", "batches of 4, 1 epoch,", "| EER (%) |",
                  f"| {size:,} |", "95 % interval", "5 target and 50 non-t", "## What each step changed"):
        assert words in text
    assert " 0 made," in compress()


def test_without_finetuning_and_without_calibration(compress):
    """In the same folder: what has not changed stays."""
    out = compress.folder / "out"
    said = compress("--finetune", "none", "--stop-stage", 6)
    assert " 2 made," in said and "quantized/model.svq (" in said and "took:" not in said
    assert (out / "quantized" / "model.svq").read_bytes() == (out / "calibrated" / "model.svq").read_bytes()
    compress("--finetune", "false", "--calibrate", "false", "--stop-stage", 6)
    assert (out / "quantized" / "model.svq").stat().st_size <= 100_000
    assert min(row.bits for row in read_bits(out / "bits.tsv")) >= 2
    assert load_model(out / "quantized" / "model.svq")[1].quant.binary == "same"
    assert "is quantized already" in compress.checked(model=out / "rounded", **{"from": "svq"})
    assert "lower the target" in compress.checked(model=out / "float", target_mb=9, **{"from": "svq"})
    said = compress("--finetune", "none", "--stage", 7, "--norm", "snorm", "--cohort", compress.data, status=1)
    assert "data/cohort/utt2spk is missing" in said and "stage 2 makes it (svq.bin.compress)" in said


def test_with_labels_from_float_weights(compress):
    out = compress.folder / "labels"
    compress("--finetune", "labels", "--calibrate", "false", "--method", "integer", "--stop-stage", 6, out=out)
    assert not (out / "calibrated").exists()
    assert (out / "finetuned" / "head.safetensors").exists()
    _, config = load_model(out / "quantized" / "model.svq")
    assert (config.quant.method, config.quant.scheme) == ("integer", "affine")
    how = dict(report.made_how(out, ["rounded", "finetuned"], compress.data))
    assert how["finetuned"].startswith("learns the labels and the float embeddings of crops of 0.5 s of ")


def test_a_dry_run_touches_nothing(compress):
    out = compress.folder / "dry"
    assert "dry run: " in compress("--dry-run", out=out)
    assert not out.exists()


@pytest.fixture
def unknown(compress, tmp_path):
    """Trials without labels, in a folder of recordings without speakers."""
    names = [line.split()[0] for line in (compress.tests / "wav.scp").read_text().splitlines()]
    (tmp_path / "wav.scp").write_text((compress.tests / "wav.scp").read_text())
    (tmp_path / "trials").write_text(f"{names[0]} {names[1]}\n{names[2]} {names[3]}\n")
    return tmp_path


def test_a_folder_of_ours_is_taken_with_its_classifier_where_the_speakers_are_its_own(compress, unknown, capsys):
    source, taken = compress.folder / "labels" / "float", unknown / "taken"
    check = ("check", *compress.words({"model": source, "from": "svq", "trials_data": compress.tests}))
    few = ("--batch-size", 4)
    run_worker(compress_worker.main, *check, *few)
    assert capsys.readouterr().out == "embedding embedding none false false\n"
    run_worker(compress_worker.main, *check, *few, "--finetune", "true")
    assert capsys.readouterr().out == "labels labels own false false\n"
    run_worker(compress_worker.main, "take", "--model", source, "--head", "own", "--out", taken)
    for name in ("model.safetensors", "config.yaml", "head.safetensors", "speakers.txt"):
        assert (taken / name).read_bytes() == (source / name).read_bytes()
    capsys.readouterr()
    run_worker(compress_worker.main, *check, "--data", compress.tests, "--finetune", "labels")
    assert capsys.readouterr().out == "labels labels fitted false false\n"
    rounded = ("--finetune", "none", "--calibrate", "false")
    run_worker(compress_worker.main, *check, *rounded)
    assert capsys.readouterr().out == "none embedding none false true\n"
    run_worker(compress_worker.main, *check, *rounded, "--target-mb", 0.084)  # no room for codebooks
    assert capsys.readouterr().out == "none embedding none false false\n"


def test_speech_and_trials_of_unknown_speakers(compress, unknown, capsys):
    (unknown / "utt2spk").write_text("".join(f"{line.split()[0]} {line.split()[0]}\n"
                                             for line in (unknown / "wav.scp").read_text().splitlines()))
    given = compress.words({"trials_data": unknown, "data": unknown, "trials": unknown / "trials"})
    run_worker(compress_worker.main, "check", *given)
    out, err = capsys.readouterr()
    assert out == "none embedding none false false\n"
    assert "12 recordings do not fill a batch of 32: not finetuned" in err
    run_worker(compress_worker.main, "check", *given, "--finetune", "true")
    assert capsys.readouterr().out == "embedding embedding none false false\n"
    assert "are no labels" in compress.checked("--finetune", "labels", data=unknown)
    (unknown / "utt2spk").unlink()
    run_worker(compress_worker.main, "tested", "--trials", unknown / "trials", "--data", unknown,
               "--out", unknown / "out")
    assert len((unknown / "out" / "utt2spk").read_text().splitlines()) == 4
    found = report.compare(compress.folder / "out", ["rounded"], unknown / "trials", unknown)
    assert found.trials is None and "no labels" in found.notes[0] and "EER" not in report.as_markdown(found, [])
    assert "EER" not in "".join(report.as_lines(found))


def test_steps_of_finetuning_are_whole_epochs_of_as_many_recordings_as_they_take():
    assert [most_utterances(steps, 0, 32) for steps in (1, 400)] == [32, 12800]
    assert most_utterances(400, 2, 32) is None
    found = {count: Settings(10**6, count).tree("finetuned") for count in (20, 32, 2905, 12800)}
    assert {count: (tree["batch_size"], tree["epochs"]) for count, tree in found.items()} == {
        20: (20, 400), 32: (32, 400), 2905: (32, 4), 12800: (32, 1)}
    assert found[32]["freeze_batch_norm"] and found[32]["optimizer"]["weight_decay"] == 0
    for other in ({"finetune": "labels"}, {"calibrate": False}):  # which do not start next to what they learn
        assert "freeze_batch_norm" not in Settings(10**6, 32, **other).tree("finetuned")
    with pytest.raises(UserError, match="--steps 0: must be at least 1"):
        most_utterances(0, 0, 32)


def test_a_file_over_the_target_is_refused(tmp_path):
    (tmp_path / "model.svq").write_bytes(bytes(1001))
    with pytest.raises(UserError, match="is 1 bytes over the target"):
        run_worker(compress_worker.main, "finish", "--step", tmp_path, "--out", tmp_path / "out", "--target-mb", 0.001)


def test_imprinted_weights_are_mean_directions():
    vectors = {"a": [3.0, 0.0], "b": [0.0, 2.0], "c": [-5.0, 0.0]}
    labels = {"a": 0, "b": 0, "c": 1}
    weight = imprinted(((key, np.array(value)) for key, value in vectors.items()), labels, 2)
    torch.testing.assert_close(weight, torch.tensor([[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]))
    with pytest.raises(UserError, match=r"data: 1 utterances have no embedding: b \(too short\)"):
        imprinted([("a", np.ones(2)), ("b", UserError("too short"))], labels, 2)


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_what_is_wrong_with_what_is_given_is_one_line(compress, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "none.pt: no such file" in compress.refused(model=tmp_path / "none.pt")
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"a": Code()}))
    assert "code.pt: holds more than tensors" in compress.refused(model=tmp_path / "code.pt")
    assert not (tmp_path / "ran").exists()
    assert "none of clova's networks" in compress.checked(**{"from": "clova"})
    (tmp_path / "trials").write_text("spk00-utt00 spk09-utt00 target\n")
    assert "wav.scp: no recording for 1 id: spk09-utt00" in compress.checked(trials=tmp_path / "trials")
    assert f"{tmp_path}/wav.scp: no such file" in compress.checked(trials_data=tmp_path)
    (tmp_path / "utt2spk").write_text("a b\n")
    assert f"{tmp_path}/wav.scp: no such file" in compress.checked(data=tmp_path)
    assert "takes the folder of a float model" in compress.checked(**{"from": "svq"})
    assert "integer quantizes to 2 bits or more" in compress.checked("--method", "integer", "--candidates", "1,2")
    assert "utterances is 0" in compress.checked("--calibration-utts", 0)
    assert "--batch-size 0: must be at least 1" in compress.checked("--batch-size", 0)


def test_a_size_that_cannot_be_met_is_said_with_one_that_can(compress):
    said = compress.checked(target_mb=0.03)
    assert "cannot be met: the smallest, with 1 bits for every layer, has " in said
    least = float(said.rpartition("raise the target to ")[2])
    assert 0.03 < least < 0.09 and "smallest, with 2 bits" in compress.checked("--method", "integer", target_mb=0.03)
    assert "with --calibrate true, 1 bit is possible" in compress.checked("--finetune", "none", "--calibrate", "false",
                                                                         target_mb=0.03)


@pytest.mark.parametrize("options, told", [
    (("--no-such-option", "1"), "unknown option"), (("--steps", "few"), "takes an integer"),
    (("--finetune", "maybe"), "--finetune takes one of auto embedding labels none true"),
    (("--from", "kaldi"), "--from takes one of"),
    (("--data="), "needs --data"), (("--norm", "asnorm"), "needs --cohort"), (("out",), "takes options only"),
])
def test_options_that_are_wrong_exit_2(compress, options, told):
    assert told in compress.refused(*((options,) if isinstance(options, str) else options), status=2)
