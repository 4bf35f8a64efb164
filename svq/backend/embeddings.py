"""Reads and writes embeddings in Kaldi float-vector archives, through scp files; reads them from .npz and .ark, too.

A regular archive (binary vectors of one dimension, `path:offset` in the scp) is
read by whole arrays through a memory map. Anything else that `svq.data.features` understands
(text, matrices of one row, pipes) is read one embedding at a time.
"""

import mmap
import os
import sys
import zipfile
import zlib

import numpy as np

from svq.atomic import atomic_path
from svq.backend.archive import read_archive
from svq.backend.speaker_sums import SpeakerSums
from svq.data.ids import IdIndex, missing_message
from svq.data.words import MAX_KEY, Tokens, read_groups, read_pairs, rows_at
from svq.errors import UserError, located
from svq.files import open_file, require_file

_BLOCK = 1 << 13            # embeddings read together: bounds the float64 temporaries
_LONGEST_PATH = 4096        # of a file's name; a longer one is no file, and the one-by-one reader says so
_HEADER = 10                # "\0B" "FV " "\4" int32
_KINDS = {b"\0BFV \4": np.dtype("<f4"), b"\0BDV \4": np.dtype("<f8")}

_ARRAYS = ("ids", "embeddings")


def scp_in(folder, name="embedding"):
    """Finds the scp of a folder: `<name>.scp`, or where that is missing Kaldi's, with xvector in place of embedding.

    If both are there, it says so on stderr.
    """
    ours, theirs = (os.path.join(folder, f"{word}.scp") for word in (name, name.replace("embedding", "xvector")))
    if ours == theirs or not os.path.exists(theirs):
        return ours
    if os.path.exists(ours):
        print(f"{ours} is read; {os.path.basename(theirs)} beside it is not", file=sys.stderr)
        return ours
    return theirs


