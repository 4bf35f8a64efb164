"""Mends a data directory: sorts its tables and drops lines that do not agree; the originals stay in `.backup`."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from svq.atomic import atomic_write
from svq.data.datadir import MAY_BE_BLANK, DataDir, index_speakers, keyed_by, write_spk2utt
from svq.data.table import Table, find
from svq.data.validate import unreadable
from svq.errors import UserError, located

_UNFINISHED = ".unfinished"


@dataclass
class Fixed:
    """The outcome of `fix`.

    kept, total: numbers of utterances. dropped: one message for each line that went, with its reason. changed: names of
    the files that were rewritten.
    """

    kept: int = 0
    total: int = 0
    dropped: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def fix(path, check_audio: str = "none", threads: int = 4) -> Fixed:
    """Mends data directory `path`: sorts its tables, drops malformed, repeated and unmatched lines, rewrites spk2utt.

    An id is unmatched where it is not in every file. Trial lists are never touched: dropping trials changes what is
    measured. check_audio, threads: as in svq.data.validate; recordings that cannot be read are dropped, too. The
    originals are kept in `.backup`, with the list of dropped lines (`.backup/dropped`). If a run is killed, the next
    one starts again from the originals. UserError if nothing would be left.
    """
    folder = DataDir(path)
    _restore_unfinished(folder.path)
    result = Fixed()
    if not folder.has("utt2spk"):
        raise UserError(f"{folder.path}: has no utt2spk, so nothing says which utterances there are")
    tables = {n: _clean(folder.path / n, result) for n in folder.table_names() if n != "spk2utt"}
    result.total = len(tables["utt2spk"][0])
    _intersect(folder, tables, check_audio, threads, result)
    result.kept = len(tables["utt2spk"][1])
    if result.kept == 0:
        raise UserError(f"{folder.path}: no utterance is in all of {', '.join(sorted(tables))}; nothing was changed")
    _replace(folder.path, tables, result)
    return result


def _clean(path: Path, result: Fixed) -> tuple[Table, np.ndarray]:
    """Reads a table and gives it with the indices of its good lines in sorted order, one for each key."""
    table, malformed = Table.scan(path, need_value=path.name not in MAY_BE_BLANK)
    bad = np.zeros(len(table), bool)
    for kind in malformed:
        if "CR LF" in kind.text:  # the carriage return counts as white space, so the line is good
            continue
        bad[kind.lines - 1] = True
        result.dropped += [located(path, n, kind.text.partition(";")[0]) for n in kind.lines.tolist()]
    keys = table.key_array
    order = np.argsort(keys, kind="stable") if not table.is_sorted else np.arange(len(table))
    order = order[~bad[order]]
    repeated = np.flatnonzero(keys[order[1:]] == keys[order[:-1]]) + 1
    for i in order[repeated].tolist():
        result.dropped.append(located(path, i + 1, f"`{table.key(i)}` again"))
    return table, np.delete(order, repeated)


def _intersect(folder: DataDir, tables: dict, check_audio: str, threads: int, result: Fixed) -> None:
    """Shrinks the indices of all tables, in place, to the ids that the tables share."""
    utterances = {n for n in tables if keyed_by(n, folder.has_segments) == "utt"}

    def keys(name):
        return tables[name][0].key_array[tables[name][1]]

    def keep(name, mask, reason):
        table, rows = tables[name]
        result.dropped += [located(table.path, i + 1, f"`{table.key(i)}` {reason}") for i in rows[~mask].tolist()]
        tables[name] = table, rows[mask]

    if check_audio != "none" and "wav.scp" in tables:
        table, rows = tables["wav.scp"]
        named = tables.get("reco2file_and_channel")
        named = named and Table.from_pairs(named[0].items(named[1]), named[0].path)
        why = dict(unreadable(table, check_audio == "decode", threads, rows.tolist(), named, folder.has_segments))
        result.dropped += [located(table.path, i + 1, f"`{table.key(i)}`: {text}") for i, text in why.items()]
        tables["wav.scp"] = table, rows[~np.isin(rows, list(why))]
    if folder.has_segments and "wav.scp" in tables:
        recording = tables["segments"][0].columns(1)[0][0][tables["segments"][1]]
        keep("segments", np.isin(recording, keys("wav.scp")), "is part of no recording of wav.scp")
    shared = keys("utt2spk")  # sorted and without repeats, as all of them are by now
    for name in sorted(utterances - {"utt2spk"}):
        shared = shared[find(keys(name), shared)[1]]
    for name in sorted(utterances):
        if len(shared) != len(tables[name][1]):
            keep(name, find(shared, keys(name))[1], "is not in every file")
    if folder.has_segments:
        recording = tables["segments"][0].columns(1)[0][0][tables["segments"][1]]
        for name in sorted(n for n in tables if keyed_by(n, True) == "reco"):
            keep(name, np.isin(keys(name), recording), "has no segment")
    utt2spk, rows = tables["utt2spk"]
    speakers = index_speakers(utt2spk.value_array()[rows])[0]
    for name in sorted(n for n in tables if keyed_by(n) == "spk"):
        keep(name, np.isin(keys(name), speakers), "has no utterance")


def _replace(path: Path, tables: dict, result: Fixed) -> None:
    """Writes the files that change under temporary names, saves the originals, then renames the new ones."""
    temporary = path / ".fix.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name, (table, rows) in tables.items():
        table.write(temporary / name, rows)
    utt2spk, rows = tables["utt2spk"]
    write_spk2utt(temporary / "spk2utt", utt2spk, rows)
    for new in sorted(temporary.iterdir()):
        old = path / new.name
        if old.is_file() and _same(old, new):
            new.unlink()
        else:
            result.changed.append(new.name)
    if result.changed:
        _back_up(path, result)
        for name in result.changed:
            os.replace(temporary / name, path / name)
        (path / ".backup" / _UNFINISHED).unlink()
    temporary.rmdir()


def _back_up(path: Path, result: Fixed) -> None:
    """Links the originals into `.backup`, whole or not at all; the mark says that their replacement is under way."""
    fresh, backup, old = path / ".backup.tmp", path / ".backup", path / ".backup.old"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name in result.changed:
        if (path / name).is_file():
            try:
                os.link(path / name, fresh / name)
            except OSError:  # a file system without hard links
                shutil.copy2(path / name, fresh / name)
    with atomic_write(fresh / "dropped") as file:
        file.writelines(line + "\n" for line in result.dropped)
    (fresh / _UNFINISHED).write_text("".join(f"{name}\n" for name in result.changed))
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(backup, old)
    os.rename(fresh, backup)
    shutil.rmtree(old, ignore_errors=True)


def _restore_unfinished(path: Path) -> None:
    """Puts the originals back where an earlier fix was killed between its first and its last rename."""
    if (path / ".backup.old").is_dir() and not (path / ".backup").exists():
        os.rename(path / ".backup.old", path / ".backup")
    mark = path / ".backup" / _UNFINISHED
    if not mark.is_file():
        return
    for name in mark.read_text().split():
        saved = path / ".backup" / name
        if saved.is_file():
            shutil.copy2(saved, path / ".restore.tmp")
            os.replace(path / ".restore.tmp", path / name)
        else:  # the fix made this file; there was none before
            (path / name).unlink(missing_ok=True)
    mark.unlink()


def _same(a: Path, b: Path) -> bool:
    if a.stat().st_size != b.stat().st_size:
        return False
    with open(a, "rb") as x, open(b, "rb") as y:
        while block := x.read(1 << 20):
            if block != y.read(1 << 20):
                return False
    return True
