"""Items depend on (seed, epoch, index) alone, and come from the right place of the right recording."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from svq.data import audio
from svq.data.augment_config import AugmentConfig
from svq.data.augment import Augment
from svq.data.dataset import EpochBatches, TrainSet, make_loader
from svq.data.features import COMPRESSION, Matrix, read_matrix, read_vector, write_ark
from svq.errors import UserError
from tests.builders import data_dir


def ramps(tmp_path, seconds=4.0):
    """Recordings whose samples count up, so that a crop says where it comes from."""
    folder = data_dir(tmp_path, speakers=2, utts=3, seconds=seconds)
    for value in TrainSet(folder).recordings.values():
        soundfile.write(value, (np.arange(int(seconds * 16000)) % 32768).astype(np.int16), 16000, subtype="PCM_16")
    return folder


def with_feats(folder, frames=(500, 300, 90), compression="none", cols=80):
    """feats.scp whose value at row t, column f of utterance i is 1000 i + t + f / 100."""
    train = TrainSet(folder)
    pairs = [(train.utterance(i), (1000 * i + np.arange(frames[i % len(frames)])[:, None]
                                   + np.arange(cols) / 100).astype(np.float32)) for i in range(len(train))]
    write_ark(str(folder / "my feats.ark"), str(folder / "feats.scp"), pairs, compression)
    return folder


def test_wav_crop_is_a_stretch_of_the_recording(tmp_path):
    train = TrainSet(ramps(tmp_path), crop_seconds=2.0)
    starts = set()
    for index in range(len(train)):
        for epoch in range(5):
            crop, label = train.item(epoch, index)
            assert crop.shape == (32240,) and crop.dtype == np.float32
            steps = np.round(np.diff(crop) * 32768).astype(int)
            assert set(steps) <= {1, -32767}
            assert label == index // 3
            starts.add(round(crop[0] * 32768))
    assert len(starts) > 25 and 0 <= min(starts) and max(starts) > 20000


def test_short_recordings_repeat(tmp_path):
    train = TrainSet(ramps(tmp_path, seconds=0.5), crop_seconds=2.0)
    crop, _ = train.item(0, 0)
    np.testing.assert_array_equal(np.round(crop * 32768), np.arange(32240) % 8000)


def test_rounded_durations_do_not_matter(tmp_path):
    folder = ramps(tmp_path, seconds=2.1)
    text = (folder / "utt2dur").read_text().replace(" 2.1", " 2.2")
    (folder / "utt2dur").write_text(text)
    assert all(TrainSet(folder).item(epoch, 0)[0].shape == (32240,) for epoch in range(30))


@pytest.mark.parametrize("compression", COMPRESSION)
def test_feats_crop_is_a_stretch_of_the_matrix(tmp_path, compression):
    folder = with_feats(data_dir(tmp_path, speakers=1, utts=3), compression=compression)
    train = TrainSet(folder, input="feats", crop_seconds=2.0)
    tolerance = {"none": 0, "speech": 8, "two-byte": 0.03}[compression]
    for epoch in range(10):
        for index, frames in enumerate((500, 300, 90)):
            crop, _ = train.item(epoch, index)
            assert crop.shape == (200, 80) and crop.dtype == np.float32
            first = int(np.round(crop[0, 0])) - 1000 * index if compression != "speech" else None
            if first is not None and frames >= 200:
                expected = 1000 * index + first + np.arange(200)[:, None] + np.arange(80) / 100
                np.testing.assert_allclose(crop, expected, atol=tolerance + 1e-3)
            elif first is not None:
                np.testing.assert_allclose(crop[90:180], crop[:90])


def test_items_are_pure_functions(tmp_path):
    folder = ramps(tmp_path)
    config = AugmentConfig(noise_dir=str(folder), rir_dir=str(folder), prob=0.6)
    a, b = TrainSet(folder, augment=config), TrainSet(folder, augment=config)
    for _ in range(7):
        b.item(3, 1)
    for epoch, index in [(0, 0), (0, 5), (9, 2)]:
        assert np.array_equal(a.item(epoch, index)[0], b.item(epoch, index)[0])
    assert not np.array_equal(a.item(0, 0)[0], a.item(1, 0)[0])
    assert not np.array_equal(a.item(0, 0)[0], TrainSet(folder, seed=1, augment=config).item(0, 0)[0])


def test_augmentation_changes_the_share_it_should(tmp_path):
    folder = ramps(tmp_path)
    clean, noisy = TrainSet(folder), TrainSet(folder, augment=Augment(folder, prob=0.5))
    changed = [not np.array_equal(clean.item(e, i)[0], noisy.item(e, i)[0]) for e in range(10) for i in range(6)]
    assert 0.3 < np.mean(changed) < 0.7


def test_keep_speakers_renumbers(tmp_path):
    folder = data_dir(tmp_path, speakers=5, utts=2)
    train = TrainSet(folder, keep_speakers=["spk03", "spk01"])
    assert train.speakers == ["spk01", "spk03"] and train.num_speakers == 2 and len(train) == 4
    assert [train.item(0, i)[1] for i in range(4)] == [0, 0, 1, 1]
    assert [train.utterance(i) for i in range(4)] == ["spk01-utt00", "spk01-utt01", "spk03-utt00", "spk03-utt01"]
    with pytest.raises(UserError, match="spk9"):
        TrainSet(folder, keep_speakers=["spk9"])


def test_missing_parts_are_named(tmp_path):
    folder = data_dir(tmp_path)
    with pytest.raises(UserError, match="feats.scp is missing; stage 2"):
        TrainSet(folder, input="feats")
    (folder / "utt2dur").write_text("spk00-utt00 1.0\n")
    with pytest.raises(UserError, match="utt2dur: no line for spk00-utt01"):
        TrainSet(folder)


def test_unreadable_recording_names_the_utterance(tmp_path):
    folder = data_dir(tmp_path)
    train = TrainSet(folder)
    os.truncate(train.recordings.value(0), 0)
    with pytest.raises(UserError, match="utterance spk00-utt00: .*utt00.wav"):
        train.item(0, 0)
    for workers in (0, 1):
        with pytest.raises(UserError, match="^[^\n]*utterance spk00-utt00[^\n]*$"):
            list(make_loader(train, EpochBatches(12, 12, 0, 0), 0, workers))


def test_epochs_visit_every_item_once():
    seen = np.concatenate(list(EpochBatches(103, 10, seed=1, epoch=4)))
    assert len(seen) == 100 and len(set(seen.tolist())) == 100 and seen.max() < 103
    again = np.concatenate(list(EpochBatches(103, 10, seed=1, epoch=4)))
    assert np.array_equal(seen, again)
    assert not np.array_equal(seen, np.concatenate(list(EpochBatches(103, 10, seed=1, epoch=5))))
    assert not np.array_equal(seen, np.concatenate(list(EpochBatches(103, 10, seed=2, epoch=4))))


def test_resumed_and_shared_epochs_are_parts_of_the_whole_one():
    whole = list(EpochBatches(50, 8, 0, 0))
    rest = EpochBatches(50, 8, 0, 0, start_batch=4)
    assert len(rest) == 2 and all(np.array_equal(a, b) for a, b in zip(rest, whole[4:]))
    ranks = [list(EpochBatches(50, 8, 0, 0, rank=r, world_size=4)) for r in range(4)]
    for i, batch in enumerate(whole):
        assert np.array_equal(np.concatenate([rank[i] for rank in ranks]), batch)


def test_impossible_batches():
    with pytest.raises(UserError, match="shared evenly"):
        EpochBatches(50, 8, 0, 0, world_size=3)
    with pytest.raises(UserError, match="smaller batch"):
        EpochBatches(7, 8, 0, 0)


def test_loader_does_not_depend_on_workers(tmp_path):
    folder = ramps(tmp_path, seconds=1.0)
    train = TrainSet(folder, crop_seconds=0.5, augment=Augment(folder, folder))
    batches = EpochBatches(len(train), 2, 0, 7)
    runs = [list(make_loader(train, batches, 7, workers)) for workers in (0, 1, 2)]
    assert len(runs[0]) == len(batches) == 3
    for run in runs[1:]:
        for (x, y), (x0, y0) in zip(run, runs[0], strict=True):
            assert torch.equal(x, x0) and torch.equal(y, y0)
    inputs, labels = runs[0][0]
    assert inputs.shape == (2, 8240) and inputs.dtype == torch.float32 and labels.dtype == torch.int64


def test_workers_die_with_their_parent(tmp_path):
    folder = ramps(tmp_path, seconds=1.0)
    code = f"""
