"""Shards: what they hold, who else reads them, what a damaged one says, and the order in which training reads them."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.bin import make_shards
from svq.data import audio
from svq.data.datadir import DataDir
from svq.data.dataset import EpochBatches, Pieces, TrainSet, epoch_batches, make_loader
from svq.data.shard_order import LANES, Blocks, ShardBatches
from svq.data.shard_reader import LaneReader
from svq.data.tarshard import entries
from svq.errors import UserError
from svq.files import fingerprint, read_json
from tests.builders import data_dir
from tests.helpers import run_worker


def made(tmp_path, source, *options, name="sharded", jobs=1, join=(), megabytes=0.2):
    """The data directory of shards of `source`, about `megabytes` each."""
    stem = tmp_path / f"{name}_tars" / "set"
    (stem.parent / "index").mkdir(parents=True, exist_ok=True)
    for job in range(1, jobs + 1):
        run_worker(make_shards.main, "write", source, stem, "--megabytes", megabytes, "--job", job, "--num-jobs", jobs, *options)
    run_worker(make_shards.main, "join", tmp_path / name, stem, "--data", source, *join)
    return tmp_path / name


def tars(folder):
    return sorted(folder.with_name(f"{folder.name}_tars").glob("*.tar"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return data_dir(tmp_path_factory.mktemp("source"), speakers=6, utts=5, seconds=1.2)


@pytest.fixture(scope="module")
def sharded(source, tmp_path_factory):
    return made(tmp_path_factory.mktemp("sharded"), source)


def test_flac_has_the_very_samples_and_every_road_reads_them(source, sharded):
    ours, theirs = DataDir(sharded), DataDir(source)
    assert len(tars(sharded)) > 2
    assert (sharded / "utt2spk").read_bytes() == (source / "utt2spk").read_bytes()
    assert (sharded / "spk2gender").read_bytes() == (source / "spk2gender").read_bytes()
    for key, value in theirs.wav.items():
        assert np.array_equal(audio.load(ours.wav[key]), audio.load(value))
        assert np.array_equal(audio.load(ours.wav[key], start=0.3, seconds=0.5), audio.load(value, start=0.3, seconds=0.5))
        assert audio.info(ours.wav[key]) == audio.info(value)


def test_other_tar_tools_read_them(source, sharded):
    """As WeSpeaker groups members: by what stands before the last dot."""
    found = {}
    for path in tars(sharded):
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                stem, _, suffix = member.name.rpartition(".")
                found.setdefault(stem, {})[suffix] = tar.extractfile(member).read()
    assert {key: parts["spk"].decode() for key, parts in found.items()} == dict(DataDir(source).utt2spk.items())
    samples, rate = soundfile.read(io.BytesIO(found["spk02-utt03"]["flac"]), dtype="float32")
    assert rate == 16000 and np.array_equal(samples, audio.load(DataDir(source).wav["spk02-utt03"]))


def test_jobs_do_not_matter_and_what_is_there_stays(tmp_path, source, sharded):
    other = made(tmp_path, source, jobs=3)
    assert [p.read_bytes() for p in tars(other)] == [p.read_bytes() for p in tars(sharded)]
    times = [p.stat().st_mtime_ns for p in tars(other)]
    os.unlink(tars(other)[1])
    made(tmp_path, source)
    again = [p.stat().st_mtime_ns for p in tars(other)]
    assert [a == b for a, b in zip(times, again)] == [True, False] + [True] * (len(times) - 2)
    assert [p.read_bytes() for p in tars(other)] == [p.read_bytes() for p in tars(sharded)]
    made(tmp_path, source, megabytes=0.5)  # fewer, larger ones: none of the old is left
    assert len(tars(other)) < len(times)
    assert sum(1 for path in tars(other) for _ in entries(path)) == 30


def test_lossy_codecs_are_smaller_and_as_long(tmp_path, source):
    reference = audio.load(DataDir(source).wav["spk01-utt01"])
    for codec in ("vorbis", "opus"):
        folder = made(tmp_path, source, "--codec", codec, name=codec, megabytes=20)
        samples = audio.load(DataDir(folder).wav["spk01-utt01"])
        assert len(samples) == len(reference) and np.corrcoef(samples, reference)[0, 1] > 0.97
        assert os.path.getsize(tars(folder)[0]) < 30 * 1.2 * 32000 * 0.5


def test_original_files_and_floats(tmp_path):
    folder = data_dir(tmp_path, speakers=2, utts=1)
    lines = dict(DataDir(folder).wav.items())
    loud = 1.5 * audio.load(lines["spk00-utt00"]) / 0.3
    soundfile.write(lines["spk00-utt00"], loud, 16000, subtype="FLOAT")
    kept = made(tmp_path, folder, "--codec", "original", name="kept")
    held = {entry.key: entry.data for entry in entries(tars(kept)[0])}
    assert held == {key: open(path, "rb").read() for key, path in lines.items()}
    for codec in ("flac", "vorbis", "opus"):  # beyond full scale no codec, and no clipping
        folder_of = made(tmp_path, folder, "--codec", codec, name=codec)
        assert np.array_equal(audio.load(DataDir(folder_of).wav["spk00-utt00"]), loud)


def test_finer_samples_are_rounded_to_16_bits(tmp_path):
    folder = data_dir(tmp_path, speakers=1, utts=1)
    path = DataDir(folder).wav["spk00-utt00"]
    fine = np.append(audio.load(path) + np.float32(1e-6), np.float32([1.0, -1.0]))
    soundfile.write(path, fine, 16000, subtype="FLOAT")
    out = made(tmp_path, folder)
    assert next(entries(tars(out)[0])).suffix == "flac"
    assert np.abs(audio.load(DataDir(out).wav["spk00-utt00"]) - fine).max() <= 2 ** -15


def test_segments_are_cut(tmp_path):
    folder = data_dir(tmp_path, speakers=1, utts=1, seconds=3.0)
    wav = (folder / "wav.scp").read_text().split()[1]
    (folder / "wav.scp").write_text(f"reco {wav}\n")
    (folder / "segments").write_text("spk00-a reco 0.5 1.25\nspk00-b reco 1.5 -1\n")
    (folder / "utt2spk").write_text("spk00-a spk00\nspk00-b spk00\n")
    (folder / "utt2dur").unlink()
    out = made(tmp_path, folder)
    whole = audio.load(wav)
    assert np.array_equal(audio.load(DataDir(out).wav["spk00-a"]), whole[8000:20000])
    assert np.array_equal(audio.load(DataDir(out).wav["spk00-b"]), whole[24000:])
    assert (out / "utt2dur").read_text() == "spk00-a 0.75\nspk00-b 1.5\n" and not (out / "segments").exists()


def test_what_cannot_be_read_is_named_and_nothing_is_joined(tmp_path):
    folder = data_dir(tmp_path, speakers=2, utts=2)
    os.truncate(DataDir(folder).wav["spk01-utt00"], 100)
    soundfile.write(DataDir(folder).wav["spk00-utt01"], np.zeros(16000), 16000)
    with pytest.raises(UserError, match="2 utterances cannot be read or are silent: spk0.-utt0., spk0.-utt0."):
        made(tmp_path, folder)
    assert not tars(tmp_path / "sharded") and not (tmp_path / "sharded").exists()
    with pytest.raises(UserError, match="no tables of shards"):
        run_worker(make_shards.main, "join", tmp_path / "out", tmp_path / "sharded_tars" / "set", "--data", folder)
    with pytest.raises(UserError, match="no file of its own"):
        made(tmp_path, sharded_copy(tmp_path, folder), "--codec", "original", name="x")


def sharded_copy(tmp_path, folder):
    """A data directory whose recording is no file, but lies in one at an offset."""
    copy = tmp_path / "offsets"
    shutil.copytree(folder, copy)
    (copy / "wav.scp").write_text("spk00-utt00 " + DataDir(folder).wav["spk00-utt00"] + ":0\n")
    (copy / "utt2spk").write_text("spk00-utt00 spk00\n")
    return copy


# ---- shards that others made


def wespeaker_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def wespeaker_set(tmp_path, source, count=2):
    """Shards as WeSpeaker's tools write them, whose ids may hold slashes and dots; (paths, utterances)."""
    lines = [(f"id/{key}.wav", speaker, DataDir(source).wav[key]) for key, speaker in DataDir(source).utt2spk.items()]
    paths = [tmp_path / f"shards_{i:09d}.tar" for i in range(count)]
    for i, path in enumerate(paths):
        wespeaker_tar(path, [member for key, speaker, wav in lines[i::count]
                             for member in ((f"{key}.spk", speaker.encode()), (f"{key}.wav", open(wav, "rb").read()))])
    return paths, lines


