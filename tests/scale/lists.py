"""Synthetic lists of any size, and what is done with them, one piece of work a process: its seconds and its peak memory.

  python3 tests/scale/lists.py --utterances 30000000 [--folder DIR] [WORK ...]      a table in Markdown

The lists are those of VoxCeleb2 that has grown: 500 utterances a speaker, 1,800 in a shard, ids of 27 letters. A shard is a
file of the right size that takes no room. No audio is touched.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

PER_SPEAKER, PER_SHARD, DIM = 500, 1800, 256
PIECE = 1 << 18  # lines made together
MEMORY = 16 << 30  # bytes that no work may take: the machine has other guests
UTTERANCE = b"id#####-####aBcDeFg-#####"


def filled(template: bytes, *numbers) -> np.ndarray:
    """Lines (n, width) uint8 of a template whose runs of # are the decimal digits of `numbers`, an (n,) array a run."""
    text = np.frombuffer(template, np.uint8)
    out = np.tile(text, (len(numbers[0]), 1))
    places = np.flatnonzero(text == ord("#"))
    for run, values in zip(np.split(places, np.flatnonzero(np.diff(places) > 1) + 1), numbers, strict=True):
        for place in run[::-1]:
            values, digit = np.divmod(values, 10)
            out[:, place] = digit + ord("0")
    return out


def parts_of(utterance: np.ndarray) -> tuple[np.ndarray, ...]:
    """Speaker, video and number of utterances, the three numbers of an id."""
    return utterance // PER_SPEAKER, utterance % PER_SPEAKER // 20, utterance % PER_SPEAKER


