"""Parts of recordings and how long they are: Kaldi's segments and utt2dur.

segments has lines `utterance recording start end`, in seconds; an end of -1 is that of the recording. utt2dur has the
seconds of every utterance, from segments, headers, or decoded pipes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from svq.atomic import atomic_write
from svq.data import audio
from svq.data.datadir import DataDir
from svq.errors import UserError, located, some_of

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


def seconds_of(folder: DataDir):
    """(utterance, a call that gives its seconds) in the order of wav.scp (or of segments, from which they follow,
    without any audio but for ends of -1)."""
    if folder.has_segments:
        for utt, recording, start, end in spans(folder):
            yield utt, lambda r=recording, s=start, e=end: (_whole(folder, r) if e == TO_THE_END else e) - s
        return
    for utt, rxfilename in folder.wav.items():
        yield utt, lambda rxfilename=rxfilename: audio.duration(rxfilename)


def _whole(folder: DataDir, recording: str) -> float:
    try:
        return audio.duration(folder.recordings[recording])
    except KeyError:
        raise UserError(f"recording `{recording}` is not in {folder.recordings.path}") from None


def write_utt2dur(path, out, progress=iter) -> None:
    """Writes utt2dur; UserError naming every utterance whose recording cannot be read, and then no file."""
    failed = []
    with atomic_write(out) as file:
        for utt, seconds in progress(seconds_of(DataDir(path))):
            try:
                file.write(f"{utt} {seconds():.6g}\n")
            except UserError as error:
                print(f"{utt}: {error}", file=sys.stderr)
                failed.append(utt)
        if failed:
            raise UserError(f"{path}: {len(failed)} utterances cannot be read: {some_of(failed)}")
