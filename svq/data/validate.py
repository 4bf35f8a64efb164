"""Checks a data directory and reports every problem with its file and line."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from svq.data import audio, stored
from svq.data.audio import FORM, is_span
from svq.data.datadir import (
    MAY_BE_BLANK,
    DataDir,
    Recordings,
    index_speakers,
    is_trials,
    keyed_by,
    spk2utt_blocks,
    wrong_lines,
)
from svq.data.front_end_config import FrontEndConfig
from svq.data.rxfilename import require_allowed
from svq.data.table import Table, find, to_bytes_array
from svq.data.trial_list import NOT_TRIALS, form_of, is_word, sides
from svq.data.words import Tokens
from svq.errors import UserError, located
from svq.numbers import number, numbers

MEND = "mend: utils/fix_data_dir.sh"
AUDIO_CHECKS = ("none", "header", "decode")


class Problems:
    """A count of problems, and the texts of the first `limit`; the texts of the others are never made.

    rates: samples a second of recordings that were opened -> [how many have it, the key of the first].
    """

    def __init__(self, limit: int = 20):
        self.limit, self.total, self.shown = limit, 0, []
        self.rates: dict[int, list] = {}

    def add(self, path, text: str, line: int | None = None) -> None:
        """Adds a problem of a file, at a line from 1 where one is known."""
        self.total += 1
        if len(self.shown) < self.limit:
            self.shown.append(f"{path}: {text}" if line is None else located(path, line, text))

    def add_lines(self, path, rows: np.ndarray, text) -> None:
        """Adds a problem for each of `rows`, lines from 0; `text(row)` is called only for those that are shown."""
        for row in islice(map(int, rows), max(self.limit - len(self.shown), 0)):
            self.shown.append(located(path, row + 1, text(row)))
        self.total += len(rows)

    def lines(self) -> list[str]:
        """Lists the texts of the first problems, and how many more there are."""
        more = self.total - len(self.shown)
        return self.shown + ([f"... and {more} more"] if more else [])

    def about_rates(self) -> str:
        """Says that recordings have different rates, or one below that of networks; no mistake, but it costs accuracy. Else ""."""
        if len(self.rates) < 2:
            return "".join(_narrow(rate) for rate in self.rates if rate < FrontEndConfig.rate)
        told = ", ".join(f"{count} of {rate} (first: {key})" for rate, (count, key) in sorted(self.rates.items()))
        return (f"recordings of different rates, in samples a second: {told}; those of a lower one hold nothing above half of it, "
                "where other voices go on")


def _narrow(rate: int) -> str:
    return (f"all recordings have {rate} samples a second: a network of {FrontEndConfig.rate} hears nothing above {rate / 2:g} Hz; to "
            f"train for this rate, set model.front_end.rate: {rate} in the settings of networks (conf/*.yaml)")


def validate(path, check_audio: str = "header", threads: int = 4, limit: int = 20, trials: bool = True) -> Problems:
    """Checks a data directory; `total` of the Problems that it gives is 0 where the directory is sound.

    check_audio: "none"; "header" opens every recording (a pipe is stopped after its first samples); "decode" decodes
    it all, and finds silence, too. threads: of these checks. limit: how many problems get a text. trials: whether trial
    lists are checked, too. UserError if the folder itself is missing.
    """
    folder = DataDir(path)
    problems = Problems(limit)
    for name in ("utt2spk", "spk2utt"):
        if not folder.has(name):
            problems.add(folder.path, f"has no {name}; {MEND}" if name == "spk2utt" else f"has no {name}")
    if not folder.has("wav.scp") and not folder.has("feats.scp"):
        problems.add(folder.path, "has neither wav.scp nor feats.scp")
    try:
        stored.read_made(folder.path)
    except UserError as error:
        problems.add(*str(error).split(": ", 1))
    tables = {name: t for name in folder.table_names() if (t := _sound_table(folder, name, problems)) is not None}
    _check_values(tables, problems)
    if "utt2spk" in tables:
        _check_ids(folder, tables, problems)
        for name in filter(is_trials, folder.names() if trials else ()):
            _check_trials(folder, name, tables, problems)
    if check_audio != "none" and "wav.scp" in tables:
        table, named = tables["wav.scp"], tables.get("reco2file_and_channel")
        for row, why in unreadable(table, check_audio == "decode", threads, named=named, alike=folder.has_segments,
                                   rates=problems.rates):
            problems.add(table.path, f"`{table.key(row)}`: {why}", row + 1)
    return problems


def _sound_table(folder: DataDir, name: str, problems: Problems) -> Table | None:
    """Reads and checks one file by itself; None where its ids cannot be compared with those of others."""
    path = folder.path / name
    table, malformed = Table.scan(path, need_value=name not in MAY_BE_BLANK)
    for bad in malformed:
        problems.add_lines(path, bad.lines - 1, lambda _, bad=bad: bad.text.replace("FILE", str(path)))
    if len(table) == 0:
        problems.add(path, "empty file")
        return None
    if not table.is_closed:
        problems.add(path, f"the last line has no newline: cut short? ({MEND})", len(table))
    if malformed:
        return None
    keys = table.key_array
    if not table.is_sorted:
        behind = np.flatnonzero(keys[1:] < keys[:-1]) + 1
        problems.add_lines(
            path, behind, lambda i: f"`{table.key(i)}` comes after `{table.key(i - 1)}`: not sorted by LC_ALL=C; {MEND}"
        )
        order = np.argsort(keys, kind="stable")
        again = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        first = dict(zip(order[again + 1].tolist(), order[again].tolist()))
        problems.add_lines(
            path, np.sort(order[again + 1]), lambda i: f"`{table.key(i)}` is already on line {first[i] + 1}; {MEND}"
        )
        if len(again):
            return None
    folder._tables[name] = table
    return table


def _check_values(tables: dict[str, Table], problems: Problems) -> None:
    for name in ("utt2dur", "reco2dur", "utt2num_frames"):
        if name in tables:
            try:
                bad = np.flatnonzero(~(tables[name].float_array() > 0))
            except UserError as error:
                problems.total += 1
                problems.shown += [str(error)][: max(problems.limit - len(problems.shown), 0)]
            else:
                problems.add_lines(tables[name].path, bad, lambda i, t=tables[name]: f"`{t.value(i)}` is not above 0")
    if "spk2gender" in tables:
        table = tables["spk2gender"]
        bad = np.flatnonzero(~np.isin(table.value_array(), [b"f", b"m"]))
        problems.add_lines(table.path, bad, lambda i: f"`{table.value(i)}` is neither f nor m")
    if "utt2spk" in tables:
        table = tables["utt2spk"]
        bad = np.flatnonzero(~table.columns(1)[1])
        problems.add_lines(table.path, bad, lambda i: f"`{table.value(i)}` is not one speaker id")
    if "reco2file_and_channel" in tables:
        table = tables["reco2file_and_channel"]
        for row, why in wrong_lines(table):
            problems.add(table.path, why, row + 1)
    if "segments" in tables:
        table = tables["segments"]
        (recording, start, end), ok = table.columns(3)
        try:
            ok[np.flatnonzero(ok)[~is_span(numbers(start[ok]), numbers(end[ok]))]] = False
        except ValueError:
            ok[:] = [_is_segment(row) for row in zip(start.tolist(), end.tolist())]
        problems.add_lines(table.path, np.flatnonzero(~ok), lambda i: FORM)
        if "wav.scp" in tables:
            _, found = tables["wav.scp"].positions(recording)
            problems.add_lines(
                table.path, np.flatnonzero(~found), lambda i: f"`{recording[i].decode()}` is not in wav.scp"
            )


def _is_segment(bounds) -> bool:
    try:
        return bool(is_span(*(number(text.decode()) for text in bounds)))
    except ValueError:
        return False


def _check_ids(folder: DataDir, tables: dict[str, Table], problems: Problems) -> None:
    utt2spk = tables["utt2spk"]
    speakers = index_speakers(utt2spk.value_array())[0]
    for name, table in tables.items():
        kind = keyed_by(name, folder.has_segments)
        if kind == "utt" and name != "utt2spk":
            _compare(table, utt2spk, problems)
        elif kind == "spk" and name != "spk2utt":
            _, found = find(speakers, table.key_array)
            problems.add_lines(
                table.path, np.flatnonzero(~found), lambda i, t=table: f"speaker `{t.key(i)}` is not in utt2spk; {MEND}"
            )
            _, found = table.positions(speakers)
            for speaker in speakers[~found]:
                problems.add(table.path, f"lacks speaker `{speaker.decode()}` of utt2spk")
    if "spk2utt" in tables:
        _check_spk2utt(tables["spk2utt"], utt2spk, problems)


def _compare(table: Table, utt2spk: Table, problems: Problems) -> None:
    name = table.path.rpartition("/")[2]
    if np.array_equal(table.key_array, utt2spk.key_array):
        return
    _, found = utt2spk.positions(table.key_array)
    problems.add_lines(table.path, np.flatnonzero(~found), lambda i: f"`{table.key(i)}` is not in utt2spk; {MEND}")
    _, found = table.positions(utt2spk.key_array)
    problems.add_lines(utt2spk.path, np.flatnonzero(~found), lambda i: f"`{utt2spk.key(i)}` is not in {name}; {MEND}")


def _check_spk2utt(spk2utt: Table, utt2spk: Table, problems: Problems) -> None:
    at = 0
    for block in spk2utt_blocks(utt2spk):
        if not spk2utt.has_at(at, block):
            break
        at += len(block)
    else:
        if at == spk2utt.size:
            return  # the bytes are exactly those that utt2spk gives
    ids, of_utterance = utt2spk.key_array, utt2spk.value_array()
    listed = np.zeros(len(ids), dtype=np.int32)
    for row, (speaker, utterances) in enumerate(spk2utt.items()):
        names = to_bytes_array(utterances.split())
        where, found = utt2spk.positions(names)
        for name in names[~found]:
            text = f"utterance `{name.decode(errors='replace')}` is not in utt2spk; {MEND}"
            problems.add(spk2utt.path, text, row + 1)
        where = where[found]
        for i in where[of_utterance[where] != speaker.encode()]:
            other = of_utterance[i].decode()
            problems.add(spk2utt.path, f"`{utt2spk.key(i)}` belongs to `{other}` in utt2spk; {MEND}", row + 1)
        np.add.at(listed, where, 1)
    problems.add_lines(
        utt2spk.path, np.flatnonzero(listed == 0), lambda i: f"`{utt2spk.key(i)}` is not in spk2utt; {MEND}"
    )
    for i in np.flatnonzero(listed > 1):
        problems.add(spk2utt.path, f"lists `{utt2spk.key(i)}` {listed[i]} times; {MEND}")


def _check_trials(folder: DataDir, name: str, tables: dict[str, Table], problems: Problems) -> None:
    path = folder.path / name
    table, malformed = Table.scan(path)
    for bad in malformed:
        problems.add_lines(path, bad.lines - 1, lambda _, bad=bad: bad.text.replace("FILE", str(path)))
    if len(table) == 0:
        problems.add(path, "empty file")
    if malformed or len(table) == 0:
        return
    (second, third), ok = table.columns(2)
    columns = [Tokens.of_array(column[ok]) for column in (table.key_array, second, third)]
    form, fits = form_of(columns) if ok.any() else (None, NOT_TRIALS)
    if form is None:
        problems.add(path, fits, int(np.argmax(ok)) + 1)
        return
    problems.add_lines(path, np.flatnonzero(~ok), lambda i: f"is not `{form.text}`")
    rows = np.flatnonzero(ok)
    problems.add_lines(path, rows[~fits], lambda i: f"is not `{form.text}`")
    ok[rows] = fits
    enroll, test = sides((table.key_array, second, third), form)
    utt2spk = tables["utt2spk"]
    _, known = utt2spk.positions(test)
    problems.add_lines(path, np.flatnonzero(ok & ~known), lambda i: f"test `{test[i].decode()}` is not in utt2spk")
    _, known = utt2spk.positions(enroll)
    where = "utt2spk"
    if folder.has("enroll.spk2utt"):
        where += " or enroll.spk2utt"
        known |= _enroll_models(folder, utt2spk, problems).positions(enroll)[1]
    problems.add_lines(path, np.flatnonzero(ok & ~known), lambda i: f"enroll `{enroll[i].decode()}` is not in {where}")
    order = np.lexsort((test, enroll))
    same = np.flatnonzero((test[order[1:]] == test[order[:-1]]) & (enroll[order[1:]] == enroll[order[:-1]]))
    problems.add_lines(path, np.sort(order[same + 1]), lambda i: "the same trial is there already")
    for kind, word in zip(("target", "nontarget"), form.words):
        if not is_word(columns[form.label], word).any():
            problems.add(path, f"has no {kind} trial")


def _enroll_models(folder: DataDir, utt2spk: Table, problems: Problems) -> Table:
    """Reads enroll.spk2utt, and reports its own problems once."""
    seen = "enroll.spk2utt" in folder._tables
    try:
        table = folder.table("enroll.spk2utt")
        table.positions([])
    except UserError as error:
        problems.add(str(error).partition(": ")[0], str(error).partition(": ")[2])
        table = folder._tables["enroll.spk2utt"] = Table.from_pairs([], "enroll.spk2utt")
        return table
    for row, (_, utterances) in enumerate([] if seen else table.items()):
        names = to_bytes_array(utterances.split())
        for name in names[~utt2spk.positions(names)[1]]:
            problems.add(table.path, f"utterance `{name.decode(errors='replace')}` is not in utt2spk", row + 1)
    return table


def unreadable(table: Table, decode: bool, threads: int, rows: Iterable[int] | None = None,
               named: Table | None = None, alike: bool = False, rates: dict[int, list] | None = None):
    """Yields (line index, reason) for each recording of a wav.scp that `audio.check` refuses, in file order.

    rows: the line indices to check, None for all. named: the reco2file_and_channel beside the wav.scp. alike: requires
    channels that differ to be named there, as directories with segments need it. rates: counts the others, as in
    `Problems`.
    """
    require_allowed(table)
    recordings = table if named is None else Recordings(table, named)
    rows = iter(range(len(table)) if rows is None else rows)

    def look(row: int) -> str | int:
        try:
            found = audio.check(recordings.value(row), decode, alike)
        except UserError as error:
            return str(error)
        return found.rate if found else 0

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        while batch := list(islice(rows, 1024)):
            for row, found in zip(batch, pool.map(look, batch)):
                if isinstance(found, str):
                    yield row, found
                elif found and rates is not None:
                    rates.setdefault(found, [0, table.key(row)])[0] += 1
