"""utt2dur: the seconds of every utterance, from segments, headers, or decoded pipes."""

from __future__ import annotations

import sys

from svq.atomic import atomic_write
from svq.data import audio
from svq.data.datadir import DataDir
from svq.errors import UserError, located, some_of


def seconds_of(folder: DataDir):
    """(utterance, a call that gives its seconds) in the order of wav.scp (or of segments, without any audio)."""
    if folder.has_segments:
        segments = folder.table("segments")
        (_, starts, ends), ok = segments.columns(3)
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist())):
            if not ok[row]:
                raise UserError(located(segments.path, row + 1, "is not `utterance recording start end`"))
            yield segments.key(row), lambda s=start, e=end: float(e) - float(s)
        return
    for utt, rxfilename in folder.wav.items():
        yield utt, lambda rxfilename=rxfilename: audio.duration(rxfilename)


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