def test_shards_of_others_are_read_as_they_are(tmp_path, source):
    paths, lines = wespeaker_set(tmp_path, source)
    stem = tmp_path / "t" / "set"
    for job in (1, 2):
        run_worker(make_shards.main, "index", stem, *paths, "--job", job, "--num-jobs", 2)
    run_worker(make_shards.main, "join", tmp_path / "data", stem, *paths)
    folder = DataDir(tmp_path / "data")
    assert dict(folder.utt2spk.items()) == {key: speaker for key, speaker, _ in lines}
    assert all(np.array_equal(audio.load(folder.wav[key]), audio.load(wav)) for key, _, wav in lines)
    train = TrainSet(tmp_path / "data", crop_seconds=0.5)
    items = [item for batch in make_loader(train, epoch_batches(train, 10, 0), 0, 0) for item in batch[1].tolist()]
    assert sorted(items) == sorted(train.labels.tolist())
    wespeaker_tar(paths[1], [("id/spk00-utt00.wav.spk", b"x"), ("id/spk00-utt00.wav.wav", open(lines[0][2], "rb").read())])
    run_worker(make_shards.main, "index", stem, *paths)
    with pytest.raises(UserError, match="shards_000000001.tar: id/spk00-utt00.wav is also in .*shards_000000000.tar"):
        run_worker(make_shards.main, "join", tmp_path / "data", stem, *paths)


