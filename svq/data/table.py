"""Two-column text tables (wav.scp, utt2spk, feats.scp, ...) held in arrays.

A table of 3.3 million lines as a dict of str costs over a gigabyte; here it is the bytes of the file and
four integer arrays, 32 bytes a line. A line is `key value`: the key holds no white space, and the value is
the rest of the line without the white space around it.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from svq.atomic import atomic_write
from svq.data.words import MAX_KEY, Block, Tokens, blocks, padded, read_padded
from svq.errors import UserError, located
from svq.numbers import numbers

BLOCK_LINES = 1 << 16  # lines handled together wherever lines become Python objects


def to_bytes_array(keys: Iterable) -> np.ndarray:
    """Turns str or bytes keys (or an array of them) into an `S` array (N,)."""
    if isinstance(keys, np.ndarray) and keys.dtype.kind == "S":
        return keys
    # Cut one byte past the longest id, a key is still found nowhere, and one long line does not widen the whole array.
    return np.array([(k.encode() if isinstance(k, str) else bytes(k))[: MAX_KEY + 1] for k in keys], dtype=np.bytes_)


def find(sorted_keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the place of each of `wanted` in sorted_keys: (position (N,) int64, found (N,) bool)."""
    if len(sorted_keys) == 0 or len(wanted) == 0:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    if len(wanted) == len(sorted_keys) and np.array_equal(wanted, sorted_keys):
        return np.arange(len(wanted)), np.ones(len(wanted), bool)
    position = np.searchsorted(sorted_keys, wanted)
    np.minimum(position, len(sorted_keys) - 1, out=position)
    return position, sorted_keys[position] == wanted


def _skip(data: np.ndarray, at: np.ndarray, end: np.ndarray, blank: bool) -> np.ndarray:
    """Moves each of `at` forward over blanks (or over non-blanks), at most to its `end`."""
    at = at.copy()
    rows = np.flatnonzero(at < end)
    while len(rows):
        rows = rows[(data[at[rows]] <= 32) == blank]
        at[rows] += 1
        rows = rows[at[rows] < end[rows]]
    return at


class Malformed:
    """One fault of some lines of a file: `lines` (counted from 1, ascending) and one `text` for all of them."""

    def __init__(self, lines, text: str):
        self.lines = np.asarray(lines, dtype=np.int64)
        self.text = text


def _scan(raw: bytearray, size: int, need_value: bool):
    """Finds the fields of a file's lines, (start, key_end, value_start, value_end) as (4, N), and list[Malformed]."""
    parts, found = [], {}
    for block in blocks(raw, size):
        fields, faults = _fields(block, need_value)
        parts.append(np.stack(fields) + block.lo)
        for text, rows in (*block.faults(), *faults):
            if len(rows):
                found.setdefault(text, []).append(rows + block.first_line + 1)
    fields = np.concatenate(parts, axis=1) if parts else np.zeros((4, 0), np.int64)
    return fields, [Malformed(np.concatenate(rows), text) for text, rows in found.items()]


def _fields(block: Block, need_value: bool):
    """Finds the bounds of keys and values in some lines, and their faults: [(text, lines)].

    A line that begins with white space has an empty key. Without a value, both bounds of the value are the line's end.
    """
    start, end = block.line_start, block.end
    words = np.bincount(block.line, minlength=len(end))
    first = np.cumsum(words) - words  # the first word of each line, among all
    word_end = np.append(block.start + block.length, 0)
    word_start = np.append(block.start, 0)
    keyed = (words > 0) & (word_start[first] == start)
    valued = words > keyed
    value = np.minimum(first + keyed, len(block.start))
    key_end = np.where(keyed, word_end[first], start)
    value_start = np.where(valued, word_start[value], end)
    value_end = np.where(valued, word_end[first + words - 1], end)
    faults = [("is blank", words == 0),
              ("begins with white space, so it has no id", ~keyed & valued),
              (f"has an id of more than {MAX_KEY} bytes", key_end - start > MAX_KEY)]
    if need_value:
        faults.append(("has an id but nothing after it", keyed & ~valued))
    return (start, key_end, value_start, value_end), [(text, np.flatnonzero(lines)) for text, lines in faults]


