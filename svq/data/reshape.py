"""Makes new data directories from old ones: parts for jobs, subsets, unions. Lines are copied, never parsed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from svq.atomic import atomic_write
from svq.data import stored
from svq.data.datadir import MAY_LACK_RECORDINGS, DataDir, index_speakers, keyed_by, write_spk2utt
from svq.data.table import BLOCK_LINES, Table
from svq.errors import UserError, some_of


def _require_sorted(table: Table) -> Table:
    if not table.is_sorted:
        raise UserError(f"{table.path}: not sorted by LC_ALL=C or an id is twice; mend: utils/fix_data_dir.sh")
    return table


class _Selector:
    """The lines of every table of a data directory that belong to given utterances, themselves lines of utt2spk.

    once: lets go of each table when it is written, as a selector that writes one directory may: less memory.
    """

    def __init__(self, folder: DataDir, once: bool = False):
        self.folder, self.once = folder, once
        self.utt2spk = _require_sorted(folder.utt2spk)
        self.segments = _require_sorted(folder.table("segments")) if folder.has_segments else None
        self.recording = self.segments.columns(1)[0][0] if self.segments else None
        self.aligned = {}
        self.names = [n for n in folder.table_names() if n not in ("utt2spk", "spk2utt")]

    def rows(self, name: str, utterances: np.ndarray) -> np.ndarray:
        table = self.folder.table(name)
        kind = keyed_by(name, self.folder.has_segments)
        if kind == "spk":
            speakers = np.flatnonzero(np.bincount(self.folder.speaker_index[utterances]))
            names = np.array([s.encode() for s in self.folder.speakers], dtype=np.bytes_)[speakers]
            position, found = table.positions(names)
            return np.sort(position[found])
        if kind == "reco":
            recordings = self.utt2spk.key_array[utterances]
            if self.segments:
                recordings = np.unique(self.recording[self.by_utterance("segments", self.segments, utterances)])
            if name in MAY_LACK_RECORDINGS:
                recordings = recordings[table.positions(recordings)[1]]
            return self._found(table, recordings)
        return self.by_utterance(name, _require_sorted(table), utterances)

    def by_utterance(self, name: str, table: Table, utterances: np.ndarray) -> np.ndarray:
        if name not in self.aligned:
            self.aligned[name] = np.array_equal(table.key_array, self.utt2spk.key_array)
        return utterances if self.aligned[name] else self._found(table, self.utt2spk.key_array[utterances])

    def _found(self, table: Table, keys: np.ndarray) -> np.ndarray:
        position, found = table.positions(keys)
        if not found.all():
            ids = [k.decode() for k in keys[~found][:6]]
            raise UserError(f"{table.path}: lacks {some_of(ids)} ({np.sum(~found)} ids); mend: utils/fix_data_dir.sh")
        return position

    def write(self, utterances: np.ndarray, dest: Path, atomic: bool = True) -> None:
        """Writes all tables, restricted to `utterances` (ascending lines of utt2spk), into the folder `dest`."""
        dest.mkdir(parents=True, exist_ok=True)
        stored.carry_made([self.folder], dest)
        self.utt2spk.write(dest / "utt2spk", utterances, atomic)
        write_spk2utt(dest / "spk2utt", self.utt2spk, utterances, atomic)
        for name in self.names:
            rows = self.rows(name, utterances)
            if len(rows):  # a table of speakers or of channels may know none of these
                self.folder.table(name).write(dest / name, rows, atomic)
            if self.once:
                self.folder.forget(name)
        _remove_others(dest, {"utt2spk", "spk2utt", *self.names})


OF_TRAINING = ("shards.json", "shards.index", "speeds")  # where and how training reads what wav.scp named before


def _remove_others(dest: Path, kept: set[str]) -> None:
    """Removes from `dest` the tables of an earlier run that are not among `kept`: they would not fit the new ones."""
    if "feats.scp" not in kept:
        (dest / stored.NAME).unlink(missing_ok=True)
    for name in OF_TRAINING:
        (dest / name).unlink(missing_ok=True)
    for path in dest.iterdir():
        if path.is_file() and keyed_by(path.name) is not None and path.name not in kept:
            path.unlink()


def _not_into_itself(dest, *sources) -> Path:
    dest = Path(dest)
    for source in sources:
        if dest.resolve() == Path(source).resolve():
            raise UserError(f"{dest}: cannot be made from itself; name another folder")
    return dest


# ---- split


def split_bounds(sizes: np.ndarray, jobs: int) -> np.ndarray:
    """Cuts groups (say speakers) with `sizes` items into `jobs` runs of about equal total size, none empty.

    Gives the bounds of the runs, (jobs + 1,): run j is groups bounds[j] to bounds[j + 1] - 1.
    """
    total = np.concatenate([[0], np.cumsum(sizes)])
    aims = total[-1] * np.arange(jobs + 1) / jobs
    right = np.clip(np.searchsorted(total, aims), 1, len(sizes))
    nearer_left = aims - total[right - 1] < total[right] - aims
    cuts = np.where(nearer_left, right - 1, right)
    cuts[0], cuts[-1] = 0, len(sizes)
    for j in range(1, jobs):
        cuts[j] = max(cuts[j], cuts[j - 1] + 1)
    for j in range(jobs - 1, 0, -1):
        cuts[j] = min(cuts[j], cuts[j + 1] - 1)
    return cuts


def split(source, jobs: int, per_utterance: bool = False) -> Path:
    """Splits data directory `source` into `source/split<jobs>/1 ...`, whole speakers to a part; gives that folder.

    per_utterance: splits by utterance instead, into `split<jobs>utt/`. The folder appears whole: a killed split leaves
    the old one. UserError if there are more jobs than speakers (or utterances).
    """
    folder = DataDir(source)
    count = len(folder.utt2spk) if per_utterance else len(folder.speakers)
    if not 1 <= jobs <= count:
        kind = "utterances" if per_utterance else "speakers"
        mend = "" if per_utterance or jobs < 1 else "; or split by utterance: --per-utt true"
        raise UserError(f"{source}: cannot make {jobs} parts of {count} {kind}{mend}")
    if per_utterance:
        parts = np.array_split(np.arange(count), jobs)
    else:
        index = folder.speaker_index
        cuts = split_bounds(np.bincount(index, minlength=count), jobs)
        job = np.repeat(np.arange(jobs), np.diff(cuts))[index]
        order = np.argsort(job, kind="stable")
        parts = np.split(order, np.searchsorted(job[order], np.arange(1, jobs)))
    dest = folder.path / f"split{jobs}{'utt' if per_utterance else ''}"
    fresh, old = dest.with_name(f".{dest.name}.tmp"), dest.with_name(f".{dest.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    selector = _Selector(folder)
    for j, part in enumerate(parts, 1):
        selector.write(part, fresh / str(j), atomic=False)
    shutil.rmtree(old, ignore_errors=True)
    if dest.exists():
        os.rename(dest, old)
    os.rename(fresh, dest)
    shutil.rmtree(old, ignore_errors=True)
    return dest


# ---- subset


_SPEAKERS = 6  # keeps this random stream apart from others


def _evenly(count: int, wanted: int) -> np.ndarray:
    return np.arange(wanted, dtype=np.int64) * count // max(wanted, 1)


def _drawn(sizes: np.ndarray, count: int, seed: int, where) -> np.ndarray:
    """Draws `count` of the speakers, of `sizes` utterances each, evenly: their numbers, ascending; all if `count` is 0."""
    if not 0 <= count <= len(sizes):
        raise UserError(f"{where}: {count} speakers are asked for, and it has {len(sizes)}")
    return np.sort(np.random.default_rng([_SPEAKERS, seed]).permutation(len(sizes))[:count]) if count else np.arange(len(sizes))


def choose(folder: DataDir, count: int, how: str = "even", speakers: int = 0, seed: int = 1) -> np.ndarray:
    """Chooses `count` utterances of a data directory, and gives their lines of utt2spk, ascending.

    how: even (spread over the list), first, last, shortest, per-spk (`count` of each speaker, or all where a speaker
    has fewer) or speakers (whole speakers until there are `count`). speakers: with per-spk, how many speakers to draw with
    `seed`, 0 for all; `count` may then be 0, for all utterances of each. UserError where there are too few.
    """
    total = len(folder.utt2spk)
    if speakers and how != "per-spk":
        raise UserError("a number of speakers to draw goes with a number of utterances of each: per-spk")
    if count == 0 and speakers:
        count = total
    if count < 1:
        raise UserError(f"a subset of {count} utterances makes no sense")
    if how in ("per-spk", "speakers"):
        index = folder.speaker_index
        order = np.argsort(index, kind="stable")
        sizes = np.bincount(index)
        begins = np.cumsum(sizes) - sizes
        if how == "per-spk":
            drawn = _drawn(sizes, speakers, seed, folder.path)
            pieces = [order[b + _evenly(n, min(n, count))] for b, n in zip(begins[drawn].tolist(), sizes[drawn].tolist())]
            return np.sort(np.concatenate(pieces))
        if count > total:
            raise UserError(f"{folder.path}: has {total} utterances, {count} are asked for")
        speakers = int(np.searchsorted(np.cumsum(sizes), count)) + 1
        return np.sort(order[: begins[speakers - 1] + sizes[speakers - 1]])
    if count > total:
        raise UserError(f"{folder.path}: has {total} utterances, {count} are asked for")
    if how == "even":
        return _evenly(total, count)
    if how == "first":
        return np.arange(count)
    if how == "last":
        return np.arange(total - count, total)
    if how == "shortest":
        seconds = folder.utt2dur.float_array()[folder.utt2dur.indices(folder.utt2spk.key_array)]
        return np.sort(np.argsort(seconds, kind="stable")[:count])
    raise UserError(f"no way `{how}` to choose utterances; there are even, first, last, shortest, per-spk, speakers")


def chosen_by_list(folder: DataDir, list_file, speakers: bool = False) -> np.ndarray:
    """Chooses the utterances (or speakers) that a list file names, and gives their lines of utt2spk, ascending.

    The first field of each line of the list counts. UserError names ids of the list that the directory does not have.
    """
    wanted = Table.read(list_file, need_value=False)
    keys = np.unique(wanted.key_array)
    if speakers:
        names = np.array([s.encode() for s in folder.speakers], dtype=np.bytes_)
        missing = keys[~np.isin(keys, names)]
        mask = np.isin(names, keys)[folder.speaker_index]
    else:
        position, found = folder.utt2spk.positions(keys)
        missing = keys[~found]
        mask = np.zeros(len(folder.utt2spk), bool)
        mask[position[found]] = True
    if len(missing):
        raise UserError(
            f"{list_file}: {len(missing)} ids are not in {folder.path}/utt2spk: {some_of(k.decode() for k in missing)}"
        )
    return np.flatnonzero(mask)


def subset(source, dest, utterances: np.ndarray) -> None:
    """Writes directory `dest` with some utterances (ascending lines of utt2spk) of `source`, without its trials."""
    _Selector(DataDir(source), once=True).write(utterances, _not_into_itself(dest, source))


# ---- combine


def merge_blocks(tables: Sequence[Table], repeats_allowed: bool = False) -> Iterator[bytes]:
    """Yields the lines of several tables in sorted order, many to a piece.

    UserError for an id in two of them, unless `repeats_allowed` and its values agree (a speaker in two directories).
    """
    keys = np.concatenate([t.key_array for t in tables])
    origin = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
    row = np.concatenate([np.arange(len(t)) for t in tables])
    if not np.all(keys[:-1] < keys[1:]):
        order = np.argsort(keys, kind="stable")
        keys, origin, row = keys[order], origin[order], row[order]
    again = np.flatnonzero(keys[1:] == keys[:-1]) + 1
    for i in again.tolist():
        a, b = (tables[origin[j]] for j in (i - 1, i))
        if not repeats_allowed or a.value(row[i - 1]) != b.value(row[i]):
            what = "with another value" if repeats_allowed else "too"
            raise UserError(f"{b.path}:{row[i] + 1}: `{b.key(row[i])}` is in {a.path}:{row[i - 1] + 1} {what}")
    if len(again):
        origin, row = np.delete(origin, again), np.delete(row, again)
    changes = np.flatnonzero(np.diff(origin)) + 1
    if len(changes) < len(row) // 16:  # long runs from one table at a time
        for begin, end in zip([0, *changes.tolist()], [*changes.tolist(), len(row)]):
            yield from tables[origin[begin]].blocks(row[begin:end])
        return
    for begin in range(0, len(row), BLOCK_LINES):  # finely mixed
        part = slice(begin, begin + BLOCK_LINES)
        lines: list[bytes] = [b""] * len(row[part])
        for t, table in enumerate(tables):
            at = np.flatnonzero(origin[part] == t)
            if len(at):
                text = b"".join(table.blocks(row[part][at])).splitlines(keepends=True)
                for i, line in zip(at.tolist(), text):
                    lines[i] = line
        yield b"".join(lines)


def merge(sources: Sequence, out, like=None) -> int:
    """Merges tables (the parts that jobs wrote) into one sorted file `out`; gives its number of lines.

    like: a table whose ids must be exactly those merged; UserError names ids that are missing on either side.
    """
    tables = [Table.read(s) for s in sources]
    if like is not None:
        wanted = Table.read(like)
        keys = np.sort(np.concatenate([t.key_array for t in tables]))
        _, found = wanted.positions(keys)
        if not found.all():
            raise UserError(f"{like}: lacks {some_of(k.decode() for k in keys[~found])}, which the parts have")
        missing = wanted.key_array[~np.isin(wanted.key_array, keys)] if len(keys) != len(wanted) else []
        if len(missing):
            raise UserError(f"{out}: {len(missing)} ids were lost: {some_of(k.decode() for k in missing)}")
    with atomic_write(out, "wb") as file:
        for block in merge_blocks(tables):
            file.write(block)
    return sum(len(t) for t in tables)


def combine(dest, sources: Sequence) -> list[str]:
    """Writes `dest`, the union of data directories; gives the files left out because not all sources have them.

    Trial lists are not combined. UserError where two sources share an utterance, give a speaker two genders, or have
    features that were made differently.
    """
    dest = _not_into_itself(dest, *sources)
    folders = [DataDir(s) for s in sources]
    if len({f.has_segments for f in folders}) > 1:
        raise UserError(f"{dest}: some of its sources have segments and some not; cut them first: utils/copy_wav.sh")
    names = sorted({n for f in folders for n in f.table_names()} - {"spk2utt"})
    shared = [n for n in names if n in MAY_LACK_RECORDINGS or all(f.has(n) for f in folders)]
    if "utt2spk" not in shared:
        raise UserError(f"{dest}: a source has no utt2spk: {some_of(str(f.path) for f in folders if not f.has('utt2spk'))}")
    dest.mkdir(parents=True, exist_ok=True)
    if "feats.scp" in shared and not stored.carry_made(folders, dest) and any(f.has(stored.NAME) for f in folders):
        names.append(stored.NAME)
    for name in shared:
        paths = [f.path / name for f in folders if f.has(name)]
        tables = [_require_sorted(Table.read(path, need_value=name != "text")) for path in paths]
        with atomic_write(dest / name, "wb") as out:
            for block in merge_blocks(tables, repeats_allowed=keyed_by(name, folders[0].has_segments) != "utt"):
                out.write(block)
    write_spk2utt(dest / "spk2utt", Table.read(dest / "utt2spk"))
    _remove_others(dest, {*shared, "spk2utt"})
    return [n for n in names if n not in shared]
