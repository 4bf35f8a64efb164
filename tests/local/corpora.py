"""Miniature corpora in their official layouts, filled with tiny generated recordings or with given ones.

As a program it makes VoxCeleb out of a data directory, MUSAN and RIRS_NOISES, to run the whole recipe on:
    python tests/local/corpora.py TREE DATA_DIR
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from svq.data import audio  # noqa: E402
from svq.data.datadir import DataDir  # noqa: E402
from tests.builders import voice  # noqa: E402


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> None:
    """16-bit WAV whatever the suffix (a stand-in for m4a is a WAV in content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")


def noise(seconds: float, seed: int, channels: int = 1) -> np.ndarray:
    shape = (round(16000 * seconds), channels) if channels > 1 else round(16000 * seconds)
    return 0.1 * np.random.default_rng(seed).standard_normal(shape)


def speechocean762(root, train: int = 10, test: int = 6, utts: int = 3, suffix: str = ".WAV") -> Path:
    """Speakers 0001, 0002, ... (train first), genders f, m alternating, every third a child."""
    root = Path(root)
    rng = np.random.default_rng(0)
    for part, speakers in (("train", range(1, train + 1)), ("test", range(train + 1, train + test + 1))):
        (root / part).mkdir(parents=True)
        lines = {name: [] for name in ("wav.scp", "utt2spk", "spk2gender", "spk2age")}
        for s in speakers:
            lines["spk2gender"].append(f"{s:04d}\t{'fm'[s % 2]}\n")
            lines["spk2age"].append(f"{s:04d}\t{8 if s % 3 == 0 else 25}\n")
            for u in range(utts):
                utt = f"0{s:04d}{u:04d}"
                path = f"WAVE/SPEAKER{s:04d}/{utt}{suffix}"
                write_wav(root / path, voice(s, 0.3, rng))
                lines["wav.scp"].append(f"{utt}\t{path}\n")
                lines["utt2spk"].append(f"{utt}\t{s:04d}\n")
        lines["spk2age"].reverse()  # the official file is not sorted either
        for name, text in lines.items():
            (root / part / name).write_text("".join(text))
    return root


def librispeech(root, seconds=(9.0, 7.0, 4.0, 1.5), official: bool = True) -> Path:
    """One utterance for each of the speakers 103, 104, ...; `seconds` long; FLAC."""
    root = Path(root)
    rng = np.random.default_rng(1)
    for i, length in enumerate(seconds):
        speaker = str(103 + i)
        path = root / "train-clean-100" / speaker / "1240" / f"{speaker}-1240-0000.flac"
        path.parent.mkdir(parents=True)
        soundfile.write(path, voice(i, length, rng), 16000)
    if official:
        text = [f"{103 + i:<5}| {'FM'[i % 2]} | train-clean-100 | 25.03 | Some | Name\n" for i in range(len(seconds))]
        (root / "SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET           |MINUTES| NAME\n" + "".join(text))
    else:
        text = [f"{103 + i}-1240-0000\t{103 + i}\t{'fm'[i % 2]}\n" for i in range(len(seconds))]
        (root / "speakers.tsv").write_text("utterance\tspeaker\tgender\n" + "".join(text))
    return root


def musan(root) -> Path:
    root = Path(root) / "musan"
    names = ("noise/free-sound/noise-free-sound-0000", "noise/sound-bible/noise-sound-bible-0001",
             "music/fma/music-fma-0000", "speech/librivox/speech-librivox-0000")
    for i, name in enumerate(names):
        write_wav(root / f"{name}.wav", noise(0.5, i))
    (root / "README").write_text("The parts are speech, music and noise.\n")
    (root / "noise" / "free-sound" / "LICENSE").write_text("Public domain.\n")
    return root


def rirs_noises(root) -> Path:
    root = Path(root) / "RIRS_NOISES"
    for size in ("smallroom", "mediumroom", "largeroom"):
        inner = [f"simulated_rirs/{size}/Room001/Room001-{i:05d}.wav" for i in (1, 2)]
        for i, name in enumerate(inner):
            write_wav(root / name, noise(0.1, i))
        lines = [f"--rir-id {size}-Room001-{i:05d} --room-id {size}-Room001 RIRS_NOISES/{n}\n" for i, n in enumerate(inner)]
        (root / f"simulated_rirs/{size}/rir_list").write_text("".join(lines))
    real = root / "real_rirs_isotropic_noises"
    write_wav(real / "air_type1.wav", noise(0.1, 5, channels=2))
    write_wav(real / "RVB2014_noise.wav", noise(0.1, 6))  # a noise among the responses: not in rir_list
    (real / "rir_list").write_text("--rir-id 1 --room-id a RIRS_NOISES/real_rirs_isotropic_noises/air_type1.wav\n")
    write_wav(root / "pointsource_noises" / "noise-free-sound-0000.wav", noise(0.1, 7))
    return root


VOX1_TEST, VOX1_DEV, VOX2_TEST = 3, 3, 4  # speakers


def voxceleb(root, vox2_dev: int = 8, videos: int = 3, clips: int = 2, seconds: float = 0.3, source=None) -> Path:
    """root/{vox1,vox2,trials} in the official layouts; root/counts and root/options with what belongs to it.

    The recordings are generated, or those of the data directory `source`, whose first speakers are taken
    for the trials and the last for training; each speaker then has as many clips as `source` holds.
    """
    root = Path(root)
    voices = _voices_of(source) if source else _generated(VOX1_TEST + VOX1_DEV + VOX2_TEST + vox2_dev, videos * clips, seconds)
    names = [*(f"id{10270 + i}" for i in range(VOX1_TEST)), *(f"id{10001 + i}" for i in range(VOX1_DEV)),
             *(f"id{17 + i:05d}" for i in range(VOX2_TEST))]
    counts = dict.fromkeys(("vox2_dev.speakers", "vox2_dev.utterances", "vox2_test.speakers", "vox2_test.utterances"), 0)
    vox1: dict[str, list[str]] = {}
    for i, recordings in enumerate(voices):
        speaker = names[i] if i < len(names) else f"id{5000 + i:05d}"
        part = "test" if i < VOX1_TEST or VOX1_TEST + VOX1_DEV <= i < len(names) else "dev"
        corpus = "vox1" if i < VOX1_TEST + VOX1_DEV else "vox2"
        if corpus == "vox2":
            counts[f"vox2_{part}.speakers"] += 1
        for n, samples in enumerate(recordings):
            # Video names are 11 characters of YouTube's alphabet; `-` and `_` occur anywhere.
            clip = f"{'-_aZ'[n // clips % 4]}xW{n // clips:02d}-c_{i:03d}/{n % clips + 1:05d}"
            if corpus == "vox1":
                write_wav(root / "vox1" / part / "wav" / speaker / f"{clip}.wav", samples)
                vox1.setdefault(speaker, []).append(f"{speaker}/{clip}.wav")
            else:
                write_wav(root / "vox2" / part / "aac" / speaker / f"{clip}.m4a", samples)
                counts[f"vox2_{part}.utterances"] += 1
    counts.update(_trial_lists(root / "trials", vox1))
    (root / "counts").write_text("".join(f"{name} {count}\n" for name, count in counts.items()))
    _metas(root, vox1, names[VOX1_TEST + VOX1_DEV :] + [f"id{5000 + i:05d}" for i in range(len(names), len(voices))])
    return root


def _generated(speakers: int, utts: int, seconds: float):
    rng = np.random.default_rng(2)
    return [[voice(s, seconds, rng) for _ in range(utts)] for s in range(speakers)]


def _voices_of(data_dir):
    data = DataDir(data_dir)
    voices = [[] for _ in data.speakers]
    for (utt, value), speaker in zip(data.wav.items(), data.speaker_index):
        voices[speaker].append(audio.load(value))
    return voices


def _trial_lists(folder: Path, vox1: dict[str, list[str]]) -> dict[str, int]:
    """Writes the six lists; the originals hold a few more trials. Returns the number of trials of each."""
    folder.mkdir(parents=True)
    tested = [name for speaker in list(vox1)[:VOX1_TEST] for name in vox1[speaker]]
    everyone = [name for names in vox1.values() for name in names]
    lists = {"O": ("veri_test", tested), "E": ("list_test_all", everyone), "H": ("list_test_hard", everyone[1::2])}
    counts = {}
    for letter, (name, used) in lists.items():
        lines = [f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}\n" for a, b in itertools.combinations(used, 2)]
        (folder / f"{name}.txt").write_text("".join(lines))
        (folder / f"{name}2.txt").write_text("".join(lines[2:]))
        counts[f"trials_{letter}_original"], counts[f"trials_{letter}"] = len(lines), len(lines) - 2
    return counts


def _metas(root: Path, vox1, vox2) -> None:
    rows = [f"{s}\tName\t{'fm'[i % 2]}\tUK\tdev\n" for i, s in enumerate(vox1)]
    (root / "vox1_meta.csv").write_text("VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n" + "".join(rows))
    rows = [f"{s} ,n000001 ,{'fm'[i % 2]} ,dev\n" for i, s in enumerate(vox2)]
    (root / "vox2_meta.csv").write_text("VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set\n" + "".join(rows))


if __name__ == "__main__":
    voxceleb(sys.argv[1], source=sys.argv[2])
    musan(sys.argv[1])
    rirs_noises(sys.argv[1])
