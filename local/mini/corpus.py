"""Makes the corpus folder, speakers, noises and rooms, in parallel; it is there whole or not at all.

    corpus.json       the options it was made with
    speakers.tsv      speaker, set, gender and the main numbers of the voice
    utterances.tsv    utterance, speaker, seconds, circumstances and text
    wav/SPEAKER/SPEAKER-NN.wav, noise/KIND-NNN.wav, rir/rir-NNN.wav     16 kHz, 16 bits, mono
"""

import json
import os
import shutil
import zlib
from dataclasses import asdict, dataclass

import numpy as np
import soundfile

from svq.atomic import write_json
from svq.errors import UserError
from svq.progress import progress

from . import acoustics
from .acoustics import RATE
from .espeak import Synthesizer
from .processes import run_each
from .session import draw_session, record, spoken
from .voice import Voice, draw_voice

FORMAT = 3  # raise it with every change that changes the bytes
MARK = "corpus.json"
SETS = ("train", "dev", "test")
NOISE_SECONDS = 5.0
BABBLE_SECONDS = 20.0
BABBLE_VOICES = 4
UTTERANCE_COLUMNS = "utterance speaker seconds noise snr rt60 low high level text".split()
SPEAKER_COLUMNS = "speaker set gender accent pitch rate warp".split()


@dataclass(frozen=True)
class Options:
    """The options that the bytes of a corpus depend on."""

    train_speakers: int = 84
    dev_speakers: int = 16
    test_speakers: int = 40
    utts: int = 12
    noises: int = 40
    rirs: int = 40
    session_strength: float = 1.0
    seed: int = 0

    def speakers(self, name: str) -> list[str]:
        """Lists the speakers of one of SETS: ids that no other set has."""
        return [f"{name}{i:03d}" for i in range(1, getattr(self, f"{name}_speakers") + 1)]


def gender(speaker: str) -> str:
    """Gives 'f' for odd numbers, 'm' for even ones: balanced in every set of an even size."""
    return "mf"[int(speaker[-3:]) % 2]


def make(folder: str, options: Options, nj: int) -> bool:
    """Makes the corpus in `folder` unless it is there already with these options.

    Returns whether anything was made. The corpus grows under a temporary name beside `folder`; a killed
    run leaves that folder, and the next run removes it. UserError if `folder` holds anything but a mini corpus.
    """
    folder = os.path.normpath(folder)
    if is_made(folder, options):
        return False
    if os.path.lexists(folder) and not os.path.exists(os.path.join(folder, MARK)):
        raise UserError(f"{folder} is there and is not a mini corpus: move it away")
    partial, old = folder + ".partial", folder + ".old"
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    os.makedirs(os.path.join(partial, "work"))
    _fill(partial, options, nj)
    shutil.rmtree(os.path.join(partial, "work"))
    write_json(os.path.join(partial, MARK), _description(options))
    if os.path.exists(folder):
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
    return True


def is_made(folder: str, options: Options) -> bool:
    """Says whether `folder` holds the corpus of these options."""
    try:
        with open(os.path.join(folder, MARK), encoding="utf-8") as file:
            return json.load(file) == _description(options)
    except (OSError, ValueError):
        return False


def read_table(path: str) -> list[dict[str, str]]:
    """Reads the rows of speakers.tsv or utterances.tsv; UserError when it is missing."""
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: make the corpus first (--part corpus)")
    with open(path, encoding="utf-8") as file:
        header, *rows = [line.rstrip("\n").split("\t") for line in file]
    return [dict(zip(header, row)) for row in rows]


def _description(options: Options) -> dict:
    return {"corpus": "svq mini: synthetic speech", "format": FORMAT, **asdict(options)}


def _fill(partial: str, options: Options, nj: int) -> None:
    """Makes all audio and both tables. The babble comes first, because the recordings are mixed with pieces of it."""
    murmurs = [(f"babble-{name}", partial, options) for name in (*SETS, "noise")]
    for _ in run_each(_make_babble, murmurs, nj):
        pass
    speakers = [s for name in SETS for s in options.speakers(name)]
    tasks = [(speaker, partial, options) for speaker in speakers]
    for _ in progress(run_each(_make_speaker, tasks, nj), len(tasks), "speakers"):
        pass
    others = [("noise", partial, options), ("rir", partial, options)]
    for _ in run_each(_make_clips, others, nj):
        pass
    parts = [_read_json(partial, speaker) for speaker in speakers]
    _write_table(partial, "speakers.tsv", SPEAKER_COLUMNS, [p["speaker"] for p in parts])
    rows = [row for part in parts for row in part["utterances"]]
    _write_table(partial, "utterances.tsv", UTTERANCE_COLUMNS, rows)