@pytest.mark.parametrize("members, said", [
    ([("a.wav", b"x")], "a has no speaker"),
    ([("a.spk", b"s")], "a has no recording"),
    ([("a.spk", b"s"), ("a.wav", b"x"), ("a.flac", b"x")], "a has two recordings"),
    ([("a b.spk", b"s"), ("a b.wav", b"x")], "the utterance `a b` of a b is no id"),
    ([("a.spk", b"s t"), ("a.wav", b"x")], "the speaker `s t` of a is no id"),
    ([("a.spk", b"\xff"), ("a.wav", b"x")], "not UTF-8"),
    ([("a.spk", b"s"), ("a.wav", b"x")], "x.tar: a.wav: "),
])
def test_strange_tars_are_one_line(tmp_path, members, said):
    wespeaker_tar(tmp_path / "x.tar", members)
    with pytest.raises(UserError, match=f"x.tar: [^\n]*{said.removeprefix('x.tar: ')}[^\n]*$"):
        run_worker(make_shards.main, "index", tmp_path / "t" / "set", tmp_path / "x.tar")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_a_tar_cut_anywhere_is_no_tar(tmp_path_factory, where, text):
    folder = tmp_path_factory.mktemp("cut")
    wespeaker_tar(folder / "x.tar", [("a.spk", b"s"), ("a.wav", bytes(range(256)) * 5), ("b.spk", b"t"), ("b.wav", b"y" * 700)])
    whole = list(entries(folder / "x.tar"))
    assert [entry.key for entry in whole] == ["a", "b"]
    end = whole[1].offset + 1024  # what follows are the zeros that end a tar
    with open(folder / "x.tar", "r+b") as file:
        file.truncate(where % end)
        if text and where % end == 0:
            file.write(b"no tar at all" * 100)
    with pytest.raises(UserError, match="x.tar: "):
        list(entries(folder / "x.tar"))


# ---- damage


def copied(tmp_path, sharded):
    for path in (sharded, sharded.with_name("sharded_tars")):
        shutil.copytree(path, tmp_path / path.name)
    old, new = str(sharded.parent), str(tmp_path)
    wav = tmp_path / "sharded" / "wav.scp"
    wav.write_text(wav.read_text().replace(old, new))
    about = read_json(tmp_path / "sharded" / "shards.json")
    about["shards"] = [[path.replace(old, new), size] for path, size in about["shards"]]
    about["wav.scp"] = fingerprint(("file", wav))
    (tmp_path / "sharded" / "shards.json").write_text(json.dumps(about))
    return tmp_path / "sharded"


