"""A Kaldi data directory: its files, the key of each, its speakers, and the channels of its recordings.

Channels stand in reco2file_and_channel, lines `recording file channel`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from svq.atomic import atomic_write
from svq.data.rxfilename import Rx, parse, require_allowed
from svq.data.table import BLOCK_LINES, Table, write_table
from svq.errors import UserError, located

_BY_UTTERANCE = ("utt2spk", "segments", "text", "feats.scp", "vad.scp")
_BY_RECORDING = ("reco2dur", "reco2file_and_channel")
_BY_SPEAKER = ("cmvn.scp",)
MAY_LACK_RECORDINGS = ("reco2file_and_channel",)  # a recording of one channel needs no line
MAY_BE_BLANK = ("text",)  # an utterance may have an empty transcript; nothing else may lack its value


def keyed_by(name: str, has_segments: bool = False) -> str | None:
    """Gives the kind of key of a data directory's table, "utt", "reco" or "spk"; None for other files (trials, ...)."""
    if name == "wav.scp":
        return "reco" if has_segments else "utt"
    if name in _BY_UTTERANCE or (name.startswith("utt2") and "." not in name):
        return "utt"
    if name in _BY_RECORDING:
        return "reco"
    if name in _BY_SPEAKER or (name.startswith("spk2") and "." not in name):
        return "spk"
    return None


def is_trials(name: str) -> bool:
    """Says whether `name` is that of a trial list: `trials` or `trials_<name>`."""
    return name == "trials" or (name.startswith("trials_") and "." not in name)


class DataDir:
    """The tables of a data directory, each read when first asked for.

    UserError if the folder or a table that is asked for is missing or malformed.
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise UserError(f"{path}: no such data directory")
        self._tables: dict[str, Table] = {}

    def has(self, name: str) -> bool:
        """Says whether the directory has a file of that name."""
        return (self.path / name).is_file()

    def table(self, name: str) -> Table:
        """Gives the table in file `name`, which is read once. UserError where it is missing or malformed."""
        if name not in self._tables:
            self._tables[name] = Table.read(self.path / name, need_value=name not in MAY_BE_BLANK)
        return self._tables[name]

    def forget(self, name: str) -> None:
        """Lets go of a table, which is read again where it is asked for: those of millions of lines take gigabytes."""
        self._tables.pop(name, None)

    def names(self) -> list[str]:
        """Lists the files of the directory, sorted, without hidden ones and folders (.backup, split4, ...)."""
        return sorted(p.name for p in self.path.iterdir() if p.is_file() and not p.name.startswith("."))

    def table_names(self) -> list[str]:
        """Lists the files of the directory that are tables keyed by utterance, recording or speaker, sorted."""
        return [n for n in self.names() if keyed_by(n) is not None]

    @property
    def has_segments(self) -> bool:
        """Whether utterances are parts of recordings (`segments`)."""
        return self.has("segments")

    @functools.cached_property
    def recordings(self) -> Table:
        """wav.scp by its own keys, utterances or recordings: str, or `Rx` where reco2file_and_channel names a channel.

        UserError where a line runs a command and commands are not allowed, as in `feats`.
        """
        wav = self.table("wav.scp")
        require_allowed(wav)
        return Recordings(wav, self.table("reco2file_and_channel")) if self.has("reco2file_and_channel") else wav

    @property
    def wav(self) -> Table:
        """`recordings` by utterance; UserError for a directory whose utterances are segments of recordings."""
        if self.has_segments:
            raise UserError(f"{self.path}: has a segments file; cut it first: utils/copy_wav.sh {self.path} NEW ARK_DIR")
        return self.recordings

    @property
    def utt2spk(self) -> Table:
        """The speaker of each utterance. UserError where the table is missing or malformed."""
        return self.table("utt2spk")

    @property
    def utt2dur(self) -> Table:
        """The seconds of each utterance, as text. UserError where the table is missing or malformed."""
        return self.table("utt2dur")

    @property
    def feats(self) -> Table:
        """The features of each utterance. UserError where feats.scp is missing, malformed, or runs commands unasked."""
        table = self.table("feats.scp")
        require_allowed(table)
        return table

    @functools.cached_property
    def _speakers(self) -> tuple[list[str], np.ndarray]:
        names, index = index_speakers(self.utt2spk.value_array())
        return [n.decode() for n in names], index

    @property
    def speakers(self) -> list[str]:
        """Speaker ids, sorted under LC_ALL=C."""
        return self._speakers[0]

    @property
    def speaker_index(self) -> np.ndarray:
        """The position in `speakers` of the speaker of each line of utt2spk: int32 (N,)."""
        return self._speakers[1]


def index_speakers(of_utterance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indexes the speakers of an `S` array (N,) of ids: (distinct ids, sorted; the index of each item, (N,) int32).

    Only one id per run of equal ids is sorted: utterances of a speaker mostly stand together.
    """
    if len(of_utterance) == 0:
        return of_utterance, np.zeros(0, np.int32)
    heads = np.flatnonzero(np.concatenate([[True], of_utterance[1:] != of_utterance[:-1]]))
    names, of_run = np.unique(of_utterance[heads], return_inverse=True)
    runs = np.diff(np.append(heads, len(of_utterance)))
    return names, np.repeat(of_run.astype(np.int32), runs)


