"""Seconds and peak memory of every data directory operation on a directory the size of VoxCeleb2 with speed
perturbation: python tests/bench/data_dirs.py [--utterances 3300000]. No audio is touched.

Each operation runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def make(path: Path, utterances: int, speakers: int) -> None:
    """A directory in VoxCeleb2's manner: long ids, ffmpeg pipes."""
    path.mkdir(parents=True)
    each = -(-utterances // speakers)
    with open(path / "wav.scp", "w") as wav, open(path / "utt2spk", "w") as u2s, open(path / "utt2dur", "w") as dur:
        for n in range(utterances):
            speaker, k = f"id{n // each:05d}", n % each
            utt = f"{speaker}-{k // 20:04d}aBcDeFg-{k:05d}"
            rx = f"ffmpeg -v error -i /corpora/VoxCeleb2/dev/aac/{speaker}/{k // 20:04d}aBcDeFg/{k:05d}.m4a -f wav - |"
            wav.write(f"{utt} {rx}\n")
            u2s.write(f"{utt} {speaker}\n")
            dur.write(f"{utt} {4 + k % 160 / 20:g}\n")
    from svq.data.datadir import DataDir, write_spk2utt

    write_spk2utt(path / "spk2utt", DataDir(path).utt2spk)


def operation(name: str, folder: Path) -> None:
    import numpy as np

    from svq.data import fix, reshape, speed, trials, validate
    from svq.data.datadir import DataDir

    big = folder / "big"
    if name == "read wav.scp":
        assert len(DataDir(big).wav) > 0
    elif name == "speakers and their index":
        assert len(DataDir(big).speaker_index) == len(DataDir(big).utt2spk)
    elif name == "look up 100,000 ids":
        table = DataDir(big).wav
        ids = [table.key(int(i)) for i in np.random.default_rng(0).integers(0, len(table), 100_000)]
        table.indices(ids)
    elif name == "validate (no audio)":
        assert validate.validate(big, "none").total == 0
    elif name == "split into 32":
        reshape.split(big, 32)
    elif name == "subset: a tenth":
        reshape.subset(big, folder / "tenth", reshape.choose(DataDir(big), len(DataDir(big).utt2spk) // 10))
    elif name == "combine two halves":
        reshape.combine(folder / "both", [folder / "a", folder / "b"])
    elif name == "speed 0.9, 1.1 of a third":
        speed.perturb_speed(folder / "third", folder / "sp", ["0.9", "1.1"], keep_original=True)
    elif name == "fix a shuffled one":
        assert fix.fix(folder / "shuffled").changed
    elif name == "draw 500,000 trials":
        trials.draw_pairs(DataDir(big).speaker_index, np.zeros(len(DataDir(big).utt2spk), np.int64), 500_000, 0)
    elif name == "prepare":
        total = len(DataDir(big).utt2spk)
        rows = np.arange(total)
        reshape.subset(big, folder / "a", rows[::2])
        reshape.subset(big, folder / "b", rows[1::2])
        reshape.subset(big, folder / "third", rows[: total // 3])
        shuffled = np.random.default_rng(0).permutation(total)
        (folder / "shuffled").mkdir()
        for part in ("wav.scp", "utt2spk", "utt2dur"):
            DataDir(big).table(part).write(folder / "shuffled" / part, shuffled)
    else:
        raise ValueError(name)


NAMES = [
    "read wav.scp",
    "speakers and their index",
    "look up 100,000 ids",
    "validate (no audio)",
    "split into 32",
    "subset: a tenth",
    "combine two halves",
    "speed 0.9, 1.1 of a third",
    "fix a shuffled one",
    "draw 500,000 trials",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=3_300_000)
    parser.add_argument("--speakers", type=int, default=17_982)
    parser.add_argument("--operation", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["SVQ_ALLOW_PIPES"] = "true"  # the list is our own, and nothing here runs its commands
    if args.operation:
        start, cpu = time.perf_counter(), time.process_time()
        operation(args.operation, args.folder)
        seconds, busy = time.perf_counter() - start, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {args.operation:26s} | {seconds:6.1f} | {busy:6.1f} | {peak:7.0f} |", flush=True)
        return
    import numpy as np

    model = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    print(f"{(model or [platform.processor()])[0]}, {os.cpu_count()} cores; Python {platform.python_version()}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "big", args.utterances, args.speakers)
        megabytes = (Path(folder) / "big" / "wav.scp").stat().st_size / 1e6
        print(f"{args.utterances} utterances of {args.speakers} speakers; wav.scp {megabytes:.0f} MB\n")
        print(f"| {'operation':26s} | {'s':>6s} | {'CPU s':>6s} | {'peak MB':>7s} |\n|---|--:|--:|--:|", flush=True)
        for name in ["prepare", *NAMES]:
            out = subprocess.DEVNULL if name == "prepare" else None
            command = [sys.executable, __file__, "--operation", name, "--folder", folder]
            subprocess.run(command, check=True, stdout=out)


if __name__ == "__main__":
    main()