def _generator(options: Options, purpose: str) -> np.random.Generator:
    """Gives a random stream that depends only on the seed and on its purpose, not on any other stream."""
    return np.random.default_rng([options.seed, zlib.crc32(purpose.encode())])


def _make_speaker(speaker: str, partial: str, options: Options) -> None:
    """Makes the recordings of one speaker, and work/SPEAKER.json with the rows of both tables."""
    name = speaker[:-3]
    voice = draw_voice(_generator(options, f"{speaker} voice"), gender(speaker))
    synthesizer, used, rows = Synthesizer(), set(), []
    babble = np.load(os.path.join(partial, "work", f"babble-{name}.npy"))
    os.makedirs(os.path.join(partial, "wav", speaker))
    for i in range(1, options.utts + 1):
        utterance = f"{speaker}-{i:02d}"
        rng = _generator(options, utterance)
        session = draw_session(rng, options.session_strength)
        wave, words = record(rng, synthesizer, voice, session, babble, used)
        _write_wav(os.path.join(partial, "wav", speaker, f"{utterance}.wav"), wave)
        rows.append(
            {"utterance": utterance, "speaker": speaker, "seconds": f"{len(wave) / RATE:.4f}",
             "noise": session.noise, "snr": f"{session.snr:.1f}", "rt60": f"{session.rt60:.2f}",
             "low": f"{session.low:.0f}", "high": f"{session.high:.0f}",
             "level": f"{session.level:.1f}", "text": words}
        )
    write_json(
        os.path.join(partial, "work", f"{speaker}.json"),
        {"speaker": _speaker_row(speaker, name, voice), "utterances": rows},
    )


def _speaker_row(speaker: str, name: str, voice: Voice) -> dict[str, str]:
    return {"speaker": speaker, "set": name, "gender": voice.gender, "accent": voice.accent,
            "pitch": f"{voice.pitch:.1f}", "rate": f"{voice.rate:.0f}", "warp": f"{voice.warp:.3f}"}


def _make_babble(name: str, partial: str, options: Options) -> None:
    """Makes a murmur of several voices that no speaker of the corpus has: work/NAME.npy."""
    samples = int(BABBLE_SECONDS * RATE)
    murmur, synthesizer = np.zeros(samples), Synthesizer()
    for i in range(BABBLE_VOICES):
        rng = _generator(options, f"{name} voice {i}")
        voice, used, said = draw_voice(rng, "mf"[i % 2]), set(), []
        while sum(map(len, said)) < samples:
            wave, _ = spoken(rng, synthesizer, voice, draw_session(rng, 1.0), used)
            said.append(wave / np.sqrt(np.mean(wave**2)))
        murmur += np.concatenate(said)[:samples]
    np.save(os.path.join(partial, "work", f"{name}.npy"), murmur)


def _make_clips(kind: str, partial: str, options: Options) -> None:
    """Makes the noises, or the room responses, for online augmentation."""
    os.makedirs(os.path.join(partial, kind))
    babble = np.load(os.path.join(partial, "work", "babble-noise.npy"))
    for i in range(1, (options.noises if kind == "noise" else options.rirs) + 1):
        rng = _generator(options, f"{kind} {i}")
        if kind == "noise":
            name = acoustics.NOISES[i % len(acoustics.NOISES)]
            wave = acoustics.noise(rng, name, int(NOISE_SECONDS * RATE), babble)
            wave = acoustics.to_pcm16(wave, -25.0)
        else:
            name = "rir"
            rt60 = float(np.exp(rng.uniform(np.log(0.15), np.log(0.8))))
            wave = acoustics.room_response(rng, rt60, rng.uniform(-3, 12))
            wave = np.round(wave * 0.9 / np.max(np.abs(wave)) * 32767).astype(np.int16)
        _write_wav(os.path.join(partial, kind, f"{name}-{i:03d}.wav"), wave)


def _write_wav(path: str, wave: np.ndarray) -> None:
    soundfile.write(path, wave, RATE, subtype="PCM_16")


def _read_json(partial: str, speaker: str) -> dict:
    with open(os.path.join(partial, "work", f"{speaker}.json"), encoding="utf-8") as file:
        return json.load(file)


def _write_table(partial: str, name: str, columns: list[str], rows: list[dict]) -> None:
    with open(os.path.join(partial, name), "w", encoding="utf-8") as file:
        for row in [dict(zip(columns, columns)), *rows]:
            file.write("\t".join(row[column] for column in columns) + "\n")