class EmbeddingReader:
    """Embeddings by id, read when asked for.

    path: an scp file, a folder that holds one (`scp_in`), an .npz file of svq.bin.embed, or an .ark without its scp.
    ids: Tokens (N,), in the file's order; dim: values per embedding.
    Raises UserError naming file and line for what cannot be read.
    """

    def __init__(self, path, name="embedding"):
        path = os.fspath(path)
        self.path = scp_in(path, name) if os.path.isdir(path) else path
        self._index = None
        if self.path.endswith(".npz"):
            self.ids, self._plan = _read_npz(self.path)
        elif self.path.endswith(".ark"):
            ids, matrix = read_archive(self.path)
            self.ids, self._plan = Tokens.of(ids), _Held(matrix)
        else:
            self.ids, self._where = read_pairs(self.path)
            self._plan = _plan(self._where, self.path)
        self.dim = self._plan.dim if self._plan else len(self._read_one(0))

    def __len__(self):
        return len(self.ids)

    @property
    def index(self):
        """The places of ids, an IdIndex; made when it is first asked for."""
        if self._index is None:
            self._index = IdIndex(self.ids, self.path)
        return self._index

    def rows(self, *wanted):
        """Finds the positions, int32, of several sequences of ids (Tokens): a list of arrays.

        UserError lists the ids without an embedding.
        """
        return self.index.require("embedding", self.path, *wanted)

    def read(self, rows=None):
        """Reads the embeddings at positions `rows`, or all: (n, dim) float32.

        UserError lists the ids of embeddings that are not finite.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        out = np.empty((len(rows), self.dim), dtype=np.float32)
        for first in range(0, len(rows), _BLOCK):
            part = rows[first:first + _BLOCK]
            block = out[first:first + _BLOCK]
            if self._plan:
                self._plan.read(part, block)
            else:
                for i, row in enumerate(part):
                    block[i] = self._read_one(int(row))
            # One sum per row finds NaN and infinity without a mask of the whole block.
            bad = ~np.isfinite(block.sum(axis=1, dtype=np.float64))
            if bad.any():
                raise UserError(missing_message(self.ids.take(part[bad]), "finite embedding", self.path))
        return out

    def _read_one(self, row):
        from svq.data import features

        try:
            value = features.read_vector(self._where[row])
        except UserError as error:
            raise UserError(located(self.path, row + 1, f"{self.ids[row]} cannot be read: {error}")) from None
        if value.ndim != 1 or value.dtype.kind != "f" or value.size == 0:
            raise UserError(located(self.path, row + 1, f"{self.ids[row]} is not a vector of floats"))
        if len(value) != getattr(self, "dim", len(value)):
            raise UserError(located(self.path, row + 1, f"{self.ids[row]} has {len(value)} values where "
                                                        f"the first embedding has {self.dim}"))
        return value


class _Held:
    """Embeddings in memory, of dim values each, that are read as those of an archive are."""

    def __init__(self, matrix):
        self.matrix, self.dim = matrix, matrix.shape[1]

    def read(self, rows, out):
        """Copies the embeddings at positions `rows` into `out` (n, dim)."""
        out[:] = self.matrix[rows]


def _read_npz(path):
    """Reads the ids (Tokens) and the embeddings (_Held) of an .npz file; UserError where it holds anything else.

    Nothing in it is unpickled.
    """
    try:
        with open_file(path) as file, np.load(file, allow_pickle=False) as found:
            ours = not set(_ARRAYS).isdisjoint(found.files)
            ids, matrix = (found[name] for name in _ARRAYS) if ours else _vectors_by_name(found, path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, NotImplementedError, SyntaxError,
            zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not an archive of embeddings ({reason[:120]})") from None
    if ids.ndim != 1 or ids.dtype.kind != "U" or not len(ids):
        raise UserError(f"{path}: ids are {ids.dtype} {ids.shape}, not a list of texts (N,)")
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or len(matrix) != len(ids) or not matrix.shape[1]:
        raise UserError(f"{path}: embeddings are {matrix.dtype} {matrix.shape}, not floats ({len(ids)}, D)")
    words = ids.tolist()
    for word in words:
        if len(word.split()) != 1 or len(word.encode()) > MAX_KEY:
            raise UserError(f"{path}: the id {word[:40]!r} is empty, holds blanks or has more than {MAX_KEY} bytes")
    if len(set(words)) < len(words):
        twice = next(word for word in words if words.count(word) > 1)
        raise UserError(f"{path}: the id {twice!r} is there twice")
    return Tokens.of(words), _Held(matrix)


def _vectors_by_name(found, path):
    """The names (N,) and the vectors (N, D) of an archive that holds one array (D,) or (1, D) of floats for each id."""
    vectors = []
    for name in found.files:
        vector = found[name]
        if vector.dtype.kind != "f" or not vector.size or vector.shape not in ((vector.size,), (1, vector.size)):
            raise UserError(f"{path}: holds neither {' and '.join(_ARRAYS)}, as svq.bin.embed writes them, nor one vector of "
                            f"floats for each id: {name[:40]!r} is {vector.dtype} {vector.shape}")
        if vectors and vector.size != vectors[0].size:
            raise UserError(f"{path}: {name[:40]!r} has {vector.size} values, {found.files[0][:40]!r} has {vectors[0].size}")
        vectors.append(vector.reshape(-1))
    return np.array(found.files), np.array(vectors)


class _Plan:
    """The places of regular records: archive number and byte offset of each."""

    def __init__(self, arks, ark, offset, dim, dtype):
        self.arks, self.ark, self.offset, self.dim, self.dtype = arks, ark, offset, dim, dtype

    def read(self, rows, out):
        for number in np.unique(self.ark[rows]):
            mine = self.ark[rows] == number
            start = self.offset[rows[mine]] + _HEADER
            data = rows_at(self.arks[number], start, self.dim * self.dtype.itemsize)
            out[mine] = data.view(self.dtype)
            _let_go(self.arks[number])


def _let_go(ark):
    """Gives the pages of a memory map back to the system's cache: else all that was read counts as this process's."""
    if hasattr(mmap, "MADV_DONTNEED"):
        ark._mmap.madvise(mmap.MADV_DONTNEED)


def _plan(where, source):
    """Makes a _Plan if every record is a binary vector of one and the same layout, else gives None.

    UserError names the line where an archive is cut short."""
    parts = _split_offsets(where)
    if parts is None:
        return None
    paths, offset = parts
    if paths.length.max() > _LONGEST_PATH:
        return None
    hashes = paths.hashes()
    _, first, ark = np.unique(hashes, return_index=True, return_inverse=True)
    if not paths.equal(paths.take(first[ark])).all():
        return None
    arks, names, headers = [], [], np.empty((len(offset), _HEADER), np.uint8)
    for number, i in enumerate(first):
        try:
            data = np.memmap(require_file(paths[i]), dtype=np.uint8, mode="r")
        except (OSError, ValueError, UserError):
            return None             # the one-by-one reader names the line and the reason
        mine = ark == number
        if offset[mine].max() + _HEADER > len(data):
            return None
        headers[mine] = rows_at(data, offset[mine], _HEADER)
        _let_go(data)
        arks.append(data)
        names.append(paths[i])
    dtype = _KINDS.get(headers[0, :6].tobytes())
    if dtype is None or (headers != headers[0]).any():
        return None
    dim = int(headers[0, 6:].view("<i4")[0])
    sizes = np.array([len(data) for data in arks])
    if dim <= 0:
        return None
    cut = np.flatnonzero(offset + _HEADER + dim * dtype.itemsize > sizes[ark])
    if len(cut):                    # kaldiio would return a shorter vector and say nothing
        raise UserError(located(source, int(cut[0]) + 1, f"{names[ark[cut[0]]]} ends inside this embedding"))
    return _Plan(arks, ark, offset, dim, dtype)


def _split_offsets(where):
    """Splits `path:offset` of every line into paths (Tokens) and offsets (N,) int64; None if a line is otherwise."""
    end = where.start + where.length
    number = np.zeros(len(where), dtype=np.int64)
    digits = np.zeros(len(where), dtype=np.int64)
    active = np.ones(len(where), dtype=bool)
    for place in range(18):
        byte = where.buffer[np.maximum(end - 1 - place, 0)]
        active &= (byte >= 48) & (byte <= 57)
        if not active.any():
            break
        number[active] += (byte[active].astype(np.int64) - 48) * 10 ** place
        digits += active
    length = where.length - digits - 1
    regular = (digits > 0) & (length > 0)
    if not regular.all() or (where.buffer[where.start + length] != 58).any():
        return None
    return Tokens(where.buffer, where.start, length), number


def read_embeddings(path, name="embedding"):
    """Reads all embeddings of an scp file, a folder or an .npz file: ids (Tokens), (N, D) float32."""
    reader = EmbeddingReader(path, name)
    return reader.ids, reader.read()


def write_embeddings(folder, ids, matrix, name="embedding"):
    """Writes `<name>.ark` and `<name>.scp` into a folder, sorted by id under LC_ALL=C.

    ids: list of str or Tokens (N,); matrix: (N, D) floats, written as float32.
    Both files appear whole; the scp last, so that it never points into another archive.
    """
    keys = [word.encode() for word in ids]
    matrix = np.ascontiguousarray(matrix, dtype="<f4")
    if len(keys) != len(matrix) or matrix.ndim != 2:
        raise ValueError(f"{len(keys)} ids for an array of shape {matrix.shape}")
    os.makedirs(folder, exist_ok=True)
    ark, scp = (os.path.join(os.fspath(folder), f"{name}.{kind}") for kind in ("ark", "scp"))
    header = b" \0BFV \4" + np.array(matrix.shape[1], "<i4").tobytes()
    with atomic_path(scp) as new_scp, open(new_scp, "wb") as index:
        with atomic_path(ark) as new_ark, open(new_ark, "wb") as archive:
            for i in sorted(range(len(keys)), key=keys.__getitem__):
                index.write(b"%s %s:%d\n" % (keys[i], os.fsencode(ark), archive.tell() + len(keys[i]) + 1))
                archive.write(keys[i] + header + matrix[i].tobytes())
            archive.flush()
            if os.path.exists(scp):
                os.unlink(scp)


def write_vector(path, vector):
    """Writes one Kaldi binary float vector (such as mean.vec), atomically."""
    vector = np.ascontiguousarray(vector, dtype="<f4")
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        stream.write(b"\0BFV \4" + np.array(vector.size, "<i4").tobytes() + vector.tobytes())


def read_vector(path):
    """Reads (D,) float32 from a Kaldi vector file, binary or text; UserError where it is missing or not finite."""
    if not os.path.exists(path):
        raise UserError(f"{path} is missing; steps/speaker_means.sh makes it")
    from svq.data import features

    value = np.asarray(features.read_vector(os.fspath(path)), dtype=np.float32)
    if value.ndim != 1 or not np.isfinite(value).all():
        raise UserError(f"{path}: not a vector of finite floats")
    return value


def unit_length(matrix, ids=None, source="embeddings"):
    """Scales the rows of a matrix (N, D) to length 1, same dtype.  UserError lists the ids of zero rows.

    source: the file that the message names.
    """
    norm = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    if matrix.size and not norm.min() > 0:
        zero = np.flatnonzero(~(norm > 0))
        names = ids.take(zero) if ids is not None else [f"row {i}" for i in zero]
        raise UserError(missing_message(names, "embedding of non-zero length", source))
    return matrix / norm.astype(matrix.dtype)[:, None]


class Groups:
    """Utterances grouped by speaker or model: a spk2utt or enroll.spk2utt.

    names: Tokens (g,); members: Tokens (n,); group: (n,) int64, non-decreasing; counts: (g,).
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        self.names, self.members, self.group = read_groups(path)
        self.counts = np.bincount(self.group, minlength=len(self.names))
        self.index = IdIndex(self.names, self.path)

    def blocks(self, reader):
        """Yields ((b, dim) float32 embeddings, (b,) group numbers) over all members, in file order."""
        rows, = reader.rows(self.members)
        for first in range(0, len(rows), _BLOCK):
            part = slice(first, first + _BLOCK)
            yield reader.read(rows[part]), self.group[part]


def add_by_group(sums, values, group):
    """Adds to sums[g] the values (b, ...) of group g, in place; group (b,) must be non-decreasing."""
    first = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    sums[group[first]] += np.add.reduceat(values, first, axis=0, dtype=sums.dtype)


def speaker_means(groups, reader, length_normalize=False):
    """Computes the mean embedding of each group, (g, D) float32, and the mean of all utterances, (D,) float32.

    groups: Groups; reader: EmbeddingReader.  length_normalize: scales each utterance to
    length 1 first.  UserError lists utterances without an embedding.
    """
    sums = SpeakerSums(len(groups.names), reader.dim)
    for block, group in groups.blocks(reader):
        sums.add(unit_length(block) if length_normalize else block, group)
    return sums.means()
