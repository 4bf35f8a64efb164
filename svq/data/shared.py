"""Finds what two data directories have in common: speakers, and recordings under whatever names."""

from __future__ import annotations

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence

from svq.data.datadir import DataDir, index_speakers
from svq.data.rxfilename import parse
from svq.errors import UserError, some_of
from svq.files import open_file

_PROBE = 4096  # bytes from the middle of a file that tell most files of one size apart


def speakers_shared(sources: Sequence) -> list[tuple[str, str, str]]:
    """Lists (speaker, directory, other directory) for each speaker that is in two of the data directories."""
    seen, shared = {}, []
    for source in sources:
        names = index_speakers(DataDir(source).utt2spk.value_array())[0]
        for name in names.tolist():
            if name in seen:
                shared.append((name.decode(), str(seen[name]), str(source)))
            seen.setdefault(name, source)
    return shared


def recordings_shared(sources: Sequence) -> Iterator[tuple[str, str]]:
    """Yields (recording, recording) for each two that are one and stand in different data directories.

    Two are one where wav.scp says the same of both, where they are links to one file, or copies of it: files of one size
    are compared, byte by byte where a part of them is equal. A directory of features alone has no recordings.
    """
    texts: dict[str, int] = {}
    files: dict[int, dict[str, int]] = defaultdict(dict)  # size -> {real path: number of the directory}
    for number, source in enumerate(sources):
        folder = DataDir(source)
        for text in folder.table("wav.scp").values() if folder.has("wav.scp") else ():
            if texts.setdefault(text, number) != number:
                yield text, text
                continue
            rx = parse(text)
            path = os.path.realpath(rx.path)
            if rx.kind == "file" and os.path.isfile(path) and os.path.getsize(path):
                of_size = files[os.path.getsize(path)]
                if of_size.setdefault(path, number) != number:
                    yield text, path
    for of_size in files.values():
        if len(set(of_size.values())) > 1:
            yield from _copies(of_size)


def _copies(files: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yields the pairs among files of one size, path -> number of the directory, that are equal and in different ones."""
    alike = defaultdict(list)
    for path in files:
        with open_file(path) as file:
            file.seek(max(0, os.path.getsize(path) // 2 - _PROBE // 2))
            alike[file.read(_PROBE)].append(path)
    for paths in alike.values():
        for place, path in enumerate(paths):
            for other in paths[:place]:
                if files[path] != files[other] and filecmp.cmp(path, other, shallow=False):
                    yield path, other
                    break


def require_disjoint(sources: Sequence) -> None:
    """Raises UserError where two of the data directories have a speaker or a recording in common."""
    shared = [f"{speaker} ({a} and {b})" for speaker, a, b in speakers_shared(sources)]
    if shared:
        raise UserError(f"speakers in two data directories: {some_of(shared)}; nobody may be trained on and tested")
    for one, other in recordings_shared(sources):
        same = f"the recording {one} is in two" if one == other else f"{one} and {other} are the same recording, in two"
        raise UserError(f"{same} of the data directories {', '.join(map(str, sources))}; nobody may be trained on and tested")
