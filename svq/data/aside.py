"""Sets speakers of a data directory aside: the rest is trained on, and choices are made on those set aside."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

from svq.data.datadir import DataDir
from svq.data.reshape import subset
from svq.errors import UserError


def draw_speakers(cells: Mapping[str, Hashable], count: int, seed: int) -> set[str]:
    """Draws `count` speakers so that each cell, such as a gender, keeps its share, by largest remainder.

    cells: speaker -> its cell. Gives the speakers drawn. UserError unless some are drawn and some are left.
    """
    if not 0 < count < len(cells):
        raise UserError(f"--dev-speakers is {count}: some of {len(cells)} speakers must be set aside, and some left")
    groups: dict[Hashable, list[str]] = {}
    for speaker in sorted(cells):
        groups.setdefault(cells[speaker], []).append(speaker)
    shares = {cell: count * len(members) / len(cells) for cell, members in groups.items()}
    quotas = {cell: int(share) for cell, share in shares.items()}
    by_remainder = sorted(groups, key=lambda cell: (quotas[cell] - shares[cell], cell))
    for cell in by_remainder[: count - sum(quotas.values())]:
        quotas[cell] += 1
    rng = np.random.default_rng(seed)
    return {str(s) for cell in sorted(groups) for s in rng.permutation(groups[cell])[: quotas[cell]]}


def set_aside(source, rest, aside, count: int, most_utts: int = 0, seed: int = 0) -> tuple[int, int]:
    """Splits data directory `source` in two: `aside` holds `count` drawn speakers, `rest` the others.

    Only speakers with two utterances or more are drawn, as others have no target trial; each gender by its share where
    spk2gender knows all. most_utts: how many utterances of a speaker, spread over its list, go into `aside`; 0: all.
    Gives the numbers of utterances in `rest` and in `aside`. UserError where too few speakers can be drawn.
    """
    folder = DataDir(source)
    sizes = np.bincount(folder.speaker_index, minlength=len(folder.speakers))
    genders = dict(folder.table("spk2gender").items()) if folder.has("spk2gender") else {}
    known = all(speaker in genders for speaker in folder.speakers)
    cells = {speaker: genders[speaker] if known else "" for speaker, size in zip(folder.speakers, sizes) if size > 1}
    if count >= len(folder.speakers) or not 2 <= count <= len(cells):
        raise UserError(f"{source}: {count} speakers cannot be set aside; it has {len(folder.speakers)}, {len(cells)} of them "
                        "with two utterances or more; at least 2 must be aside, and one must be left")
    drawn = set(cells) if count == len(cells) else draw_speakers(cells, count, seed)
    is_aside = np.array([speaker in drawn for speaker in folder.speakers])[folder.speaker_index]
    chosen = [_some(rows, most_utts) for rows in _by_speaker(folder.speaker_index, is_aside)]
    parts = np.flatnonzero(~is_aside), np.sort(np.concatenate(chosen))
    for dest, rows in zip((rest, aside), parts):
        subset(source, dest, rows)
    return len(parts[0]), len(parts[1])


def _by_speaker(speaker: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
    """Gives, for each speaker, its chosen rows in ascending order. speaker (N,) int, chosen (N,) bool: of each row."""
    rows = np.flatnonzero(chosen)
    order = rows[np.argsort(speaker[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(speaker[order])) + 1)


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """Takes at most `most` of the rows, evenly spread; 0 takes all."""
    return rows[np.arange(most) * len(rows) // most] if 0 < most < len(rows) else rows
