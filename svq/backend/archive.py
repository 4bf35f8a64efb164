"""Reads a Kaldi archive of vectors from its beginning to its end, without an scp that says where each one lies."""

from __future__ import annotations

import mmap
import os

import numpy as np

from svq import numbers
from svq.data.words import MAX_KEY
from svq.errors import UserError
from svq.files import open_file

_KINDS = {b"\0BFV \4": np.dtype("<f4"), b"\0BDV \4": np.dtype("<f8")}
_HEADER = 10  # "\0B" "FV " "\4" int32


def read_archive(path) -> tuple[list[str], np.ndarray]:
    """Reads all vectors of a Kaldi archive, binary or text: ids (N,), (N, D) float32 or float64.

    UserError, naming the file and the id, for an archive that is missing, empty, cut short, holds anything but vectors
    of one size, or the same id twice.
    """
    path = os.fspath(path)
    try:
        with open_file(path) as file:
            if not os.fstat(file.fileno()).st_size:
                raise UserError(f"{path}: empty, where vectors should be")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                entries = list(_entries(data, path))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: {error.strerror}") from None
    ids, vectors = zip(*entries)
    for key, vector in entries:
        if len(vector) != len(vectors[0]):
            raise UserError(f"{path}: {key} has {len(vector)} values, {ids[0]} has {len(vectors[0])}; an archive holds "
                            "vectors of one size")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(key for key in ids if key in seen or seen.add(key))
        raise UserError(f"{path}: the id {twice} is there twice")
    return list(ids), np.stack(vectors)


def _entries(data, path: str):
    """Yields (id, vector (D,)) of an archive in memory."""
    at = 0
    while at < len(data):
        end = data.find(b" ", at, at + MAX_KEY + 1)
        try:
            key = data[at:end].decode() if end > at else ""
        except UnicodeDecodeError:
            key = ""
        if len(key.split()) != 1:
            raise UserError(f"{path}: byte {at} begins no entry of a Kaldi archive (an id, a blank, a vector)")
        vector, at = (_binary if data[end + 1:end + 3] == b"\0B" else _text)(data, end + 1, f"{path}: {key}")
        if not len(vector):
            raise UserError(f"{path}: {key} has no values")
        yield key, vector


def _binary(data, at: int, where: str) -> tuple[np.ndarray, int]:
    """Reads a binary vector that begins at byte `at`; gives it and the byte after it."""
    dtype = _KINDS.get(data[at:at + 6])
    if dtype is None:
        raise UserError(f"{where} is no vector of floats; give an archive of one vector for each id")
    size, first = int.from_bytes(data[at + 6:at + _HEADER], "little", signed=True), at + _HEADER
    if size < 0 or first + size * dtype.itemsize > len(data):
        raise UserError(f"{where}: the archive ends in the middle of the vector; copy or make it again")
    return np.frombuffer(data[first:first + size * dtype.itemsize], dtype), first + size * dtype.itemsize


def _text(data, at: int, where: str) -> tuple[np.ndarray, int]:
    """Reads a vector in text, ` [ 1 2 3 ]` and a line break; gives it and the byte after it."""
    end = data.find(b"\n", at)
    words = data[at:end if end >= 0 else len(data)].split()
    if len(words) < 2 or words[0] != b"[" or words[-1] != b"]":
        raise UserError(f"{where} is no vector, ` [ 0.5 -1.25 ]` on one line; the archive was cut short, or is none")
    try:
        vector = np.array([numbers.number(word.decode()) for word in words[1:-1]], np.float32)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return vector, end + 1 if end >= 0 else len(data)
