"""Kaldi's segments: lines `utterance recording start end`, in seconds; an end of -1 is that of the recording."""

from __future__ import annotations

from collections.abc import Iterator

from svq.data.datadir import DataDir
from svq.errors import UserError, located

TO_THE_END = -1.0
OVERSHOOT = 0.5  # seconds by which a segment may pass the end of its recording, as in Kaldi's extract-segments
FORM = "is not `utterance recording start end`"


def is_span(start, end):
    """Whether a part of a recording can lie between them, in seconds: bool, or (N,) bool of arrays."""
    return (start >= 0) & ((end > start) | (end == TO_THE_END))


def spans(folder: DataDir) -> Iterator[tuple[str, str, float, float]]:
    """(utterance, recording, start, end) of each segment, as they stand there; UserError for a line that is none."""
    table = folder.table("segments")
    columns, ok = table.columns(3)
    for row, fields in enumerate(zip(*(column.tolist() for column in columns))):
        recording, start, end = (field.decode() for field in fields)
        try:
            good = ok[row] and is_span(float(start), float(end))
        except ValueError:
            good = False
        if not good:
            raise UserError(located(table.path, row + 1, FORM))
        yield table.key(row), recording, float(start), float(end)