class Table:
    """The lines of a two-column file, in file order.

    Read one with `Table.read(path)`. Keys and values are str; `key_array` and `value_array` give them as
    numpy `S` arrays (N,). Iterating gives keys, `items()` gives pairs.
    """

    def __init__(self, raw: bytearray, size: int, fields: np.ndarray, path: str = "<table>"):
        self._raw, self.size, self.path = raw, size, str(path)
        self._start, self._key_end, self._value_start, self._value_end = fields
        self._keys = self._values = self._sorted_keys = self._order = self._ascends = None

    @classmethod
    def scan(cls, path, need_value: bool = True) -> tuple["Table", list[Malformed]]:
        """Reads a table with all its faults: (table, list of Malformed).

        UserError if the file cannot be read at all.
        """
        raw, size = read_padded(path)
        fields, malformed = _scan(raw, size, need_value)
        return cls(raw, size, fields, path), malformed

    @classmethod
    def _of(cls, text: bytes, path) -> tuple["Table", list[Malformed]]:
        raw = padded(text)
        fields, malformed = _scan(raw, len(text), need_value=False)
        return cls(raw, len(text), fields, path), malformed

    @classmethod
    def read(cls, path, need_value: bool = True, allow_empty: bool = False) -> "Table":
        """Reads a table; UserError, naming file and line, where a line is malformed or the file is empty."""
        table, malformed = cls.scan(path, need_value)
        if malformed:
            worst = min(malformed, key=lambda m: m.lines[0])
            raise UserError(located(path, int(worst.lines[0]), worst.text.replace("FILE", str(path))))
        if len(table) == 0 and not allow_empty:
            raise UserError(f"{path}: empty file")
        return table

    @classmethod
    def together(cls, tables: list["Table"], path) -> "Table":
        """Joins the lines of several tables, in their order, into one table that is called `path`."""
        return cls._of(b"".join(block for table in tables for block in table.blocks()), path)[0]

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str, str]], path: str = "<table>") -> "Table":
        """Makes a table of (key, value) pairs in the given order (for tests and small tables)."""
        table, malformed = cls._of("".join(f"{k} {v}\n" for k, v in pairs).encode(), path)
        if malformed:
            raise UserError(located(path, int(malformed[0].lines[0]), malformed[0].text))
        return table

    def __len__(self) -> int:
        return len(self._start)

    @property
    def _bytes(self) -> np.ndarray:
        return np.frombuffer(self._raw, dtype=np.uint8)

    @property
    def is_closed(self) -> bool:
        """True if the last line ends in a newline."""
        return self._raw[self.size - 1 : self.size] == b"\n"

    def has_at(self, place: int, text: bytes) -> bool:
        """Says whether `text` stands in the file at byte `place`."""
        return self._raw[place : min(place + len(text), self.size)] == text

    def key(self, i: int) -> str:
        """Gives the key of row `i`."""
        return self._raw[self._start[i] : self._key_end[i]].decode()

    def value(self, i: int) -> str:
        """Gives the value of row `i`, which may hold blanks."""
        return self._raw[self._value_start[i] : self._value_end[i]].decode()

    def __getitem__(self, key):
        """The value of a key (KeyError if absent)."""
        return self.value(self.index(key))

    def __contains__(self, key) -> bool:
        try:
            self.index(key)
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        for key, _ in self.items():
            yield key

    def keys(self) -> list[str]:
        """Lists all keys as str: for small tables; `key_array` serves large ones."""
        return list(self)

    def values(self) -> Iterator[str]:
        """Yields all values, in the order of the file."""
        for _, value in self.items():
            yield value

    def items(self, indices: np.ndarray | None = None) -> Iterator[tuple[str, str]]:
        """Yields (key, value) pairs in file order, or in that of `indices`; Python objects live one block long."""
        raw = self._raw
        for part in self._blocks(indices):
            bounds = (self._start, self._key_end, self._value_start, self._value_end)
            for s, k, v, e in zip(*(b[part].tolist() for b in bounds)):
                yield raw[s:k].decode(), raw[v:e].decode()

    def _blocks(self, indices):
        count = len(self) if indices is None else len(indices)
        for i in range(0, count, BLOCK_LINES):
            yield slice(i, min(i + BLOCK_LINES, count)) if indices is None else indices[i : i + BLOCK_LINES]

    @property
    def key_array(self) -> np.ndarray:
        """Keys (N,) as an `S` array, in file order; keys that `scan` calls too long are cut."""
        if self._keys is None:
            length = np.minimum(self._key_end - self._start, MAX_KEY + 1)
            self._keys = Tokens(self._bytes, self._start, length).array()
        return self._keys

    def value_array(self) -> np.ndarray:
        """Gives the values (N,), such as speakers, as an `S` array; UserError for one of more than MAX_KEY bytes."""
        if self._values is None:
            self._values = self._packed(self._value_start, self._value_end - self._value_start)
        return self._values

    def forget(self) -> None:
        """Drops the arrays of keys and values, which are made again where they are asked for: half of a table's memory."""
        self._keys = self._values = self._sorted_keys = self._order = None

    def _packed(self, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Gives fields (ids, names or numbers) as an `S` array; UserError for a long one: it would widen them all."""
        long = np.flatnonzero(length > MAX_KEY)
        if len(long):
            raise UserError(located(self.path, int(long[0]) + 1, f"has {length[long[0]]} bytes where an id or a number is "
                                                                 f"expected; they have at most {MAX_KEY}"))
        return Tokens(self._bytes, start, length).array()

    def columns(self, count: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Splits the values at white space: `count` `S` arrays (N,), and (N,) bool: the lines with `count` fields."""
        data = self._bytes
        at, out, ok = self._value_start, [], np.ones(len(self), bool)
        for _ in range(count):
            end = _skip(data, at, self._value_end, blank=False)
            ok &= end > at
            out.append(self._packed(at, end - at))
            at = _skip(data, end, self._value_end, blank=True)
        return out, ok & (at == self._value_end)

    def float_array(self) -> np.ndarray:
        """Gives the values (N,) as float64; UserError names the line of one that is not a finite number."""
        try:
            return numbers(self.value_array())
        except ValueError as error:
            text, row = error.args
            raise UserError(located(self.path, row + 1, text)) from None

    def rows_ending_in(self, byte: bytes) -> np.ndarray:
        """Finds the lines whose value ends in `byte`, and gives their indices; no value may be empty."""
        return np.flatnonzero(self._bytes[self._value_end - 1] == byte[0])

    def sorted(self) -> "Table":
        """Gives a table of the same lines, in the order of LC_ALL=C of their ids."""
        if self.is_sorted:
            return self
        fields = np.stack([self._start, self._key_end, self._value_start, self._value_end])
        return Table(self._raw, self.size, fields[:, np.argsort(self.key_array, kind="stable")], self.path)

    def taken(self, indices: np.ndarray) -> "Table":
        """Gives a table of the lines at `indices`, in that order, which holds the bytes of no other line."""
        return Table._of(b"".join(self.blocks(indices)), self.path)[0]

    @property
    def is_sorted(self) -> bool:
        """True if the keys ascend strictly in the order of LC_ALL=C."""
        if self._ascends is None:
            self._ascends = bool(np.all(self.key_array[:-1] < self.key_array[1:]))
        return self._ascends

    def _lookup(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Gives the keys in ascending order, and their line indices (None where the file is sorted)."""
        if self._sorted_keys is None:
            if self.is_sorted:
                self._sorted_keys = self.key_array
            else:
                self._order = np.argsort(self.key_array, kind="stable")
                keys = self.key_array[self._order]
                twice = np.flatnonzero(keys[1:] == keys[:-1])
                if len(twice):
                    i = int(twice[np.argmin(self._order[twice + 1])])
                    a, b = int(self._order[i]) + 1, int(self._order[i + 1]) + 1
                    raise UserError(located(self.path, b, f"`{keys[i].decode()}` is already on line {a}"))
                self._sorted_keys = keys
        return self._sorted_keys, self._order

    def positions(self, keys: Iterable) -> tuple[np.ndarray, np.ndarray]:
        """Finds many keys: their line indices (N,) int64, and (N,) bool: the keys that are there.

        UserError if the table has a key twice.
        """
        ordered, order = self._lookup()
        position, found = find(ordered, to_bytes_array(keys))
        return (position if order is None else order[position]) if len(self) else position, found

    def index(self, key, start=0, stop=None) -> int:
        """Finds the line index of one key; KeyError if it is not there, UserError if the table has a key twice."""
        key = key.encode() if isinstance(key, str) else key
        ordered, order = self._lookup()
        if len(key) <= ordered.dtype.itemsize:
            i = int(np.searchsorted(ordered, np.bytes_(key)))
            if i < len(ordered) and ordered[i] == key:
                return i if order is None else int(order[i])
        raise KeyError(key.decode())

    def indices(self, keys: Iterable) -> np.ndarray:
        """Finds the line indices (N,) int64 of many keys; KeyError names the first that is not there."""
        keys = to_bytes_array(keys)
        position, found = self.positions(keys)
        if not found.all():
            raise KeyError(keys[np.argmin(found)].decode())
        return position

    def blocks(self, indices: np.ndarray | None = None) -> Iterator[bytes]:
        """Yields the lines, or those at `indices`, as `key value\\n`, many lines to a piece, for writing."""
        raw = self._raw
        for part in self._blocks(indices):
            bounds = (self._start, self._key_end, self._value_start, self._value_end)
            start, key_end, value_start, value_end = (b[part] for b in bounds)
            if len(start) == 0:
                continue
            data = self._bytes
            plain = np.all(value_start == key_end + 1) and np.all(data[key_end] == 32)
            if plain and np.all(start[1:] == value_end[:-1] + 1):  # neighbours in the file: one slice
                yield raw[start[0] : value_end[-1]] + b"\n"
            elif plain:
                yield b"\n".join([raw[s:e] for s, e in zip(start.tolist(), value_end.tolist())]) + b"\n"
            else:
                bounds = (start.tolist(), key_end.tolist(), value_start.tolist(), value_end.tolist())
                lines = [raw[s:k] + b" " + raw[v:e] if e > v else raw[s:k] for s, k, v, e in zip(*bounds)]
                yield b"\n".join(lines) + b"\n"

    def write(self, path, indices: np.ndarray | None = None, atomic: bool = True) -> None:
        """Writes the lines, or those at `indices`, in that order.

        atomic: False where a whole folder is renamed later.
        """
        with atomic_write(path, "wb") if atomic else open(path, "wb") as out:
            out.writelines(self.blocks(indices))


def write_table(path, pairs: Iterable[tuple[str, object]]) -> None:
    """Writes (key, value) pairs, sorted by key under LC_ALL=C, to `path`, atomically.

    UserError if an id is there twice, is empty or holds white space, or if a value is empty or holds a line break.
    """
    lines = []
    for key, value in pairs:
        if not key or key.split() != [key]:
            raise UserError(f"{path}: the id `{key}` is empty or holds white space")
        value = str(value)
        if "\n" in value or "\r" in value or not value.strip():
            raise UserError(f"{path}: the value of `{key}` is empty or holds a line break")
        lines.append((key.encode(), value.encode()))
    lines.sort()
    for (a, _), (b, _) in zip(lines, lines[1:]):
        if a == b:
            raise UserError(f"{path}: `{a.decode()}` is there twice")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as out:
        out.writelines(k + b" " + v + b"\n" for k, v in lines)
