"""The seal of an ONNX file: the SHA-256 of its content, at the very end of the file.

The seal is one more entry of the file's metadata, so every runtime reads the file, and a check needs no parser. An .xml
of OpenVINO has no weights; it keeps the SHA-256 of the .bin that has them, see svq.files.sha256_of.
"""

from __future__ import annotations

import hashlib

from svq.errors import UserError
from svq.files import require_file

SEAL = b"svq.sha256"  # name of the entry
DIGITS = 64
# A field of ModelProto: metadata_props (14), bytes of the entry; its key (1) and value (2), each with its length.
HEAD = (bytes([14 << 3 | 2, 4 + len(SEAL) + DIGITS, 1 << 3 | 2, len(SEAL)]) + SEAL + bytes([2 << 3 | 2, DIGITS]))
PIECE = 1 << 20


def sealed(content: bytes) -> bytes:
    """Appends its seal to a serialized onnx.ModelProto."""
    content += HEAD
    return content + hashlib.sha256(content).hexdigest().encode()


def check_seal(path) -> bool:
    """Says whether a file has a seal. UserError where the seal does not fit: the content was altered or damaged."""
    total, last, size = hashlib.sha256(), b"", len(HEAD) + DIGITS
    with open(require_file(path), "rb") as file:
        while piece := file.read(PIECE):
            last += piece
            total.update(last[:-size])
            last = last[-size:]
    head, told = last[:-DIGITS], last[-DIGITS:]
    if head != HEAD:
        return False
    total.update(head)
    if told != total.hexdigest().encode():
        raise UserError(f"{path}: its content does not match its digest: damaged or altered; copy or export it again")
    return True
