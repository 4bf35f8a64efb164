"""Features and embeddings from the command line: right values, any number of jobs, nothing lost in silence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from svq.bin import extract, make_fbank, merge_jobs
from svq.config import to_dict
from svq.data import extraction, stored
from svq.data.extraction import Utterances, embed, equal_length_batches
from svq.data.fbank import Fbank, mean_normalize
from svq.data.features import job_slice, merge_parts, write_ark
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.network import ModelConfig
from tests.builders import data_dir, voice

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = (9000, 12000, 9000, 16077, 12000, 9000, 400, 9000, 5000, 9100, 9000)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data directory with recordings of unlike length, a small model, and its embeddings one at a time."""
    folder = tmp_path_factory.mktemp("a place")
    data = data_dir(folder, speakers=1, utts=len(LENGTHS), seconds=0.1)
    rng, durations = np.random.default_rng(0), []
    for i, length in enumerate(LENGTHS):
        soundfile.write(folder / "data_wav" / f"spk00-utt{i:02d}.wav", voice(i, length / 16000, rng), 16000)
        durations.append(f"spk00-utt{i:02d} {length / 16000}\n")
    (data / "utt2dur").write_text("".join(durations))
    torch.manual_seed(0)
    config = ModelConfig(arch="ResNet18", net={"width": 8}, embed_dim=16)
    net = config.build().eval()
    for module in net.modules():  # as after training: batch norm is not the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    save_model(folder / "model", net, config)
    return folder, data, folder / "model", alone(net, data)


def alone(net, data):
    """{id: embedding} the plain way: one recording, one forward."""
    result = {}
    for line in (data / "wav.scp").read_text().splitlines():
        key, path = line.split(" ", 1)
        wav, _ = soundfile.read(path, dtype="float32")
        with torch.no_grad():
            result[key] = net(mean_normalize(Fbank()(torch.from_numpy(wav)[None])))[0].numpy()
    return result


def call(monkeypatch, worker, *arguments):
    monkeypatch.setattr(sys, "argv", [worker.__name__, *map(str, arguments)])
    worker.main()


def read(out):
    return {key: np.array(vector) for key, vector in kaldiio.load_scp(f"{out}.scp").items()}


def assert_same(embeddings, reference, atol=1e-6):
    assert sorted(embeddings) == sorted(reference)
    for key, vector in reference.items():
        np.testing.assert_allclose(embeddings[key], vector, atol=atol, err_msg=key)


@pytest.mark.parametrize("batch_frames", [1, 120, 4000])
def test_neighbours_in_the_batch_do_not_matter(place, monkeypatch, batch_frames):
    folder, data, model, reference = place
    out = folder / f"batch{batch_frames}"
    call(monkeypatch, extract, data, model, out, "--batch-frames", batch_frames)
    assert_same(read(out), reference)
    assert next(iter(reference.values())).std() > 1e-3  # the comparison could fail


@pytest.mark.parametrize("num_jobs", [1, 3, len(LENGTHS) + 2])
@pytest.mark.parametrize("lengths_known", [True, False])
def test_number_of_jobs_does_not_matter(place, monkeypatch, num_jobs, lengths_known):
    folder, data, model, reference = place
    monkeypatch.setattr(extraction, "_BLOCK_FRAMES", 100)
    monkeypatch.setattr(extraction, "_BLOCK_UTTERANCES", 3)
    monkeypatch.setattr(extraction.DataDir, "has", knowing(extraction.DataDir.has, lengths_known))
    part, out = folder / f"nj{num_jobs}.JOB", folder / f"nj{num_jobs}"
    for job in range(1, num_jobs + 1):
        call(monkeypatch, extract, data, model, str(part).replace("JOB", str(job)), "--job", job,
             "--num-jobs", num_jobs)
    call(monkeypatch, merge_jobs, f"{part}.scp", f"{out}.scp", "--ark", f"{out}.ark", "--expected",
         data / "utt2spk", "--num-jobs", num_jobs, "--log", "log.JOB")
    assert_same(read(out), reference)
    keys = [line.split()[0] for line in open(f"{out}.scp")]
    assert keys == sorted(reference)
    assert [key for key, _ in kaldiio.load_ark(f"{out}.ark")] == keys
    assert all(str(out) + ".ark:" in line for line in open(f"{out}.scp"))
    of_one_job = folder / f"{lengths_known}.ark"
    if num_jobs == 1:
        shutil.copy(f"{out}.ark", of_one_job)
    assert open(f"{out}.ark", "rb").read() == of_one_job.read_bytes()


