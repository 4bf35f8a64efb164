"""What it costs to make training samples: processor time by storage, beside WeSpeaker's pipeline from the same files.

    python tests/bench/loader.py --speech /corpora/librispeech251 [--noise DIR --rooms DIR] [--rounds 3]
    python tests/bench/loader.py --speech ... --wespeaker /src/wespeaker --wespeaker-python /venvs/wespeaker/bin/python

A sample: 2 s at a random place of an utterance of 8 s, at 0.9, 1 or 1.1 of its speed, with probability 0.6 in a room or with
noise (read each time, as MUSAN is too large to be kept), 80 log-mels, mean normalization, SpecAugment. Forms: WAV, FLAC, m4a (where there is ffmpeg) as a file an
utterance, and shards of FLAC, Vorbis and Opus. Processor time of one thread and of all programs that it starts; each form
in turn, the least of the rounds. WeSpeaker runs its own code (its Dataset, apply_cmvn and spec_aug) by loader_peer.py in a
Python that has torchaudio, from the same files in the same run; m4a it converts to WAV before. --speech, --noise, --rooms:
folders of recordings; without --speech, buzzes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from svq.data import audio, shard_index, shard_making  # noqa: E402
from svq.data.augment_config import AugmentConfig
from svq.data.augment import spec_augment  # noqa: E402
from svq.data.datadir import create  # noqa: E402
from svq.data.dataset import TrainSet, epoch_batches, make_loader  # noqa: E402
from svq.data.frontend import FrontEnd, FrontEndConfig  # noqa: E402
from svq.hardware import describe  # noqa: E402
from tests.builders import voice  # noqa: E402

SECONDS, BATCH, SPEEDS = 8.0, 64, (0.9, 1.0, 1.1)  # VoxCeleb2's utterances last 8 s on average
SHARDS = ("flac", "vorbis", "opus")


def pieces(folder, count):
    """So many stretches of 8 s of the recordings of a folder, (T,) float32 each."""
    if folder is None:
        for i in range(count):
            yield voice(i % 20, SECONDS, np.random.default_rng(i))
        return
    found = 0
    for path in recordings(folder):
        whole = audio.load(str(path))
        for start in range(0, len(whole) - int(16000 * SECONDS) + 1, int(16000 * SECONDS)):
            yield whole[start : start + int(16000 * SECONDS)]
            found += 1
            if found == count:
                return


def recordings(folder):
    return sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".wav", ".flac", ".ogg"))


def write_forms(root, speech):
    """Data directories of the same utterances by form, and the bytes of each."""
    rows = [(f"spk{i % 50:03d}-u{i:04d}", f"spk{i % 50:03d}", samples) for i, samples in enumerate(speech)]
    forms = ["wav", "flac"] + ["m4a"] * bool(shutil.which("ffmpeg"))
    sizes = {}
    for form in forms:
        folder = root / form
        folder.mkdir()
        for key, _, samples in rows:
            if form == "m4a":
                subprocess.run(["ffmpeg", "-v", "error", "-i", root / "wav" / f"{key}.wav", "-c:a", "aac", "-b:a", "64k",
                                folder / f"{key}.m4a"], check=True)
            else:
                soundfile.write(folder / f"{key}.{form}", samples, 16000, subtype="PCM_16")
        create(root / f"data_{form}", {key: folder / f"{key}.{form}" for key, *_ in rows}, {key: spk for key, spk, _ in rows},
               utt2dur={key: len(samples) / 16000 for key, _, samples in rows})
        sizes[form] = sum(path.stat().st_size for path in folder.iterdir())
    for codec in SHARDS:
        stem = root / f"tars_{codec}" / "set"
        (stem.parent / "index").mkdir(parents=True)
        shard_making.write_part(root / "data_wav", stem, shard_making.Making(codec, megabytes=20), 1, 1)
        shard_index.write_data_dir(root / f"data_shards {codec}", shard_making.tables_of(stem), root / "data_wav")
        sizes[f"shards {codec}"] = sum(path.stat().st_size for path in stem.parent.glob("*.tar"))
    return sizes


def write_clips(root, name, folder):
    """A data directory of WAVs: noise or rooms of a folder; without one, bursts and decays."""
    rng = np.random.default_rng(5)
    (root / name).mkdir()
    if folder is None:
        clips = [rng.standard_normal(80000) * 0.1 if name == "noise" else rng.standard_normal(8000) * np.exp(-np.arange(8000) / 1500)
                 for _ in range(50)]
    else:
        clips = [audio.load(str(path), any_scale=True) for path in recordings(folder)]
    for i, clip in enumerate(clips):
        soundfile.write(root / name / f"{name}{i:04d}.wav", clip / max(1.0, np.abs(clip).max()), 16000, subtype="PCM_16")
    keys = [f"{name}{i:04d}" for i in range(len(clips))]
    create(root / f"data_{name}", {key: root / name / f"{key}.wav" for key in keys}, {key: name for key in keys},
           utt2dur={key: len(clip) / 16000 for key, clip in zip(keys, clips)})


def processor_seconds():
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def ours(data, root, batches, epoch, augment=True):
    """Processor seconds for a sample."""
    config = AugmentConfig(str(root / "data_noise"), str(root / "data_rooms"), cache_mb=0) if augment else None
    train = TrainSet(data, augment=config, speeds=SPEEDS)
    front_end = FrontEnd(FrontEndConfig())
    loader = iter(make_loader(train, epoch_batches(train, BATCH, epoch), epoch, 0))
    next(loader)  # tables, filters and, of shards, the first pools
    start = processor_seconds()
    for step in range(batches):
        inputs, _ = next(loader)
        spec_augment(front_end(inputs), step)
    return (processor_seconds() - start) / (batches * BATCH)


def peer(options, root, kind, form, batches, epoch):
    """WeSpeaker's processor seconds for a sample, of the same files, or what it says went wrong."""
    command = [options.wespeaker_python, Path(__file__).with_name("loader_peer.py"), "--wespeaker", options.wespeaker, "--root", root,
               "--kind", kind, "--form", form, "--batches", batches, "--batch-size", BATCH, "--seed", epoch]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no word"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("speech", "noise", "rooms", "wespeaker"):
        arguments.add_argument(f"--{name}")
    arguments.add_argument("--wespeaker-python", default=sys.executable)
    arguments.add_argument("--work", help="folder that keeps the files of all forms for another run; default: none is kept")
    arguments.add_argument("--utts", type=int, default=300, help="at most so many utterances")
    arguments.add_argument("--batches", type=int, default=10)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(options.work or folder)
        sizes = root / "sizes.json"
        if not sizes.exists():
            root.mkdir(exist_ok=True)
            made = write_forms(root, pieces(options.speech, options.utts))
            for name in ("noise", "rooms"):
                write_clips(root, name, getattr(options, name))
            sizes.write_text(json.dumps(made))
        measure(options, root, json.loads(sizes.read_text()))