def make(folder: Path, count: int) -> None:
    """Writes a data directory `big`, a shuffled one, and the tables of shards."""
    big, shuffled = folder / "big", folder / "shuffled"
    mixed = np.random.default_rng(0).permutation(count).astype(np.int32)
    for place, order in ((big, np.arange(count, dtype=np.int32)), (shuffled, mixed)):
        place.mkdir(parents=True)
        for name, value in (("utt2spk", b"id#####"), ("wav.scp", b"/corpora/vox/id#####/####aBcDeFg/#####.flac"), ("utt2dur", b"#.#####")):
            with open(place / name, "wb") as file:
                for first in range(0, count, PIECE):
                    parts = parts_of(order[first : first + PIECE])
                    value_of = {"utt2spk": parts[:1], "wav.scp": parts, "utt2dur": (parts[2] % 7 + 2, parts[2])}[name]
                    file.write(filled(UTTERANCE + b" " + value + b"\n", *parts, *value_of).tobytes())
    (folder / "shards" / "index").mkdir(parents=True)
    line = UTTERANCE + b" id##### ######### ###### 0000#### #.#####\n"
    for number, of_shard in enumerate(np.array_split(mixed, -(-count // PER_SHARD))):
        size = 100_000 + of_shard % 80_000
        end = np.cumsum(size + 2048)
        parts = parts_of(of_shard)
        text = filled(line, *parts, parts[0], end - size, size, of_shard % 10_000, size // 17_500, size)
        (folder / "shards" / "index" / f"s.{number:05d}").write_bytes(b"# digest %d\n" % end[-1] + text.tobytes())
        with open(folder / "shards" / f"s.{number:05d}.tar", "wb") as file:
            file.truncate(int(end[-1]))


def make_scoring(folder: Path, count: int) -> None:
    """Writes embeddings of 1.2 % as many utterances, means of a cohort, and as many trials as a fifth of the utterances."""
    from svq.backend.embeddings import write_embeddings, write_vector

    rng = np.random.default_rng(0)
    tests = max(count // 83, 20)
    keys = filled(UTTERANCE, *parts_of(np.arange(tests)))
    vectors = rng.standard_normal((tests, DIM), np.float32) + rng.standard_normal((tests // PER_SPEAKER + 1, DIM), np.float32)[
        np.arange(tests) // PER_SPEAKER]
    words = [row.tobytes().decode() for row in keys]
    write_embeddings(folder / "eval", words, vectors)
    cohort = max(min(count // 5000, 6000), 10)
    write_embeddings(folder / "cohort", [f"id{i:05d}" for i in range(cohort)], rng.standard_normal((cohort, DIM)), "spk_embedding")
    write_vector(folder / "cohort" / "mean.vec", np.zeros(DIM))
    with open(folder / "trials", "wb") as file:
        for first in range(0, count // 5, PIECE):
            sides = [keys[rng.integers(0, tests, min(PIECE, count // 5 - first))] for _ in range(2)]
            space = np.full((len(sides[0]), 1), 32, np.uint8)
            label = np.tile(np.frombuffer(b" nontarget\n", np.uint8), (len(space), 1))
            file.write(np.concatenate([sides[0], space, sides[1], label], axis=1).tobytes())


# ---- what is done with them, by name: each imports what it needs, so that its memory is its own


def join_shards(folder: Path) -> None:
    from svq.data.shard_index import write_data_dir

    count = len(os.listdir(folder / "shards" / "index"))
    pairs = [(str(folder / "shards" / f"s.{n:05d}.tar"), str(folder / "shards" / "index" / f"s.{n:05d}")) for n in range(count)]
    write_data_dir(folder / "sharded", pairs, folder / "big", (0.9, 1.0, 1.1))


def index_shards(folder: Path):
    from svq.data.datadir import DataDir
    from svq.data.shard_index import ShardIndex

    return ShardIndex(folder / "sharded", DataDir(folder / "sharded").utt2spk.key_array)


def order_of_an_epoch(folder: Path) -> None:
    from svq.data.shard_order import Blocks, ShardBatches

    count = os.path.getsize(folder / "big" / "utt2dur") // len(UTTERANCE + b" #.#####\n")
    shard, offset = np.divmod(np.arange(count), PER_SHARD)
    blocks = Blocks.of(shard.astype(np.int32), offset * 140_000)
    del shard, offset
    batches = ShardBatches(blocks, 3, 256, seed=1, epoch=1)
    first = next(iter(batches))
    assert len(set(first.tolist())) == 256 and len(batches) == 3 * count // 256


def training_set(folder: Path) -> None:
    from svq.data.dataset import TrainSet, epoch_batches

    found = TrainSet(folder / "sharded")
    assert found.num_speakers == 3 * len(set(found.labels[: len(found.lines)].tolist()))
    next(iter(epoch_batches(found, 256, 1)))


def validate(folder: Path) -> None:
    from svq.data import validate as validating
    from svq.data.datadir import DataDir, write_spk2utt

    write_spk2utt(folder / "big" / "spk2utt", DataDir(folder / "big").utt2spk)
    assert validating.validate(folder / "big", "none").total == 0


def fix(folder: Path) -> None:
    from svq.data import fix as fixing

    assert fixing.fix(folder / "shuffled").changed


def subset(folder: Path) -> None:
    from svq.data import reshape
    from svq.data.datadir import DataDir

    found = DataDir(folder / "big")
    speakers = max(len(found.speakers) // 100, 1)
    reshape.subset(folder / "big", folder / "cohort_dir", reshape.choose(found, 0, "per-spk", speakers))


def draw_trials(folder: Path) -> None:
    from svq.data.datadir import DataDir
    from svq.data.trials import draw_pairs

    speaker = DataDir(folder / "big").speaker_index
    assert len(draw_pairs(speaker, np.zeros(len(speaker), np.int8), max(len(speaker) // 60, 10), 0))


def sum_means(folder: Path) -> None:
    """One of 64 jobs of steps/extract_means.sh, its network left out."""
    from svq.backend import mean_jobs
    from svq.data.extraction import Utterances
    from svq.data.frontend import FrontEndConfig

    utterances = Utterances(folder / "big", FrontEndConfig(), "wav", 1, 64)
    vector = np.ones(DIM, np.float32)
    mean_jobs.do_job(lambda share: ((share.keys[row], vector) for row in share.order), utterances, folder / "big", folder / "sums.npz", "x")


def score(folder: Path) -> None:
    from svq.bin.score import main

    folders = [str(folder / name) for name in ("trials", "eval", "scores")]
    sys.argv = ["score", "--norm", "asnorm", "--cohort", str(folder / "cohort"), "--threads", "1", *folders]
    main()


# Work, the bytes an utterance that it may take at its peak, and what it reads.
WORKS = {
    "order_of_an_epoch": (order_of_an_epoch, 60), "join_shards": (join_shards, 250), "index_shards": (index_shards, 250),
    "training_set": (training_set, 400), "subset": (subset, 400), "validate": (validate, 430), "sum_means": (sum_means, 300),
    "draw_trials": (draw_trials, 250), "score": (score, 60), "fix": (fix, 450)}
BASE = 600  # MB that Python, numpy and torch may take besides


def measured(work: str, folder: Path) -> tuple[float, float, float]:
    """Does one work in a process of its own: seconds, seconds of processor time, MB at the peak."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, "--folder", str(folder), "--one", work], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{work} failed: status {process.returncode}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def limit(work: str, count: int) -> float:
    """MB that a work may take on lists of `count` utterances."""
    return BASE + WORKS[work][1] * count / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(WORKS)}; none: all")
    parser.add_argument("--utterances", type=int, default=30_000_000)
    parser.add_argument("--folder", type=Path, help="keep the lists here, and take those that are there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        WORKS[options.one][0](options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "big").exists():
            make(folder, options.utterances)
        if not (folder / "trials").exists():
            make_scoring(folder, options.utterances)
        print(f"{options.utterances:,} utterances\n\n| work | seconds | processor time (s) | peak (MB) |\n|---|--:|--:|--:|", flush=True)
        for work in options.works or WORKS:
            seconds, busy, peak = measured(work, folder)
            print(f"| {work} | {seconds:.0f} | {busy:.0f} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