def knowing(has, lengths: bool):
    return lambda folder, name: has(folder, name) and (lengths or name != "utt2dur")


@given(st.lists(st.sampled_from([0.0, 3.0, 150.0, 151.0, 700.0, 20000.0]), min_size=1, max_size=60), st.integers(1, 9))
def test_jobs_share_whole_blocks_of_speech(frames, num_jobs):
    frames = np.array(frames)
    numbers = extraction._blocks(frames)
    assert sorted(set(numbers)) == list(range(max(numbers) + 1))
    in_order = numbers[np.argsort(frames, kind="stable")]
    assert (np.diff(in_order) >= 0).all()  # longer ones are in later blocks
    for block in set(numbers):
        of_it = frames[numbers == block]
        assert of_it.sum() - of_it.max() <= extraction._BLOCK_FRAMES
        assert frames.any() or len(of_it) <= extraction._BLOCK_UTTERANCES
    slices = [job_slice(max(numbers) + 1, job, num_jobs) for job in range(1, num_jobs + 1)]
    assert [n for s in slices for n in range(s.start, s.stop)] == list(range(max(numbers) + 1))


@pytest.mark.parametrize("frames", ["-3", "0", "1e300"])
def test_a_strange_length_changes_the_order_only(place, tmp_path, frames):
    _, data, model, reference = place
    strange = tmp_path / "strange"
    shutil.copytree(data, strange)
    lines = (data / "utt2dur").read_text().splitlines()
    (strange / "utt2dur").write_text("\n".join([f"{lines[0].split()[0]} {frames}", *lines[1:]]) + "\n")
    net, config = load_model(model)
    assert_same(dict(embed(net, Utterances(strange, config.front_end))), reference)


def test_from_archived_features(place, monkeypatch):
    """Through compressed features the embeddings differ by the compression alone."""
    folder, data, model, reference = place
    feats = folder / "feats"
    feats.mkdir()
    for name in ("utt2spk", "wav.scp"):
        (feats / name).write_bytes((data / name).read_bytes())
    for compress, atol in (("false", 1e-6), ("true", 1e-4)):
        call(monkeypatch, make_fbank, data, feats / "fbank", "--compress", compress)
        (feats / "feats.scp").write_bytes((feats / "fbank.scp").read_bytes())
        (feats / "utt2num_frames").write_bytes((feats / "fbank.num_frames").read_bytes())
        call(monkeypatch, extract, feats, model, folder / "from_feats")
        assert_same(read(folder / "from_feats"), reference, atol)
    for source in ("feats", "wav"):
        call(monkeypatch, extract, feats, model, folder / f"cut_{source}", "--max-seconds", 0.3, "--input", source)
    assert_same(read(folder / "cut_feats"), read(folder / "cut_wav"), 1e-4)


@pytest.mark.parametrize("method, limit", [("two-byte", 3e-4), ("speech", 0.3)])
def test_features_are_the_front_ends(place, monkeypatch, method, limit):
    folder, data, _, _ = place
    call(monkeypatch, make_fbank, data, folder / method, "--compression-method", method)
    frames = dict(line.split() for line in open(folder / f"{method}.num_frames"))
    for key, feats in kaldiio.load_scp(str(folder / f"{method}.scp")).items():
        wav, _ = soundfile.read(folder / "data_wav" / f"{key}.wav", dtype="float32")
        expected = Fbank()(torch.from_numpy(wav)[None])[0].numpy()
        assert feats.shape == expected.shape == (int(frames[key]), 80)
        assert np.abs(feats - expected).max() < limit


def test_max_seconds(place, monkeypatch):
    folder, data, model, reference = place
    call(monkeypatch, extract, data, model, folder / "short", "--max-seconds", 0.5625)
    short = read(folder / "short")
    np.testing.assert_allclose(short["spk00-utt00"], reference["spk00-utt00"], atol=1e-6)
    assert np.abs(short["spk00-utt03"] - reference["spk00-utt03"]).max() > 1e-4