def measure(options, root, sizes):
    print(f"CPU {describe()}, one thread, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}; utterances of {SECONDS:g} s, "
          f"{options.batches} x {BATCH} samples", flush=True)
    found, others = {}, {}
    for epoch in range(options.rounds):
        for form in sizes:
            batches = max(1, options.batches // 5) if form == "m4a" else options.batches
            found.setdefault(form, []).append(ours(root / f"data_{form}", root, batches, epoch))
            kind = "shard" if form in ("shards flac", "shards vorbis") else "raw" if form in ("wav", "flac") else None
            if options.wespeaker and kind:
                others.setdefault(form, []).append(peer(options, root, kind, form, batches, epoch))
            print(f"round {epoch + 1}, {form}: {1000 * found[form][-1]:.2f} ms a sample; WeSpeaker: {others.get(form, ['-'])[-1]}",
                  file=sys.stderr, flush=True)
    print("\n| form | bytes a second of speech | samples/s a processor | WeSpeaker | times |\n|---|--:|--:|--:|--:|")
    for form, seconds in found.items():
        theirs = [value for value in others.get(form, []) if isinstance(value, float)]
        row = [f"{1 / min(theirs):.0f}", f"{min(theirs) / min(seconds):.1f}"] if theirs else [str(others.get(form, ["-"])[0]), "-"]
        print(f"| {form} | {32000 * sizes[form] / sizes['wav']:.0f} | {1 / min(seconds):.0f} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