import os, time
from svq.data.dataset import EpochBatches, TrainSet, make_loader
train = TrainSet({str(folder)!r}, crop_seconds=0.5)
for _ in make_loader(train, EpochBatches(6, 1, 0, 0), 0, 2):
    print(*open(f"/proc/self/task/{{os.getpid()}}/children").read().split(), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert children
    for _ in range(100):
        alive = [pid for pid in children if os.path.exists(f"/proc/{pid}") and not is_zombie(pid)]
        if not alive:
            break
        time.sleep(0.02)
    assert not alive


def is_zombie(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("compression", COMPRESSION)
@pytest.mark.parametrize("rows", [1, 4, 9, 200])
def test_archives_are_read_as_kaldiio_reads_them(tmp_path, compression, rows):
    kaldiio = pytest.importorskip("kaldiio")
    rng = np.random.default_rng(0)
    ark, scp = str(tmp_path / "a b.ark"), str(tmp_path / "a.scp")
    feats = (5 * rng.standard_normal((rows, 80)) + 10).astype(np.float32)
    assert write_ark(ark, scp, [("u1", feats), ("u2", feats[::-1])], compression) == 2
    specifiers = dict(line.rstrip("\n").split(" ", 1) for line in open(scp))
    for specifier in specifiers.values():
        whole = kaldiio.load_mat(specifier)
        np.testing.assert_allclose(read_matrix(specifier), whole, atol=1e-5)
        for first in range(0, rows, 3):
            np.testing.assert_allclose(read_matrix(specifier, first, 2), whole[first:first + 2], atol=1e-5)
        np.testing.assert_allclose(read_matrix(f"{specifier}[0:{rows - 1}]"), whole, atol=1e-5)
    limit = {"none": 0, "speech": 0.5, "two-byte": 1e-3}[compression]
    assert np.abs(read_matrix(specifiers["u1"]) - feats).max() <= limit


def test_vectors_text_and_pipes(tmp_path):
    write_ark(str(tmp_path / "v.ark"), str(tmp_path / "v.scp"), [("a", np.arange(5, dtype=np.float32))])
    specifier = (tmp_path / "v.scp").read_text().split(" ", 1)[1].strip()
    assert np.array_equal(read_vector(specifier), np.arange(5))
    (tmp_path / "t").write_text(" [\n  1 2.5\n  3 4 ]\n")
    assert np.array_equal(read_matrix(str(tmp_path / "t")), [[1, 2.5], [3, 4]])
    assert np.array_equal(read_matrix(f"cat '{tmp_path}/t' |", 1), [[3, 4]])
    with pytest.raises(UserError, match="found a matrix"):
        read_vector(str(tmp_path / "t"))


def test_archives_never_run_code(tmp_path):
    """kaldiio would unpickle this entry."""
    (tmp_path / "evil").write_bytes(b"PKLcos\nsystem\n(S'touch " + bytes(tmp_path) + b"/ran'\ntR.")
    with pytest.raises(UserError, match="not a Kaldi matrix"):
        read_matrix(str(tmp_path / "evil"))
    assert not (tmp_path / "ran").exists()


def test_damaged_archives_are_named(tmp_path):
    write_ark(str(tmp_path / "f.ark"), str(tmp_path / "f.scp"), [("a", np.ones((50, 80), np.float32))])
    specifier = (tmp_path / "f.scp").read_text().split(" ", 1)[1].strip()
    os.truncate(tmp_path / "f.ark", 9000)
    assert read_matrix(specifier, 0, 20).shape == (20, 80)
    for text in (specifier, str(tmp_path / "absent:4"), f"{tmp_path}/f.ark:1", "false |", f"{specifier}[10:60]"):
        with pytest.raises(UserError) as error:
            read_matrix(text)
        assert "\n" not in str(error.value)
    with Matrix(specifier) as matrix:
        assert matrix.shape == (50, 80)


def test_crops_are_read_without_the_rest(tmp_path, monkeypatch):
    """A crop of a long recording asks audio.load for its own seconds only."""
    train = TrainSet(ramps(tmp_path), crop_seconds=1.0)
    asked = []
    monkeypatch.setattr(audio, "load", lambda name, rate, start, seconds: asked.append(seconds) or np.ones(16240))
    train.item(0, 0)
    assert asked == [16240 / 16000]