def test_quantized_network_is_as_in_evaluation(place):
    from svq.quant import QuantConfig, quantize_

    _, data, model, _ = place
    net, config = load_model(model)
    quantize_(net, QuantConfig(bits=2))
    assert_same(dict(embed(net, Utterances(data, config.front_end), 500)), alone(net, data))


@pytest.mark.parametrize("worker", [extract, make_fbank])
def test_bad_utterances_are_named_and_nothing_is_written(place, monkeypatch, capsys, tmp_path, worker):
    folder, _, model, _ = place
    data = data_dir(tmp_path, speakers=1, utts=5, seconds=0.3)
    soundfile.write(tmp_path / "data_wav" / "spk00-utt01.wav", np.zeros(399), 16000)
    soundfile.write(tmp_path / "data_wav" / "spk00-utt02.wav", np.zeros(8000), 16000)
    os.truncate(tmp_path / "data_wav" / "spk00-utt03.wav", 0)
    arguments = [data, model, tmp_path / "out"] if worker is extract else [data, tmp_path / "out"]
    with pytest.raises(UserError, match="3 of 5 utterances .*: spk00-utt01, spk00-utt02, spk00-utt03$"):
        call(monkeypatch, worker, *arguments)
    assert "spk00-utt01: " in (said := capsys.readouterr().err) and "399 samples" in said and "silence" in said
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("compression", [("false", "two-byte"), ("true", "two-byte"), ("true", "speech")])
def test_stored_features_of_silence(place, monkeypatch, tmp_path, compression):
    """As an archive made elsewhere may hold them: two silences have one embedding."""
    _, _, model, _ = place
    data = data_dir(tmp_path, speakers=1, utts=3, seconds=0.3)
    monkeypatch.setattr("svq.data.extraction.require_sound", lambda *_: None)
    for utt, length in ((1, 8000), (2, 400)):
        soundfile.write(tmp_path / "data_wav" / f"spk00-utt{utt:02d}.wav", np.zeros(length), 16000)
    call(monkeypatch, make_fbank, data, tmp_path / "fbank", "--compress", compression[0],
         "--compression-method", compression[1])
    (data / "feats.scp").write_bytes((tmp_path / "fbank.scp").read_bytes())
    with pytest.raises(UserError, match="1 of 3 utterances have no embedding: spk00-utt01$"):
        call(monkeypatch, extract, data, model, tmp_path / "out")


def test_not_finite_is_an_error(place):
    _, data, model, _ = place
    net, config = load_model(model)
    net.embedding.bias.data[0] = float("nan")
    results = list(embed(net, Utterances(data, config.front_end)))
    assert len(results) == len(LENGTHS) and all(isinstance(result, UserError) for _, result in results)


def test_wrong_features_are_an_error(place):
    _, data, _, _ = place
    with pytest.raises(UserError, match="feats.scp"):
        Utterances(data, FrontEndConfig(), input="feats")
    (key, result), *_ = Utterances(data, FrontEndConfig(num_mels=80))
    assert result.shape[1] == 80


def merged(tmp_path, parts, ids, num_jobs=2):
    (tmp_path / "utt2spk").write_text("".join(f"{i} s\n" for i in ids))
    for job, keys in parts.items():
        (tmp_path / f"part.{job}").write_text("".join(f"{key} value of {key}\n" for key in keys))
    merge_parts(str(tmp_path / "part.JOB"), str(tmp_path / "out"), str(tmp_path / "utt2spk"), num_jobs, "log.JOB")
    return (tmp_path / "out").read_text()


def test_merging_sorts_and_keeps_all(tmp_path):
    text = merged(tmp_path, {1: ["B", "a"], 2: ["b", "c"]}, ["c", "a", "b", "B"])
    assert text == "".join(f"{key} value of {key}\n" for key in ("B", "a", "b", "c"))