def test_damaged_shards_are_one_line(tmp_path, sharded):
    folder = copied(tmp_path, sharded)
    path = tars(folder)[1]
    data = path.read_bytes()
    train = TrainSet(folder, crop_seconds=0.5)
    row = int(np.flatnonzero(train.shards.shard == 1)[0])
    middle = int(train.shards.offset[row] + train.shards.size[row] // 2)

    path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    for workers in (0, 2):
        with pytest.raises(UserError, match=r"^[^\n]*set.00001.tar: altered: the \d+ bytes from \d+ on[^\n]*$"):
            list(make_loader(train, epoch_batches(train, 10, 0), 0, workers))
    with pytest.raises(UserError, match="set.00001.tar: .*: altered since the shard was made"):
        run_worker(make_shards.main, "check", folder)
    path.write_bytes(data[:middle])
    with pytest.raises(UserError, match="set.00001.tar: cut short: it ends before byte"):
        list(make_loader(train, epoch_batches(train, 10, 0), 0, 0))
    with pytest.raises(UserError, match=r"set.00001.tar: cut short: it has \d+ bytes, and \d+ when it was made"):
        TrainSet(folder)
    path.unlink()
    with pytest.raises(UserError, match="set.00001.tar: .*: a shard that was there when training began"):
        list(make_loader(train, epoch_batches(train, 10, 0), 0, 0))
    with pytest.raises(UserError, match="set.00001.tar: .*: a shard is missing"):
        TrainSet(folder)
    path.write_bytes(data)
    run_worker(make_shards.main, "check", folder)
    (folder / "wav.scp").write_text((folder / "wav.scp").read_text().replace("set.00001", "set.00000"))
    with pytest.raises(UserError, match="shards.json: was not made for this wav.scp"):
        TrainSet(folder)


# ---- order


@settings(max_examples=40, deadline=None)
@given(st.integers(30, 900), st.integers(1, 40), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(1, 300), st.integers(0, 5))
def test_an_epoch_has_every_item_once_whoever_reads_it(items, batch, speeds, world, buffer, epoch):
    batch *= world
    if items * speeds < batch:
        return
    rng = np.random.default_rng(items)
    blocks = Blocks.of(rng.integers(0, 3, items), rng.permutation(items) * 100_000)
    ranks = [ShardBatches(blocks, speeds, batch, 1, epoch, rank=rank, world_size=world, buffer=buffer) for rank in range(world)]
    whole = [np.concatenate(parts) for parts in zip(*ranks)]
    assert len(whole) == items * speeds // batch and all(len(found) == batch for found in whole)
    seen = np.concatenate(whole)
    assert len(set(seen.tolist())) == len(seen) and seen.min() >= 0 and seen.max() < items * speeds
    if LANES % world == 0 and (batch % LANES == 0 or batch < LANES):
        one = ShardBatches(blocks, speeds, batch, 1, epoch, buffer=buffer)
        assert all(np.array_equal(a, b) for a, b in zip(one, whole, strict=True))
    start = len(whole) // 2
    rest = ShardBatches(blocks, speeds, batch, 1, epoch, start, world - 1, world, buffer)
    assert len(rest) == len(whole) - start
    assert all(np.array_equal(a, b) for a, b in zip(rest, list(ranks[-1])[start:], strict=True))
    of_pools = [rest.of_pool(lane, pool) for lane in rest.lanes for pool in range(len(rest.pools[lane]) - 1)]
    assert sorted(np.concatenate(of_pools)) == sorted(np.concatenate(list(rest)) if len(rest) else [])


def test_epochs_and_seeds_differ_and_batches_mix(sharded):
    items = 20_000
    blocks = Blocks.of(np.arange(items) // 2000, np.arange(items) % 2000 * 140_000)
    first, second = (next(iter(ShardBatches(blocks, 1, 256, 0, epoch))) for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, next(iter(ShardBatches(blocks, 1, 256, 1, 0))))
    assert len(set((first // 29).tolist())) > 150  # blocks of 4 MB hold 29 of these
    with pytest.raises(UserError, match="shared evenly"):
        ShardBatches(blocks, 1, 256, 0, 0, world_size=3)
    with pytest.raises(UserError, match="do not fill a batch"):
        ShardBatches(blocks, 1, items + 1, 0, 0)


def test_every_byte_is_read_once_and_in_long_pieces(sharded):
    train = TrainSet(sharded, crop_seconds=0.5)
    batches = [epoch_batches(train, 10, 0, rank=rank, world_size=2) for rank in (0, 1)]
    readers = [LaneReader(train.shards, part) for part in batches]
    seen = [item for part, reader in zip(batches, readers) for batch in range(3) for lane in part.lanes
            for item, data in reader.take(lane, batch) if len(data) == train.shards.size[item]]
    assert sorted(seen) == list(range(30))
    assert not any(left for reader in readers for _, left in reader.held.values())
    gaps = 30 * 2048  # headers and speakers between the recordings
    assert sum(reader.bytes_read for reader in readers) <= train.shards.size.sum() + gaps
    late = epoch_batches(train, 10, 0, start_batch=2)
    reader = LaneReader(train.shards, late)
    wanted = [item for lane in late.lanes for item, _ in reader.take(lane, 2)]
    assert sorted(wanted) == sorted(np.concatenate(list(late)).tolist())
    assert reader.bytes_read <= train.shards.size[wanted].sum() + gaps


def test_the_loader_does_not_depend_on_workers_and_resumes(sharded):
    train = TrainSet(sharded, crop_seconds=0.5)
    runs = [list(make_loader(train, epoch_batches(train, 7, 3), 3, workers)) for workers in (0, 1, 2)]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for old, new in zip(runs[0], run, strict=True) for a, b in zip(old, new, strict=True))
    order = list(epoch_batches(train, 7, 3))
    for items, (inputs, labels) in zip(order, runs[0], strict=True):
        crops = [train.item(3, int(item)) for item in items]
        assert torch.equal(inputs, torch.from_numpy(np.stack([crop for crop, _ in crops])))
        assert labels.tolist() == [label for _, label in crops]
    rest = list(make_loader(train, epoch_batches(train, 7, 3, 2), 3, 2))
    assert all(torch.equal(a, b) for old, new in zip(runs[0][2:], rest, strict=True) for a, b in zip(old, new))


def test_a_plain_directory_keeps_its_order(source):
    train = TrainSet(source)
    assert isinstance(epoch_batches(train, 5, 0), EpochBatches)


@pytest.mark.parametrize("lanes", [3, 7, 20])
def test_more_workers_than_lanes_divide_evenly(sharded, lanes):
    """Which worker reads which lanes: all of them, each once, whatever the numbers."""
    train = TrainSet(sharded, crop_seconds=0.5)
    batches = epoch_batches(train, 7, 3)
    pieces = list(Pieces(batches, lanes := min(lanes, len(batches.lanes))))
    assert len(pieces) == lanes * len(batches) == len(Pieces(batches, lanes))
    for batch in range(len(batches)):
        mine = pieces[batch * lanes : (batch + 1) * lanes]
        assert {found for found, _ in mine} == {batch}
        assert [lane for _, part in mine for lane in part] == list(batches.lanes)


def test_a_step_killed_at_any_instant_is_run_again(tmp_path, source, sharded):
    """Whole shards stay, halves go, and the end is that of an undisturbed run."""
    stem = tmp_path / "sharded_tars" / "set"
    command = [sys.executable, "-m", "svq.bin.make_shards", "write", source, stem, "--megabytes", "0.2"]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL) as process:
        while not list(stem.parent.glob("*.tar")) and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    (stem.parent / ".set.00002.killed.tmp.tar").write_bytes(b"half of one")  # as it may leave one at another instant
    again = made(tmp_path, source)
    assert [path.read_bytes() for path in tars(again)] == [path.read_bytes() for path in tars(sharded)]
    assert sorted(os.listdir(stem.parent)) == ["index", *(path.name for path in tars(sharded))]
