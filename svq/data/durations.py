"""utt2dur: the seconds of every utterance, from segments, headers, or decoded pipes."""

from __future__ import annotations

import sys

from svq.atomic import atomic_write
from svq.data import audio
from svq.data.datadir import DataDir
from svq.data.segments import TO_THE_END, spans
from svq.errors import UserError, some_of


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