@pytest.mark.parametrize("parts, words", [
    ({1: ["a"], 2: ["c", "d"]}, "3 ids in place of 4; lost: b; see log.JOB"),
    ({1: ["a", "b"]}, "job 2 was lost; see log.2"),
    ({1: ["a", "b"], 2: ["c", "d", "e"]}, "5 ids in place of 4; not in .*utt2spk: e; see"),
    ({1: ["a", "b"], 2: ["b", "c", "d"]}, "5 ids in place of 4; of two jobs: b; see"),
])
def test_merging_names_what_is_lost(tmp_path, parts, words):
    with pytest.raises(UserError, match=words):
        merged(tmp_path, parts, "abcd")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_was_altered_is_refused(tmp_path):
    (tmp_path / "utt2spk").write_text("a s\nb s\n")
    write_ark(str(tmp_path / "part.1.ark"), str(tmp_path / "part.1"), [("b", np.ones(3)), ("a", np.zeros(2))])
    names = [str(tmp_path / name) for name in ("part.JOB", "out", "utt2spk")]
    merge_parts(*names, 1, "log.JOB", str(tmp_path / "out.ark"))
    assert {key: list(value) for key, value in kaldiio.load_ark(str(tmp_path / "out.ark"))} == {
        "a": [0, 0], "b": [1, 1, 1]}
    (tmp_path / "part.1.ark").write_bytes(bytes(90))
    with pytest.raises(UserError, match="part.1.ark: .* b does not stand at byte 0|a does not stand at"):
        merge_parts(*names, 1, "log.JOB", str(tmp_path / "out.ark"))


@given(st.lists(st.integers(1, 6), max_size=40), st.integers(1, 20), st.integers(1, 40))
def test_batches_hold_equal_lengths_and_everything_once(lengths, batch_frames, held):
    utterances = [(str(i), torch.full((length, 2), float(i))) for i, length in enumerate(lengths)]
    seen = []
    for keys, feats in equal_length_batches(utterances, batch_frames, held):
        assert feats.shape[0] == len(keys) and (len(keys) == 1 or feats.shape[0] * feats.shape[1] <= batch_frames)
        assert all(torch.all(row == float(key)) and row.shape[0] == lengths[int(key)] for key, row in zip(keys, feats))
        seen += keys
    assert sorted(seen, key=int) == [str(i) for i in range(len(lengths))]


@pytest.mark.skipif(not (ROOT / "utils/run.py").exists(), reason="no dispatcher")
def test_steps_end_to_end(place):
    """The two scripts, in a folder with a space, with two jobs; then with a recording gone, and one emptied."""
    folder, data, _, reference = place
    for name in ("steps", "utils", "path.sh"):
        (folder / name).symlink_to(ROOT / name)

    def step(*arguments):
        return subprocess.run(["bash", *arguments], cwd=folder, capture_output=True, text=True)

    done = step("steps/make_fbank.sh", "--nj", "2", "--cmd", "run.py", "data", "log fbank", "arks")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in open(data / "feats.scp")] == sorted(reference)
    assert stored.read_made(data) == to_dict(FrontEndConfig(mean_normalize=False))
    assert not list((folder / "arks").glob("*.yaml"))
    done = step("steps/extract.sh", "--nj", "2", "data", "model", "emb dir")
    assert done.returncode == 0, done.stderr
    embeddings = {key: vector for key, vector in kaldiio.load_ark(str(folder / "emb dir" / "embedding.ark"))}
    assert_same(embeddings, reference, 1e-4)
    assert sorted(os.listdir(folder / "emb dir")) == [
        ".done.embedding.scp", "embedding.ark", "embedding.scp", "log"]

    done = step("steps/extract.sh", "--nj", "2", "--sets", "data", ".", "model", "all")
    assert done.returncode == 0 and (folder / "all/data/embedding.ark").read_bytes() == (folder / "emb dir/embedding.ark").read_bytes()

    recording = folder / "data_wav" / "spk00-utt10.wav"
    recording.rename(folder / "gone")
    (data / "feats.scp").unlink()
    done = step("steps/make_fbank.sh", "--nj", "1", "data", "log fbank", "arks")
    assert done.returncode == 1 and f"{recording} is missing, which data/wav.scp names" in done.stderr
    recording.write_bytes(b"")
    done = step("steps/make_fbank.sh", "--nj", "1", "data", "log fbank", "arks")
    (folder / "gone").replace(recording)
    assert done.returncode != 0 and "make_fbank_data.1.log" in done.stdout + done.stderr
    assert "spk00-utt10" in done.stdout + done.stderr
    assert not (data / "feats.scp").exists() and not (data / "feats.yaml").exists()
    for wrong in (["--nj", "x"], ["--no-such", "1"], ["--nj"]):
        assert step("steps/extract.sh", *wrong, "data", "model", "out").returncode == 2