def spk2utt_blocks(utt2spk: Table, indices: np.ndarray | None = None) -> Iterator[bytes]:
    """Yields the lines of the spk2utt that belongs to utt2spk (or to its lines at `indices`), many to a piece."""
    keys, of_utterance = utt2spk.key_array, utt2spk.value_array()
    if indices is not None:
        keys, of_utterance = keys[indices], of_utterance[indices]
    names, index = index_speakers(of_utterance)
    order = None if np.all(index[1:] >= index[:-1]) else np.argsort(index, kind="stable")
    if order is not None:
        keys, index = keys[order], index[order]
    bounds = np.searchsorted(index, np.arange(len(names) + 1))
    out, held = [], 0
    for s, name in enumerate(names.tolist()):
        out.append(name + b" " + b" ".join(keys[bounds[s] : bounds[s + 1]].tolist()) + b"\n")
        held += bounds[s + 1] - bounds[s]
        if held >= BLOCK_LINES:
            yield b"".join(out)
            out, held = [], 0
    yield b"".join(out)


def write_spk2utt(path, utt2spk: Table, indices: np.ndarray | None = None, atomic: bool = True) -> None:
    """Writes spk2utt from utt2spk (or its lines at `indices`). atomic: False where a whole folder is renamed later."""
    with atomic_write(path, "wb") if atomic else open(path, "wb") as file:
        for block in spk2utt_blocks(utt2spk, indices):
            file.write(block)


def create(path, wav: Mapping, utt2spk: Mapping, **tables: Mapping) -> Path:
    """Writes a data directory from mappings: wav.scp, utt2spk, spk2utt and e.g. utt2dur=..., spk2gender=..., text=...

    Every table is sorted under LC_ALL=C. UserError if the utterances of `wav` and `utt2spk` differ. For corpora
    of up to a few hundred thousand utterances; larger ones are better written as sorted text at once.
    Gives the path of the directory.
    """
    path = Path(path)
    differ = sorted(set(wav) ^ set(utt2spk))
    if differ:
        raise UserError(f"{path}: `{differ[0]}` is not in both wav.scp and utt2spk ({len(differ)} such)")
    write_table(path / "wav.scp", wav.items())
    write_table(path / "utt2spk", utt2spk.items())
    for name, table in tables.items():
        write_table(path / name, table.items())
    write_spk2utt(path / "spk2utt", Table.read(path / "utt2spk"))
    return path


def channel_index(text: str) -> int:
    """Turns Kaldi's name of a channel, A, B, ... or 1, 2, ..., into its number from 0; ValueError for anything else."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text) - 1
    if len(text) == 1 and "A" <= text <= "Z":
        return ord(text) - ord("A")
    raise ValueError(f"`{text}` is no channel: A, B, ... or 1, 2, ...")


def wrong_lines(table: Table) -> list[tuple[int, str]]:
    """Finds the malformed lines of a reco2file_and_channel: (line from 0, what is wrong with it), ascending."""
    (_, channels), ok = table.columns(2)
    wrong = {}
    for text in np.unique(channels[ok]).tolist():
        try:
            channel_index(text.decode())
        except ValueError as error:
            wrong |= dict.fromkeys(np.flatnonzero(ok & (channels == text)).tolist(), str(error))
    wrong |= dict.fromkeys(np.flatnonzero(~ok).tolist(), "is not `recording file channel`")
    return sorted(wrong.items())


class Recordings(Table):
    """A wav.scp whose values are `Rx` with a channel where `named`, a reco2file_and_channel, has one; else str.

    A recording of one channel needs no line there. If it has one, the channel in it does not matter: whoever made the
    wav.scp has taken the channel already, as Kaldi's recipes do with sph2pipe.
    """

    def __init__(self, wav: Table, named: Table):
        self.__dict__.update(wav.__dict__)
        self.named = named

    def value(self, i: int) -> str | Rx:
        """Gives the recording of row `i`, with the channel that is named for it."""
        return self._of_channel(self.key(i), super().value(i))

    def items(self, indices: np.ndarray | None = None) -> Iterator[tuple[str, str | Rx]]:
        """Yields (key, recording) of these rows, or of all, each with the channel that is named for it."""
        for key, value in super().items(indices):
            yield key, self._of_channel(key, value)

    def _of_channel(self, key: str, value: str) -> str | Rx:
        if key not in self.named:
            return value
        line = self.named.index(key)
        try:
            _, channel = self.named.value(line).split()
            return parse(value).of_channel(channel_index(channel))
        except ValueError as error:
            why = str(error) if "channel:" in str(error) else "is not `recording file channel`"
            raise UserError(located(self.named.path, line + 1, why)) from None
