"""Reads Kaldi matrices and vectors from archives, row ranges included, and writes them.

kaldiio writes our archives. Reading is done here, for two reasons. kaldiio
unpickles archive entries that ask for it, which no downloaded file may be able
to do. And a training crop should not decompress a whole utterance.
Formats: src/matrix/compressed-matrix.h and kaldi-matrix.cc in Kaldi.
"""

from __future__ import annotations

import contextlib
import io
import os
import re

import numpy as np

from svq.atomic import atomic_path, atomic_write
from svq.data.rxfilename import parse, start
from svq.data.table import Table
from svq.errors import UserError, some_of
from svq.files import open_file

# Kaldi's compression methods by the name of our option; None stores float32.
COMPRESSION = {"none": None, "speech": 2, "two-byte": 3}

_RANGE = re.compile(r"(.+)\[(\d{0,18}):?(\d{0,18})(?:,(\d*):?(\d*))?\]", re.DOTALL | re.ASCII)
_PIECE = 1 << 16  # bytes that are read without checking that there are as many
_GLOBAL_HEADER = np.dtype([("min", "<f4"), ("range", "<f4"), ("rows", "<i4"), ("cols", "<i4")])


class Matrix:
    """One matrix of an archive, opened but not read: `.shape`, and `.rows(first, count)`.

    `specifier` is a value of feats.scp: `file:offset` or `file`, either with a
    Kaldi row range `[first:last]`, or `command |`. UserError when it cannot be read.
    """

    def __init__(self, specifier: str):
        self.specifier = specifier
        ranged = _RANGE.fullmatch(specifier) if specifier.endswith("]") else None
        if ranged and ranged[4] is not None:
            raise UserError(f"{specifier}: column ranges are not supported; copy the features first")
        self.file = _open(ranged[1] if ranged else specifier)
        try:
            self._read_header()
        except BaseException:
            self.file.close()
            raise
        if ranged:
            self._narrow(ranged[2], ranged[3])

    def __enter__(self) -> "Matrix":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def rows(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """Reads rows first..first+count-1: (count, cols) float32, or fewer rows where the matrix ends."""
        count = max(0, min(self.shape[0] - first, self.shape[0] if count is None else count))
        first += self.offset
        values = getattr(self, f"_read_{self.kind}")(first, count)
        return np.array(values, dtype=np.float32, order="C")  # a copy: buffers of a file are read-only

    def _narrow(self, first: str, last: str) -> None:
        if not first and ":" not in self.specifier.rsplit("[", 1)[1]:
            raise UserError(f"{self.specifier}: a range of no rows; write [first:last]")
        low = int(first or 0)
        high = int(last) if last else (self.shape[0] - 1 if ":" in self.specifier.rsplit("[", 1)[1] else low)
        if not low <= high < self.shape[0]:
            raise UserError(f"{self.specifier}: the range lies outside of {self.shape[0]} rows")
        self.offset, self.shape = low, (high - low + 1, self.shape[1])

    def _read_header(self) -> None:
        self.offset = 0
        mark = self.file.read(2)
        if mark != b"\0B":
            self._read_text(mark)
            return
        kind = b""
        while not kind.endswith(b" ") and len(kind) < 4:
            kind += self._take(1)
        self.kind = kind.decode("latin1").strip().lower()
        if self.kind in ("cm", "cm2", "cm3"):
            self.head = np.frombuffer(self._take(16), _GLOBAL_HEADER)[0]
            self.shape = (int(self.head["rows"]), int(self.head["cols"]))
        elif self.kind in ("fm", "dm"):
            sizes = np.frombuffer(self._take(10), np.dtype([("four", "u1"), ("size", "<i4")]))["size"]
            self.shape = (int(sizes[0]), int(sizes[1]))
        elif self.kind in ("fv", "dv"):
            sizes = np.frombuffer(self._take(5), np.dtype([("four", "u1"), ("size", "<i4")]))["size"]
            self.shape = (1, int(sizes[0]))
        else:
            raise UserError(f"{self.specifier}: not a Kaldi matrix or vector (type {kind!r})")
        if min(self.shape) < 0:
            raise UserError(f"{self.specifier}: damaged header (size {self.shape})")
        self.start = self.file.tell()

    def _read_text(self, mark: bytes) -> None:
        if not mark.strip(b" [\n0123456789.-+") == b"":
            raise UserError(f"{self.specifier}: not a Kaldi matrix or vector")
        from kaldiio.matio import read_ascii_mat  # a second to import, and few archives are text

        try:
            self.text = np.atleast_2d(read_ascii_mat(_Pushed(mark, self.file)))
        except (ValueError, RuntimeError, AssertionError):
            raise UserError(f"{self.specifier}: not a Kaldi matrix or vector") from None
        self.kind, self.shape = "ascii", self.text.shape

    def _take(self, size: int) -> bytes:
        data = self.file.read(size) if size <= _PIECE or size <= self._left() else b""  # no memory for what is not there
        if len(data) != size:
            raise UserError(f"{self.specifier}: the archive ends in the middle of the matrix")
        return data

    def _left(self) -> int:
        """Counts the bytes of the file from its current position to its end."""
        here = self.file.tell()
        end = self.file.seek(0, os.SEEK_END)
        self.file.seek(here)
        return end - here

    def _table(self, dtype: str, first: int, count: int, skip: int = 0) -> np.ndarray:
        """Reads rows of a row-major table that begins `skip` bytes into the data."""
        cols, dtype = self.shape[1], np.dtype(dtype)
        self.file.seek(self.start + skip + first * cols * dtype.itemsize)
        data = self._take(count * cols * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(count, cols)

    def _read_ascii(self, first, count):
        return self.text[first:first + count]

    def _read_fm(self, first, count):
        return self._table("<f4", first, count)

    _read_fv = _read_fm

    def _read_dm(self, first, count):
        return self._table("<f8", first, count)

    _read_dv = _read_dm

    def _uniform(self, codes: np.ndarray, levels: float) -> np.ndarray:
        return self.head["min"] + codes.astype(np.float32) * (self.head["range"] / np.float32(levels))

    def _read_cm2(self, first, count):
        return self._uniform(self._table("<u2", first, count), 65535)

    def _read_cm3(self, first, count):
        return self._uniform(self._table("u1", first, count), 255)

    def _read_cm(self, first, count):
        """Reads rows of one byte a value, column-major: three linear pieces between the four quantiles of a column."""
        rows, cols = int(self.head["rows"]), self.shape[1]
        self.file.seek(self.start)
        corners = np.frombuffer(self._take(8 * cols), "<u2").reshape(cols, 4)
        p0, p25, p75, p100 = self._uniform(corners, 65535).T
        codes = np.frombuffer(self._take(rows * cols), np.uint8).reshape(cols, rows)
        codes = codes[:, first:first + count].T.astype(np.float32)
        low = p0 + (p25 - p0) * codes * np.float32(1 / 64)
        middle = p25 + (p75 - p25) * (codes - 64) * np.float32(1 / 128)
        high = p75 + (p100 - p75) * (codes - 192) * np.float32(1 / 63)
        return np.where(codes <= 64, low, np.where(codes <= 192, middle, high))


class _Pushed(io.RawIOBase):
    """A file with some bytes that were read already put back in front."""

    def __init__(self, front: bytes, file):
        self.front, self.file = front, file

    def read(self, size: int = -1) -> bytes:
        if self.front:
            taken, self.front = self.front[:size], self.front[size:]
            return taken
        return self.file.read(size)


def _open(specifier: str):
    rx = parse(specifier)
    if rx.kind == "pipe":
        try:
            process = start(rx.path)
        except UserError as error:
            raise UserError(f"{specifier}: {error}") from None
        out, _ = process.communicate()
        if process.returncode != 0:
            raise UserError(f"{specifier}: the command failed with status {process.returncode}")
        return io.BytesIO(out)
    try:
        file = open_file(rx.path)
    except OSError as error:
        raise UserError(f"{rx.path}: {error.strerror}") from None
    try:
        file.seek(rx.offset)
    except (OSError, OverflowError):
        raise UserError(f"{specifier}: no such place in the archive") from None
    return file


def read_matrix(specifier: str, first: int = 0, count: int | None = None) -> np.ndarray:
    """Reads rows first..first+count-1 (all by default) of the matrix at `specifier`, (rows, cols) float32."""
    with Matrix(specifier) as matrix:
        return matrix.rows(first, count)


def read_vector(specifier: str) -> np.ndarray:
    """Reads the vector at `specifier`, (D,) float32; UserError when a matrix is there."""
    with Matrix(specifier) as matrix:
        if matrix.shape[0] != 1:
            raise UserError(f"{specifier}: expected a vector, found a matrix {matrix.shape}")
        return matrix.rows()[0]


def job_slice(total: int, job: int, num_jobs: int) -> slice:
    """Gives the job-th (from 1) of num_jobs stretches of 0..total-1 whose lengths differ by one at most."""
    return slice(total * (job - 1) // num_jobs, total * job // num_jobs)


def write_ark(ark: str, scp: str, pairs, compression: str = "none") -> int:
    """Writes (key, array) pairs to an archive and its scp in the order given; gives their number.

    Both files appear under their names when all is written, see `ark_writer`.
    """
    count = 0
    with ark_writer(ark, scp, compression) as write:
        for count, (key, array) in enumerate(pairs, 1):
            write(key, array)
    return count


@contextlib.contextmanager
def ark_writer(ark: str, scp: str, compression: str = "none", by_id: bool = False):
    """Yields `write(key, array)`, which adds to an archive; its scp is in the order of writing, or sorted by id.

    Both files appear under their names when the block ends without an exception: first the
    archive, then the scp, so that an scp never points into nothing.
    """
    from kaldiio.matio import write_array

    lines = []

    def write(key: str, array) -> None:
        file.write(f"{key} ".encode())
        lines.append(f"{key} {ark}:{file.tell()}\n")
        write_array(file, np.asarray(array), compression_method=COMPRESSION[compression])

    with atomic_path(ark) as temporary, open(temporary, "wb") as file:
        yield write
    if by_id:
        lines.sort(key=lambda line: line.partition(" ")[0].encode())
    with atomic_write(scp) as file:
        file.writelines(lines)


def merge_parts(part: str, out: str, expected: str, num_jobs: int, log: str, ark: str | None = None) -> None:
    """Merges the tables of jobs 1..num_jobs (`JOB` in `part` stands for the number) into `out`, sorted by id.

    expected: a table with exactly the ids that must come out. ark: an archive into which
    all that the parts point to is copied, in the order of the ids; `out` then points
    into it. UserError names a part or ids that were lost, with the jobs' logs.
    """
    tables = []
    for job in range(1, num_jobs + 1):
        name = part.replace("JOB", str(job))
        if not os.path.exists(name):
            raise UserError(f"{name} is missing: job {job} was lost; see {log.replace('JOB', str(job))}")
        tables.append(Table.read(name, allow_empty=True))
    merged = Table.together(tables, out).sorted()
    _check_ids(merged.key_array, np.sort(Table.read(expected).key_array), part, expected, log)
    if not ark:
        return merged.write(out)
    with atomic_write(ark, "wb") as joined:
        lines = _copied(merged, joined, ark)
    with atomic_write(out, "wb") as file:
        file.writelines(lines)


def _check_ids(found: np.ndarray, wanted: np.ndarray, part: str, expected: str, log: str) -> None:
    if np.array_equal(found, wanted):
        return
    lost, strange = (some_of(key.decode() for key in np.setdiff1d(*pair))
                     for pair in ((wanted, found), (found, wanted)))
    twice = some_of(key.decode() for key in np.unique(found[1:][found[1:] == found[:-1]]))
    what = "; ".join(f"{name}: {ids}" for name, ids in (
        ("lost", lost), (f"not in {expected}", strange), ("of two jobs", twice)) if ids)
    raise UserError(f"{part}: {len(found)} ids in place of {len(wanted)}; {what}; see {log}")


def _copied(merged: Table, joined, ark: str) -> list[bytes]:
    """Copies the entries that `merged` points to into the open file `joined` of name `ark`; gives their new lines."""
    paths, archive, start, end = _entries(merged)
    lines = []
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_file(path)) for path in paths]
        for key, i, first, last in zip(merged.key_array.tolist(), archive.tolist(), start.tolist(), end.tolist()):
            files[i].seek(first)
            entry = files[i].read(last - first)
            if not entry.startswith(key + b" "):
                raise UserError(f"{paths[i]}: {key.decode()} does not stand at byte {first}; the archive was altered")
            lines.append(b"%b %b:%d\n" % (key, os.fsencode(ark), joined.tell() + len(key) + 1))
            joined.write(entry)
    return lines


def _entries(table: Table) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Locates the archive entries of a table's lines: (paths of archives, number of each line's archive, start, end).

    start, end: bytes from the entry's id to the end of its values.
    """
    numbers: dict[str, int] = {}
    archive, start = np.empty(len(table), int), np.empty(len(table), int)
    for i, value in enumerate(table.values()):
        rx = parse(value)
        archive[i], start[i] = numbers.setdefault(rx.path, len(numbers)), rx.offset
    start -= np.char.str_len(table.key_array) + 1
    order = np.lexsort((start, archive))
    end = np.array([os.path.getsize(path) for path in numbers], int)[archive]
    same = np.flatnonzero(archive[order][1:] == archive[order][:-1])
    end[order[same]] = start[order[same + 1]]
    return list(numbers), archive, start, end
