"""Finds the files that Kaldi's lists point to: the recordings of a wav.scp, the archives of a feats.scp."""

import os

import cleaned
from stamps import blake2b

# Of a list longer than LONG bytes only LINES lines are read, evenly spread.
LONG, LINES = 2_000_000, 20_000


class Gone(Exception):
    """Carries (a file that is missing, the list that names it)."""


def _some_lines(path):
    """Reads all lines of a list as bytes; of a long one LINES of them, evenly spread."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if size <= LONG:
            return file.read().split(b"\n")
        lines = []
        for i in range(LINES):
            file.seek(size * i // LINES)
            if i:
                file.readline()
            lines.append(file.readline().rstrip(b"\n"))
        return lines


def files_behind(path):
    """Lists the files that a list names (`id file`, `id file:offset[range]`, `id command with a file |`), each once."""
    found = {}
    for line in _some_lines(path):
        words = line.split(None, 1)
        if len(words) < 2:
            continue
        value = words[1].rstrip()
        if value.endswith(b"|"):
            found.update((word.strip(b"\"'"), True) for word in value.split() if b"/" in word)
            continue
        if value.endswith(b"]"):
            value = value.rpartition(b"[")[0]
        file, colon, offset = value.rpartition(b":")
        found[file if colon and offset.isdigit() else value] = False
    pipes = [name for name, of_pipe in found.items() if of_pipe and not os.path.isfile(name)]
    return [os.fsdecode(name) for name in found if name not in pipes]


_digests = {}


def digest_of_files(path):
    """Digests names, sizes and times of the files that a list points to; Gone where one is missing."""
    if path not in _digests:
        digest = blake2b(digest_size=16)
        for name in files_behind(path):
            try:
                found = os.stat(name)
                size, changed = found.st_size, found.st_mtime_ns
            except OSError:
                entry = cleaned.find(name)
                if entry is None:
                    raise Gone(name, path) from None
                size, changed = entry[0][:2]
            digest.update(os.fsencode("%s\t%d\t%d\n" % (name, size, changed)))
        _digests[path] = digest.hexdigest()
    return _digests[path]


def forget():
    """Forgets all digests: the next time, all files are looked at again."""
    _digests.clear()
