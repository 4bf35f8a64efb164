"""Miniatures, in their official layouts, of the corpora that systems are tested on out of their domain."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile

from svq.errors import UserError
from tests.builders import voice

GENRES = ("singing", "live_broadcast", "speech", "vlog")


def write_voice(path: Path, speaker: int, rng, seconds: float = 0.3, rate: int = 16000) -> None:
    """A recording in the format that the suffix says (a stand-in for mp3 is a WAV in content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    format = {".flac": "FLAC", ".ogg": "OGG"}.get(path.suffix, "WAV")
    with open(path, "wb") as file:
        soundfile.write(file, voice(speaker, seconds, rng), rate, format=format)


def call(module, *args) -> str:
    """A preparation script's main() with these arguments, in this process; what it printed."""
    said = io.StringIO()
    with mock.patch.object(sys, "argv", [module.__name__, *map(str, args)]), contextlib.redirect_stdout(said):
        module.main()
    return said.getvalue()


def refused(module, *args) -> str:
    """The one line that such a call is refused with."""
    with pytest.raises(UserError) as caught:
        call(module, *args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cnceleb(root, enrolled: int = 3, dev: int = 4, second: int = 2, suffix: str = ".flac") -> Path:
    """root/CN-Celeb_flac (one eval speaker more than `enrolled`) and root/CN-Celeb2_flac; the lists say .wav."""
    root, rng = Path(root), np.random.default_rng(5)
    first = root / "CN-Celeb_flac"
    names = [f"{genre}-0{session}-00{n}" for genre in GENRES[:2] for session in (1, 2) for n in (1, 2)]
    speakers = [f"id{800 + i:05d}" for i in range(enrolled + 1)]
    models, tests = [], []
    for i, speaker in enumerate(speakers):
        for name in names[:4]:
            write_voice(first / "data" / speaker / f"{name}{suffix}", i, rng)
        for name in names[2:6]:
            write_voice(first / "eval" / "test" / f"{speaker}-{name}{suffix}", i, rng)
            tests.append(f"{speaker}-{name}")
        if i < enrolled:
            # The second model's recordings are of one genre, the others' of two.
            own = names[:2] if i == 1 else [names[0], names[5]]
            for name in own:
                write_voice(first / "data" / speaker / f"{name}{suffix}", i, rng)
            models.append((speaker, own))
            write_voice(first / "eval" / "enroll" / f"{speaker}-enroll{suffix}", i, rng, 0.6)
    lists = first / "eval" / "lists"
    lists.mkdir(parents=True)
    (lists / "enroll.map").write_text("".join(
        f"{s}-enroll {' '.join(f'{s}/{name}.wav' for name in own)}\n" for s, own in models))
    (lists / "enroll.lst").write_text("".join(f"{s}-enroll enroll/{s}-enroll.wav\n" for s, _ in models))
    (lists / "test.lst").write_text("".join(f"test/{t}.wav\n" for t in tests))
    (lists / "trials.lst").write_text("".join(
        f"{s}-enroll test/{t}.wav {int(t.startswith(s))}\n" for s, _ in models for t in tests))
    _training(first, "id000", dev, names, rng, suffix)
    (first / "dev").mkdir()
    (first / "dev" / "dev.lst").write_text("".join(f"id000{i:02d}\n" for i in range(dev)))
    (root / "CN-Celeb2_flac" / "data").mkdir(parents=True)
    _training(root / "CN-Celeb2_flac", "id100", second, names, rng, suffix)
    (root / "CN-Celeb2_flac" / "spk.lst").write_text("".join(f"id100{i:02d}\n" for i in range(second)))
    (root / "counts").write_text(
        f"cnceleb1_eval.models {enrolled}\ncnceleb1_eval.tests {len(tests)}\n"
        f"cnceleb1_eval.trials {enrolled * len(tests)}\ncnceleb1_dev.speakers {dev}\ncnceleb2.speakers {second}\n")
    return root


def _training(root: Path, prefix: str, count: int, names, rng, suffix: str) -> None:
    for i in range(count):
        for name in names:
            write_voice(root / "data" / f"{prefix}{i:02d}" / f"{name}{suffix}", 10 + i, rng)


COMPARISONS = (("de_101", "de_102", 1), ("de_102", "de_103", 1), ("de_101", "de_201", 0), ("de_103", "de_201", 0),
               ("de_201", "de_202", 1), ("zh-CN_301", "zh-CN_302", 1), ("zh-CN_301", "de_202", 0))


def commonbench(root, releases: str = "") -> Path:
    """root/[releases/]<language>/clips with tables, and root/comparisons.csv; de_1xx are one speaker, and so on."""
    root, rng = Path(root), np.random.default_rng(6)
    clips = sorted({clip for row in COMPARISONS for clip in row[:2]})
    for language in ("de", "zh-CN"):
        folder = root / releases / language
        own = [clip for clip in clips if clip.startswith(f"{language}_")]
        for clip in own:
            write_voice(folder / "clips" / f"common_voice_{clip}.mp3", int(clip[-3]), rng)
        genders = ("male_masculine", "female", "")  # of clips, as people told them then
        lines = [f"{clip[-3] * 128}\tcommon_voice_{clip}.mp3\tSagt er: \"so\t2\t{genders[i % 3]}\n"
                 for i, clip in enumerate(own)]
        header = "client_id\tpath\tsentence\tup_votes\tgender\n"
        (folder / "validated.tsv").write_text(header + "".join(lines[::2]))
        (folder / "other.tsv").write_text(header + "".join(lines[1::2]))
        (folder / "clip_durations.tsv").write_text("clip\tduration[ms]\n")
    (root / "comparisons.csv").write_text("file_1,file_2,label\n" + "".join(
        f"common_voice_{a}.mp3,common_voice_{b}.mp3,{label}\n" for a, b, label in COMPARISONS))
    return root


def channel(i: int) -> str:
    return f"UC{'-_aZ'[i % 4]}{i:021d}"


def voxtube(root, speakers: int = 6, videos: int = 3, segments: int = 2) -> Path:
    """root/audio/<channel>/<video>/segment_<n>.wav and root/resources; the last speaker is not in the table."""
    root, rng = Path(root), np.random.default_rng(7)
    for s in range(speakers):
        for v in range(videos if s else 1):  # the first speaker has one video
            for n in range(segments):
                path = root / "audio" / channel(s) / f"{'-_aZ'[v % 4]}xW{v:02d}-c_{s:03d}" / f"segment_{n}.wav"
                write_voice(path, s, rng)
    (root / "resources" / "meta").mkdir(parents=True)
    (root / "resources" / "meta" / f"{channel(1)}.json").write_text(json.dumps({"video": [[0.0, 4.0]]}))
    rows = [f"{channel(s)},{'female' if s % 2 else 'male'},{('english', 'haitian creole')[s // 3 % 2]}\n"
            for s in range(speakers - 1)]
    (root / "resources" / "language_gender_meta.csv").write_text("speaker_id,gender,language\n" + "".join(rows))
    return root


def malayalam(root, published: bool = False, counts=(8, 5, 6, 4, 7)) -> Path:
    """Speakers of so many utterances, every third without a gender; columns and names as published, or short ones."""
    root, rng = Path(root), np.random.default_rng(8)
    header = ("speechid speechpath speaker_id review_score transcript category speaker_gender speaker_age" if published
              else "utterance speaker gender path seconds").split()
    lines = ["\t".join(header) + "\n"]
    for s, count in enumerate(counts):
        speaker = f"oeaNxrE0ux{s}" if published else f"ml{s:03d}"
        gender = ("Male", "Female", "default")[s % 3]
        for n in range(count):
            utt = f"0I2iIh{s}{n}" if published else f"{speaker}-{n:04x}"
            if published:
                write_voice(root / "audio" / f"63a2-{s}{n}.wav", s, rng, rate=48000)
                fields = [utt, f"audio/63a2-{s}{n}.webm", speaker, "6", "ഐകമത്യം മഹാബലം.", "proverb", gender, "30-40"]
            else:
                write_voice(root / "audio" / speaker / f"{utt}.ogg", s, rng)
                fields = [utt, speaker, gender, f"audio/{speaker}/{utt}.ogg", "0.30"]
            lines.append("\t".join(fields) + "\n")
    (root / "metadata.tsv").write_text("".join(lines))
    return root
