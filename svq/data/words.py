"""Reads the words of a text file as arrays, for all tables of data directories, trial lists and score files.

A list of millions of lines is held as the bytes of the file and two integers a word. No Python object is made per line.
Bytes up to 32 are blanks. In any list, a line that holds control characters or is not UTF-8 is malformed.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from svq.errors import UserError, located
from svq.files import open_file

MAX_KEY = 255  # bytes; an id also becomes a file name
SCAN_BYTES = 4 << 20  # bytes of a file that are looked at together: bounds the temporary arrays
# Bytes kept readable behind the last word, since words up to the length of an id are read at a fixed width.
_PAD = MAX_KEY + 9
_ROWS = 1 << 15  # words handled at a time: few enough that they stay in the processor's cache
# Masks that keep the first 0 to 8 bytes of a little-endian word.
_KEEP = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9)


class Tokens:
    """A sequence of words: the bytes that hold them, and start and length (n,) int64 of each.

    buffer: (bytes,) uint8; sequences taken from this one share it.
    """

    def __init__(self, buffer, start, length):
        self.buffer = buffer
        self.start = np.asarray(start, dtype=np.int64)
        self.length = np.asarray(length, dtype=np.int64)

    @classmethod
    def of(cls, words):
        """Makes Tokens of a list of str."""
        encoded = [word.encode() for word in words]
        length = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return cls(np.frombuffer(padded(b"".join(encoded)), np.uint8), np.cumsum(length) - length, length)

    @classmethod
    def of_array(cls, words):
        """Makes Tokens of an `S` array (n,)."""
        width = max(words.dtype.itemsize, 1)
        return cls(np.frombuffer(padded(words.tobytes()), np.uint8), np.arange(len(words)) * width, np.char.str_len(words))

    def __len__(self):
        return len(self.start)

    def __getitem__(self, i):
        start, length = int(self.start[i]), int(self.length[i])
        return self.buffer[start:start + length].tobytes().decode()

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def take(self, rows):
        """Gives the words at these positions (indices, mask or slice), sharing the bytes."""
        return Tokens(self.buffer, self.start[rows], self.length[rows])

    def matrix(self, width=None):
        """Gives (n, width) uint8, one word a row, padded with zeros; width: at least the longest word's, and 1."""
        if width is None:
            width = max(int(self.length.max(initial=1)), 1)
        rows = gather(self, self.start, width)
        for column in range(int(self.length.min(initial=width)), width):
            rows[self.length <= column, column] = 0
        return rows

    def array(self):
        """Gives the words as an `S` array (n,), as wide as the longest, which sorts as LC_ALL=C does."""
        rows = self.matrix()
        return rows.reshape(-1).view(f"S{rows.shape[1]}")

    def words(self, count=None):
        """Gives `matrix` seen as 8-byte words, (n, count) uint64; count: at least as many as the longest word needs."""
        count = _word_count(self) if count is None else count
        packed = gather(self, self.start, 8 * count).view("<u8")
        for column in range(int(self.length.min(initial=8 * count)) // 8, count):
            packed[:, column] &= _KEEP[np.clip(self.length - 8 * column, 0, 8)]
        return packed

    def hashes(self):
        """Gives a hash of each word, (n,) uint64, which depends on the word's bytes only."""
        out = np.empty(len(self), dtype=np.uint64)
        for first in range(0, len(self), _ROWS):
            part = self.take(slice(first, first + _ROWS))
            out[first:first + _ROWS] = _hash(part.words(), part.length)
        return out

    def equal(self, other):
        """Says of each word whether it equals the word of `other` at the same place: (n,) bool."""
        same = self.length == other.length
        for first in range(0, len(self), _ROWS):
            rows = slice(first, first + _ROWS)
            mine, theirs = self.take(rows), other.take(rows)
            count = max(_word_count(mine), _word_count(theirs))
            same[rows] &= (mine.words(count) == theirs.words(count)).all(axis=1)
        return same


def gather(tokens, start, width):
    """Gives the `width` bytes of the buffer of `tokens` from each start, whatever they hold: (n, width) uint8."""
    buffer = tokens.buffer
    if len(start) and int(start.max()) + width > len(buffer):
        buffer = np.concatenate([buffer, np.zeros(width + _PAD, np.uint8)])
        tokens.buffer = buffer
    return rows_at(buffer, start, width)


def rows_at(buffer, start, width):
    """Gives the bytes buffer[s:s + width] for each s of `start`, (n, width) uint8; all must lie inside the buffer."""
    if not len(start):
        return np.zeros((0, width), np.uint8)
    # An overlapping view of width-byte items: one memcpy a row instead of one index a byte.
    view = np.ndarray((len(buffer) - width + 1,), dtype=f"V{width}", buffer=buffer, strides=(1,))
    return view[start].view(np.uint8).reshape(len(start), width)


def _word_count(tokens):
    return int(tokens.length.max(initial=1) + 7) // 8


def _hash(words, length):
    """Computes a multiply-xorshift hash over the 8-byte words; zero words at the end do not count."""
    value = length.astype(np.uint64) * np.uint64(_MIX[0])
    for column in range(words.shape[1]):
        mixed = (value ^ words[:, column]) * np.uint64(_MIX[1])
        mixed ^= mixed >> np.uint64(29)
        value = np.where(length > 8 * column, mixed, value)
    value *= np.uint64(_MIX[0])
    return value ^ (value >> np.uint64(32))


def padded(raw: bytes) -> bytearray:
    """Copies text into a buffer with spare bytes at its end, so that Tokens can be read at a fixed width."""
    return bytearray(raw) + bytes(_PAD)


def read_padded(path) -> tuple[bytearray, int]:
    """Reads a text file into a buffer as `padded` makes it, and gives it with the file's size in bytes.

    UserError where the file cannot be read, or begins with a byte order mark.
    """
    try:
        with open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            raw = bytearray(size + _PAD)
            if file.readinto(memoryview(raw)[:size]) != size:
                raise UserError(f"{path}: changed while it was read")
    except OSError as error:
        raise UserError(f"{path}: {os.strerror(error.errno).lower()}") from None
    if raw.startswith(codecs.BOM_UTF8):
        raise UserError(f"{path}: begins with a byte order mark; save it as UTF-8 without one")
    return raw, size


@dataclass
class Block:
    """Some whole lines of a file. Positions count from the first byte of the block, lines from its first line.

    raw: the bytes of the block. lo, first_line: the place of the block in the file. end: (lines,) the position of each
    line's newline, or of the end of the file. start, length, line: (words,) int64, the position and length of each
    word, and the line that it is in.
    """

    raw: memoryview
    lo: int
    first_line: int
    end: np.ndarray
    start: np.ndarray
    length: np.ndarray
    line: np.ndarray
    _blank: np.ndarray  # positions of bytes up to 32

    @property
    def line_start(self) -> np.ndarray:
        """The position of the first byte of each line: (lines,) int64."""
        return np.concatenate([[0], self.end[:-1] + 1])

    def faults(self) -> Iterator[tuple[str, np.ndarray]]:
        """Finds lines with bytes that no line of text may hold: yields (name of the fault, the lines, each once)."""
        data = np.frombuffer(self.raw, np.uint8)
        kind = data[self._blank]
        control = self._blank[(kind < 32) & (kind != 9) & (kind != 10)]
        if len(control):
            line = np.searchsorted(self.end, control)
            at_end = (data[control] == 13) & (control + 1 == self.end[line])
            yield CR_LF, line[at_end]
            yield "holds a control character", np.unique(line[~at_end])
        if data.max() > 127:
            try:
                str(self.raw, "utf-8")
            except UnicodeDecodeError:
                yield "is not UTF-8; mend: iconv -f latin1 -t utf-8", self._not_utf8()

    def _not_utf8(self) -> np.ndarray:
        bad = []
        for row, (start, end) in enumerate(zip(self.line_start.tolist(), self.end.tolist())):
            try:
                str(self.raw[start:end], "utf-8")
            except UnicodeDecodeError:
                bad.append(row)
        return np.array(bad, np.int64)


CR_LF = "ends in CR LF (a Windows file); mend: sed -i 's/\\r$//' FILE"


def blocks(raw: bytearray, size: int) -> Iterator[Block]:
    """Cuts a file (as `read_padded` gives it) into blocks of whole lines, and these into words."""
    view, lo, first_line = memoryview(raw), 0, 0
    while lo < size:
        hi = min(lo + SCAN_BYTES, size)
        if hi < size:
            cut = raw.rfind(b"\n", lo, hi)
            cut = raw.find(b"\n", hi, size) if cut < 0 else cut
            hi = size if cut < 0 else cut + 1
        block = _block(view[lo:hi], lo, first_line)
        yield block
        first_line += len(block.end)
        lo = hi


def _block(raw: memoryview, lo: int, first_line: int) -> Block:
    data = np.frombuffer(raw, np.uint8)
    blank = np.flatnonzero(data <= 32)
    newline = data[blank] == 10
    behind = blank  # the position after each word; between two blanks there is a word of no bytes
    if data[-1] != 10:  # the last line of a file that has no newline at its end
        behind, newline = np.append(blank, len(data)), np.append(newline, True)
    start = np.concatenate([[0], behind[:-1] + 1])
    length = behind - start
    line = np.cumsum(newline) - newline
    end, some = behind[newline], length > 0
    if not some.all():
        start, length, line = start[some], length[some], line[some]
    return Block(raw, lo, first_line, end, start, length, line, blank)


def read_words(path):
    """Reads all words of a text file: Tokens, and the line (from 0) of each, int64.

    Lines may end in CR LF. UserError names a line that is not text.
    """
    raw, size = read_padded(path)
    starts, lengths, lines = [], [], []
    for block in blocks(raw, size):
        faults = [(rows[0], text) for text, rows in block.faults() if len(rows) and text != CR_LF]
        if faults:
            row, text = min(faults)
            raise UserError(located(path, block.first_line + int(row) + 1, text))
        starts.append(block.start + block.lo)
        lengths.append(block.length)
        lines.append(block.line + block.first_line)
    return Tokens(np.frombuffer(raw, np.uint8), _joined(starts), _joined(lengths)), _joined(lines)


def _joined(parts):
    """Joins several arrays into one, (n,) int64, and frees the parts at once, to save memory."""
    whole = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    parts.clear()
    return whole


def read_columns(path, counts):
    """Reads the words of a text table by column: a list of Tokens, one per column, each as long as the file has lines.

    counts: the numbers of fields that a line may have, e.g. (2, 3); all lines must agree. UserError, naming file and
    line, for a missing or empty file, another number of fields, and a word too long for an id.
    """
    tokens, line = read_words(path)
    if not len(tokens):
        raise UserError(f"{path}: empty file")
    _require_short(tokens, line, path)
    per_line = np.bincount(line)
    fields = int(per_line[0])
    bad = np.flatnonzero(per_line != (fields if fields in counts else -1))
    if len(bad):
        expected = " or ".join(map(str, counts if fields not in counts else (fields,)))
        found = int(per_line[bad[0]])
        raise UserError(located(path, int(bad[0]) + 1, f"{found} fields where {expected} are expected{_why_few(tokens, line, bad[0])}"))
    return [tokens.take(slice(column, None, fields)) for column in range(fields)]


def _why_few(tokens, line, row) -> str:
    """Guesses why a line, from 0, has too few fields; "" where nothing tells."""
    words = list(tokens.take(np.flatnonzero(line == row)))
    if not words:
        return ": an empty line; take it out"
    return "; write blanks in place of commas" if len(words) == 1 and "," in words[0] else ""


def read_pairs(path):
    """Reads the first word of each line and the rest of the line (which may hold blanks): two Tokens.

    UserError, naming file and line, where there is no second word or the file is empty.
    """
    tokens, first, last = _lines_of(path)
    _require_short(tokens.take(first), np.arange(len(first)), path)
    return tokens.take(first), Tokens(tokens.buffer, tokens.start[first + 1],
                                      tokens.start[last] + tokens.length[last] - tokens.start[first + 1])


def read_groups(path):
    """Reads a table like spk2utt: names (g,) and members (n,) as Tokens, and the group of each member, (n,) int64.

    UserError, naming file and line, where a name has no members or the file is empty.
    """
    tokens, first, last = _lines_of(path)
    _require_short(tokens, np.repeat(np.arange(len(first)), last - first + 1), path)
    is_member = np.ones(len(tokens), dtype=bool)
    is_member[first] = False
    return tokens.take(first), tokens.take(is_member), np.repeat(np.arange(len(first)), last - first)


def _lines_of(path):
    """Reads all words, and the places of each line's first and last word; UserError for a line of fewer than two."""
    tokens, line = read_words(path)
    if not len(tokens):
        raise UserError(f"{path}: empty file")
    per_line = np.bincount(line)
    short = np.flatnonzero(per_line < 2)
    if len(short):
        raise UserError(located(path, int(short[0]) + 1, "an empty line" if per_line[short[0]] == 0
                                else f"nothing after {tokens[int(per_line[:short[0]].sum())]}"))
    last = np.cumsum(per_line) - 1
    return tokens, last - per_line + 1, last


def _require_short(tokens, line, path):
    """Raises UserError for a word that is too long for an id, a label or a number. line: that of each token, from 0.

    All words of a block are compared side by side, so one long word would make the whole block as wide.
    """
    long = np.flatnonzero(tokens.length > MAX_KEY)
    if len(long):
        raise UserError(located(path, int(line[long[0]]) + 1, f"a word of {tokens.length[long[0]]} bytes; ids have at "
                                                              f"most {MAX_KEY}"))
