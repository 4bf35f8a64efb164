"""Lists of any size are handled in memory that grows by so many bytes an utterance: of 30 million by `tests/run.sh --scale`."""

from __future__ import annotations

import os

import numpy as np
import pytest

from svq.data.datadir import DataDir
from svq.data.dataset import TrainSet
from svq.data.shard_index import ShardIndex
from tests.scale import lists

COUNT = int(os.environ.get("SVQ_SCALE", 4_000))
LONG = COUNT > 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Lists of COUNT utterances; in the long lane those of $SVQ_SCALE_FOLDER, where they are."""
    given = os.environ.get("SVQ_SCALE_FOLDER")
    folder = lists.Path(given) if given else tmp_path_factory.mktemp("scale")
    if not (folder / "big").exists():
        lists.make(folder, COUNT)
    if not (folder / "trials").exists():
        lists.make_scoring(folder, COUNT)
    if not LONG:
        lists.join_shards(folder)
    return folder


def test_lists_are_what_they_say(folder):
    data = DataDir(folder / "big")
    assert len(data.utt2spk) == len(data.wav) == COUNT and len(data.speakers) == -(-COUNT // lists.PER_SPEAKER)
    assert data.utt2spk.is_sorted and (LONG or not DataDir(folder / "shuffled").utt2spk.is_sorted)  # what was mended stays so
    assert data.utt2spk.key(COUNT - 1) == f"id{(COUNT - 1) // 500:05d}-{(COUNT - 1) % 500 // 20:04d}aBcDeFg-{(COUNT - 1) % 500:05d}"


@pytest.mark.skipif(LONG, reason="one at a time, in processes of their own, below")
@pytest.mark.parametrize("work", lists.WORKS)
def test_each_work_is_done(folder, work):
    if work == "score":
        (folder / "scores").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", [])
            lists.score(folder)
        assert len((folder / "scores" / "cosine_asnorm.score").read_text().splitlines()) == COUNT // 5
    else:
        lists.WORKS[work][0](folder)


@pytest.mark.skipif(LONG, reason="all columns as Python objects take too much")
def test_the_join_has_every_row_of_every_shard(folder):
    rows = {}
    for number, path in enumerate(sorted((folder / "shards" / "index").iterdir())):
        for line in path.read_text().splitlines()[1:]:
            key, _, offset, size, crc, _ = line.split()
            rows[key] = number, int(offset), int(size), int(crc, 16)
    keys = DataDir(folder / "sharded").utt2spk.key_array
    index = ShardIndex(folder / "sharded", keys)
    found = zip(index.shard.tolist(), index.offset.tolist(), index.size.tolist(), index.crc.tolist())
    assert dict(zip([key.decode() for key in keys], found)) == rows
    wav, train = DataDir(folder / "sharded").wav, TrainSet(folder / "sharded")
    assert [index.place(row) for row in range(0, COUNT, 97)] == [wav.value(row) for row in range(0, COUNT, 97)]
    assert train.recordings is None and train.utterance(COUNT) == keys[0].decode()  # the speeds are sorted: 0.9 first


@pytest.mark.skipif(not LONG, reason="bash tests/run.sh --scale")
@pytest.mark.parametrize("work", lists.WORKS)
def test_memory(folder, work):
    """Each in a process of its own. The bounds leave a quarter above what was measured."""
    seconds, busy, peak = lists.measured(work, folder)
    print(f"| {work} | {seconds:.0f} | {busy:.0f} | {peak:,.0f} |", flush=True)
    assert peak < lists.limit(work, COUNT)


def test_lines_are_filled_digit_by_digit():
    found = lists.filled(b"a##-###\n", np.array([7, 42]), np.array([5, 123]))
    assert found.tobytes() == b"a07-005\na42-123\n"
    with pytest.raises(ValueError):
        lists.filled(b"a##-###\n", np.array([7]))
