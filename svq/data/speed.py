"""Speed perturbation as in Kaldi: copies of utterances at other speeds, through SoX pipes, as new speakers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from svq.atomic import atomic_write
from svq.data.audio import TO_THE_END
from svq.data.datadir import DataDir, keyed_by, write_spk2utt
from svq.data.reshape import _not_into_itself, _remove_others, _require_sorted
from svq.data.rxfilename import speed_command
from svq.data.table import BLOCK_LINES, Table
from svq.errors import UserError, located
from svq.numbers import number

_FACTOR = re.compile(r"[0-9]+(\.[0-9]+)?")
# Tables that stay true when a recording is played at another speed; features and frame counts do not.
_ONE_VALUE = {"text", "utt2lang", "spk2gender", "spk2age", "reco2file_and_channel"}


def perturb_speed(source, dest, factors: Sequence[str], keep_original: bool = False) -> list[str]:
    """Writes `dest` with a copy of every utterance and speaker per factor, ids prefixed `sp<factor>-`.

    With `keep_original` the unchanged utterances are there, too. utt2dur and segments are scaled; `utt2uniq` tells
    from which utterance a copy was made. Gives the names of the tables left out (features). UserError for a bad factor,
    or for ids that already have the prefix.
    """
    for factor in factors:
        if not _FACTOR.fullmatch(factor) or not 0.1 <= float(factor) <= 10 or float(factor) == 1:
            raise UserError(f"`{factor}` is no speed factor: give numbers such as 0.9 and 1.1")
    if not factors or len({float(f) for f in factors}) < len(factors):
        raise UserError(f"speed factors `{' '.join(factors)}`: give at least one, and none twice")
    dest = _not_into_itself(dest, source)
    folder = DataDir(source)
    dest.mkdir(parents=True, exist_ok=True)
    made, left_out = {"spk2utt", "utt2uniq"}, []
    for name in ["utt2spk", *folder.table_names()]:
        if name in made:
            continue
        change = _change_of(name)
        if change is None:
            left_out.append(name)
            continue
        made.add(name)
        _write(_require_sorted(folder.table(name)), dest / name, factors, keep_original, change)
    uniq = folder.table("utt2uniq") if folder.has("utt2uniq") else None
    if uniq is not None:
        _write(_require_sorted(uniq), dest / "utt2uniq", factors, keep_original, lambda key, value, factor: value)
    else:
        _write(folder.utt2spk, dest / "utt2uniq", factors, keep_original, lambda key, value, factor: key)
    write_spk2utt(dest / "spk2utt", Table.read(dest / "utt2spk"))
    _remove_others(dest, made)
    return left_out


def _change_of(name: str) -> Callable[[str, str, str], str] | None:
    """Gives the function by which a table's values change: (key, value, factor or "" for the original) -> value.

    None for a table that is left out.
    """
    if name in _ONE_VALUE or (keyed_by(name) == "spk" and name != "cmvn.scp"):
        return lambda key, value, factor: value
    return {"utt2spk": _prefixed, "wav.scp": _faster, "utt2dur": _shorter, "reco2dur": _shorter, "segments": _cut}.get(
        name
    )


def _prefixed(key: str, value: str, factor: str) -> str:
    return f"sp{factor}-{value}" if factor else value


def _faster(key: str, value: str, factor: str) -> str:
    return speed_command(value, factor) if factor else value


def _shorter(key: str, value: str, factor: str) -> str:
    return f"{number(value) / number(factor):.6g}" if factor else value


def _cut(key: str, value: str, factor: str) -> str:
    if not factor:
        return value
    recording, start, end = value.split()
    shorter_end = "-1" if number(end) == TO_THE_END else f"{number(end) / number(factor):.6g}"
    return f"sp{factor}-{recording} {number(start) / number(factor):.6g} {shorter_end}"


def _write(table: Table, path, factors, keep_original: bool, change) -> None:
    """Writes all copies of a table in sorted order: the originals before a prefix, the prefixed ones, and so on.

    Ids with one prefix stand together, so no sort is needed.
    """
    with atomic_write(path, "wb") as out:
        done = 0
        for prefix, factor in sorted((f"sp{f}-", f) for f in factors):
            begin, end = (int(np.searchsorted(table.key_array, p)) for p in (prefix.encode(), prefix.encode() + b"\xff"))
            if end > begin:
                raise UserError(located(table.path, begin + 1, f"`{table.key(begin)}` already begins with `{prefix}`"))
            if keep_original:
                for block in _changed(table, done, begin, "", "", change):
                    out.write(block)
                done = begin
            for block in _changed(table, 0, len(table), prefix, factor, change):
                out.write(block)
        if keep_original:
            for block in _changed(table, done, len(table), "", "", change):
                out.write(block)


def _changed(table: Table, begin: int, end: int, prefix: str, factor: str, change) -> Iterator[bytes]:
    lines, row = [], begin
    for row, (key, value) in enumerate(table.items(np.arange(begin, end)), begin):
        try:
            lines.append(f"{prefix}{key} {change(key, value, factor)}\n")
        except (UserError, ValueError) as error:
            raise UserError(located(table.path, row + 1, str(error))) from None
        if len(lines) == BLOCK_LINES:
            yield "".join(lines).encode()
            lines = []
    yield "".join(lines).encode()
