"""Embeddings in one .npz file, as svq.bin.embed writes them: `ids` (N,) and `embeddings` (N, D)."""

import zipfile
import zlib

import numpy as np

from svq.backend.tokens import Tokens
from svq.data.table import MAX_KEY
from svq.errors import UserError
from svq.files import open_file

NAMES = ("ids", "embeddings")


class Held:
    """Embeddings in memory, read as those of an archive: dim values each."""

    def __init__(self, matrix):
        self.matrix, self.dim = matrix, matrix.shape[1]

    def read(self, rows, out):
        """Copies those at the positions `rows` into `out` (n, dim)."""
        out[:] = self.matrix[rows]


def read_npz(path):
    """The ids (Tokens) and the embeddings (Held) of an .npz file; UserError where it holds anything else.

    Nothing in it is unpickled.
    """
    try:
        with open_file(path) as file, np.load(file, allow_pickle=False) as found:
            ids, matrix = (found[name] for name in NAMES)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, NotImplementedError, SyntaxError,
            zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not the arrays {' and '.join(NAMES)} of svq.bin.embed ({reason[:120]})") from None
    if ids.ndim != 1 or ids.dtype.kind != "U" or not len(ids):
        raise UserError(f"{path}: ids are {ids.dtype} {ids.shape}, not a list of texts (N,)")
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or len(matrix) != len(ids) or not matrix.shape[1]:
        raise UserError(f"{path}: embeddings are {matrix.dtype} {matrix.shape}, not floats ({len(ids)}, D)")
    words = ids.tolist()
    for word in words:
        if len(word.split()) != 1 or len(word.encode()) > MAX_KEY:
            raise UserError(f"{path}: the id {word[:40]!r} is empty, holds blanks or has more than {MAX_KEY} bytes")
    return Tokens.of(words), Held(matrix)
