"""Words of a text file as arrays.

A trial list of half a million lines, or an scp of three million, is held as the
file's bytes plus the start and length of each word; ids are compared and looked
up by vectorised hashing.  No Python object is made per line.
"""

import numpy as np

from svq.data.table import MAX_KEY
from svq.errors import UserError, located
from svq.files import open_file

# Bytes kept readable behind the last word, so that a fixed-width read never runs off the end.
_PAD = 64
# Rows handled at a time: small enough that the gathered words stay in cache.
_ROWS = 1 << 15
# Masks that keep the first 0 to 8 bytes of a little-endian word.
_KEEP = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9)


class Tokens:
    """A sequence of words: bytes, start (int64) and length (int64) of each.

    buffer: (bytes,) uint8; start, length: (n,).
    """

    def __init__(self, buffer, start, length):
        self.buffer = buffer
        self.start = np.asarray(start, dtype=np.int64)
        self.length = np.asarray(length, dtype=np.int64)

    @classmethod
    def of(cls, words):
        """Tokens from a list of str."""
        encoded = [word.encode() for word in words]
        length = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        start = np.cumsum(length) - length
        buffer = np.frombuffer(b"".join(encoded) + bytes(_PAD), dtype=np.uint8)
        return cls(buffer, start, length)

    def __len__(self):
        return len(self.start)

    def __getitem__(self, i):
        start, length = int(self.start[i]), int(self.length[i])
        return self.buffer[start:start + length].tobytes().decode()

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def take(self, rows):
        """The words at these positions (indices, mask or slice), sharing the bytes."""
        return Tokens(self.buffer, self.start[rows], self.length[rows])

    def matrix(self, width=None):
        """(n, width) uint8: one word a row, padded with zeros; width: at least the longest."""
        if width is None:
            width = int(self.length.max(initial=1))
        rows = gather(self, self.start, width)
        if np.any(self.length != width):
            rows[np.arange(width) >= self.length[:, None]] = 0
        return rows

    def words(self, count=None):
        """(n, count) uint64: `matrix` seen as 8-byte words; count: at least the longest needs."""
        count = _word_count(self) if count is None else count
        packed = gather(self, self.start, 8 * count).view("<u8")
        for column in range(int(self.length.min(initial=8 * count)) // 8, count):
            packed[:, column] &= _KEEP[np.clip(self.length - 8 * column, 0, 8)]
        return packed

    def hashes(self):
        """(n,) uint64, a function of each word's bytes only."""
        out = np.empty(len(self), dtype=np.uint64)
        for first in range(0, len(self), _ROWS):
            part = self.take(slice(first, first + _ROWS))
            out[first:first + _ROWS] = _hash(part.words(), part.length)
        return out

    def equal(self, other):
        """(n,) bool: which words equal the other sequence's word at the same place."""
        same = self.length == other.length
        for first in range(0, len(self), _ROWS):
            rows = slice(first, first + _ROWS)
            mine, theirs = self.take(rows), other.take(rows)
            count = max(_word_count(mine), _word_count(theirs))
            same[rows] &= (mine.words(count) == theirs.words(count)).all(axis=1)
        return same


def gather(tokens, start, width):
    """(n, width) uint8: the `width` bytes of the buffer from each start, whatever they hold."""
    buffer = tokens.buffer
    if len(start) and int(start.max()) + width > len(buffer):
        buffer = np.concatenate([buffer, np.zeros(width + _PAD, np.uint8)])
        tokens.buffer = buffer
    return rows_at(buffer, start, width)


def rows_at(buffer, start, width):
    """(n, width) uint8: the bytes buffer[start:start + width] of each start; all must lie inside."""
    if not len(start):
        return np.zeros((0, width), np.uint8)
    # An overlapping view of width-byte items: one memcpy a row instead of one index a byte.
    view = np.ndarray((len(buffer) - width + 1,), dtype=f"V{width}", buffer=buffer, strides=(1,))
    return view[start].view(np.uint8).reshape(len(start), width)


def _word_count(tokens):
    return int(tokens.length.max(initial=1) + 7) // 8


def _hash(words, length):
    """Multiply-xorshift over the 8-byte words; zero words at the end do not count."""
    value = length.astype(np.uint64) * np.uint64(_MIX[0])
    for column in range(words.shape[1]):
        mixed = (value ^ words[:, column]) * np.uint64(_MIX[1])
        mixed ^= mixed >> np.uint64(29)
        value = np.where(length > 8 * column, mixed, value)
    value *= np.uint64(_MIX[0])
    return value ^ (value >> np.uint64(32))


class IdIndex:
    """Positions of ids: an open-addressing hash table built and searched by whole arrays.

    ids: Tokens, without repeats.  source names the file in the message about a repeat.
    """

    def __init__(self, ids, source="ids"):
        self.ids = ids
        self._bits = max(4, int(len(ids) * 4).bit_length())
        self._slots = np.full(1 << self._bits, -1, dtype=np.int32)
        hashes = ids.hashes()
        order = np.argsort(hashes, kind="stable")
        twin = np.flatnonzero(np.diff(hashes[order]) == 0)
        same = ids.take(order[twin]).equal(ids.take(order[twin + 1]))
        if same.any():
            first = order[twin[np.argmax(same)] + 1]
            raise UserError(located(source, int(first) + 1, f"{ids[first]} occurs twice"))
        self._hashes = hashes
        waiting, slot = np.arange(len(ids)), self._home(hashes)
        while len(waiting):
            free = self._slots[slot] < 0
            self._slots[slot[free]] = waiting[free]     # of several for one slot, one stays
            lost = self._slots[slot] != waiting
            waiting, slot = waiting[lost], self._next(slot[lost])

    def __len__(self):
        return len(self.ids)

    def _home(self, hashes):
        return (hashes >> np.uint64(64 - self._bits)).astype(np.int64)

    def _next(self, slot):
        return (slot + 1) & (len(self._slots) - 1)

    def find(self, wanted):
        """(n,) int32: the position of each word of `wanted` (Tokens), -1 where absent."""
        out = np.full(len(wanted), -1, dtype=np.int32)
        for first in range(0, len(wanted), _ROWS):
            part = wanted.take(slice(first, first + _ROWS))
            out[first:first + _ROWS] = self._find(part)
        return out

    def _find(self, wanted):
        hashes = wanted.hashes()
        found = np.full(len(wanted), -1, dtype=np.int32)
        waiting, slot = np.arange(len(wanted)), self._home(hashes)
        while len(waiting):
            held = self._slots[slot]
            match = held >= 0
            match[match] = self._hashes[held[match]] == hashes[waiting[match]]
            # Equal hashes are not yet equal ids: the bytes decide.
            match[match] = self.ids.take(held[match]).equal(wanted.take(waiting[match]))
            found[waiting[match]] = held[match]
            going = (held >= 0) & ~match
            waiting, slot = waiting[going], self._next(slot[going])
        return found

    def require(self, what, where, *wanted):
        """find() for each of several Tokens, as a list.

        UserError that lists the ids absent from any: no `what` (e.g. "embedding") in the file `where`.
        """
        found = [self.find(words) for words in wanted]
        absent = [word for words, rows in zip(wanted, found) for word in words.take(rows < 0)]
        if absent:
            raise UserError(missing_message(absent, what, where))
        return found


def missing_message(absent, what, where, shown=5):
    """One line that lists absent ids (each once, the first few) and counts them."""
    names = list(dict.fromkeys(absent))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{where}: no {what} for {len(names)} id{'s' * (len(names) > 1)}: {' '.join(names[:shown])}{more}"


def read_columns(path, counts):
    """The words of a text table, by column.

    counts: the numbers of fields a line may have, e.g. (2, 3); all lines must agree.
    Returns a list of Tokens, one per column, each as long as the file has lines.
    Raises UserError naming file and line: missing file, empty file, another number of fields.
    """
    tokens, line = read_words(path)
    lines = int(line[-1]) + 1 if len(line) else 0
    if lines == 0:
        raise UserError(f"{path}: empty")
    _require_short(tokens, line, path)
    per_line = np.bincount(line, minlength=lines)
    fields = int(per_line[0])
    bad = np.flatnonzero(per_line != (fields if fields in counts else -1))
    if len(bad):
        expected = " or ".join(map(str, counts if fields not in counts else (fields,)))
        raise UserError(located(path, int(bad[0]) + 1,
                                f"{per_line[bad[0]]} fields where {expected} are expected"))
    return [tokens.take(slice(column, None, fields)) for column in range(fields)]


def read_pairs(path):
    """The first word of each line and the rest of the line (which may hold spaces): two Tokens.

    Raises UserError naming file and line where there is no second word, or where the file is empty.
    """
    tokens, first, last = _lines_of(path)
    _require_short(tokens.take(first), np.arange(len(first)), path)
    return tokens.take(first), Tokens(tokens.buffer, tokens.start[first + 1],
                                      tokens.start[last] + tokens.length[last] - tokens.start[first + 1])


def read_groups(path):
    """A spk2utt-like table: names (g,), members (n,) as Tokens, and the group of each member (n,) int64."""
    tokens, first, last = _lines_of(path)
    _require_short(tokens, np.repeat(np.arange(len(first)), last - first + 1), path)
    is_member = np.ones(len(tokens), dtype=bool)
    is_member[first] = False
    return tokens.take(first), tokens.take(is_member), np.repeat(np.arange(len(first)), last - first)


def _lines_of(path):
    """All words, and where the first and last of each line stand; every line has at least two."""
    tokens, line = read_words(path)
    if not len(line):
        raise UserError(f"{path}: empty")
    per_line = np.bincount(line)
    short = np.flatnonzero(per_line < 2)
    if len(short):
        raise UserError(located(path, int(short[0]) + 1, "an empty line" if per_line[short[0]] == 0
                                else f"nothing after {tokens[int(per_line[:short[0]].sum())]}"))
    last = np.cumsum(per_line) - 1
    return tokens, last - per_line + 1, last


def _require_short(tokens, line, path):
    """UserError naming the line (of each token, from 0) of a word that is too long for an id, a label or a number.

    All words of a block are compared side by side, so that one long word would make the block as wide.
    """
    long = np.flatnonzero(tokens.length > MAX_KEY)
    if len(long):
        raise UserError(located(path, int(line[long[0]]) + 1, f"a word of {tokens.length[long[0]]} bytes; ids have at "
                                                              f"most {MAX_KEY}"))


def read_words(path):
    """All words of a text file: Tokens, and the line (from 0) of each, int64."""
    buffer, size = read_bytes(path)
    marks = []
    for first in range(0, size, 1 << 22):       # spares a whole-file temporary
        block = buffer[first:min(first + (1 << 22), size)]
        marks.append(np.flatnonzero(block <= 32) + first)
    space = np.concatenate([np.array([-1])] + marks)
    length = np.diff(space) - 1
    newline = buffer[space[1:]] == 10
    line = np.cumsum(newline) - newline
    start, keep = space[:-1] + 1, length > 0
    if not keep.all():          # more than one blank between words, or empty lines
        start, length, line = start[keep], length[keep], line[keep]
    return Tokens(buffer, start, length), line


def read_bytes(path):
    """A file as uint8, padded with zeros for `gather`, and its size, closed by a newline."""
    try:
        with open_file(path) as stream:
            stream.seek(0, 2)
            size = stream.tell()
            stream.seek(0)
            buffer = np.empty(size + 1 + _PAD, dtype=np.uint8)
            if stream.readinto(memoryview(buffer)[:size]) != size:
                raise UserError(f"{path}: changed while it was read")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    buffer[size], buffer[size + 1:] = 10, 0
    return buffer, size if size and buffer[size - 1] == 10 else size + 1
