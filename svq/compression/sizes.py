"""Puts compressions of one network to several sizes side by side, from the report.json of each."""

from __future__ import annotations

import os
from collections.abc import Sequence

from svq.draw.tables import markdown_table
from svq.errors import UserError
from svq.files import read_json

Row = dict  # a step of a report.json, see svq.compression.report.Step, and `folder`
NUMBERS = (("bytes", "size_bytes", "d"), ("bits", "bits", ".3f"), ("eer", "eer", ".3f"), ("mindcf01", "mindcf01", ".4f"),
           ("mindcf05", "mindcf05", ".4f"), ("cosine", "cosine", ".5f"), ("lowest", "lowest", ".5f"))


def read(folders: Sequence) -> list[Row]:
    """Reads the steps of all compressions: the float network once, and then each compression's steps, smaller last.

    UserError for a folder without a report, for a trial list without labels, and where the compressions are not of one
    network on one trial list, so that their numbers cannot stand side by side.
    """
    rows: list[Row] = []
    for folder in map(os.fspath, folders):
        path = os.path.join(folder, "report.json")
        try:
            found = read_json(path)
            before, *steps = found["steps"]
            same = {"trials": found["trials"], **{name: before[name] for name in ("size_bytes", "eer", "mindcf01")}}
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; steps/compress.sh makes it") from None
        except (ValueError, KeyError, TypeError, OSError):
            raise UserError(f"{path}: not a report of steps/compress.sh; make it again") from None
        if before["eer"] is None:
            raise UserError(f"{path}: has no error rates; compress with a trial list that has labels")
        if rows and same != rows[0]["same"]:
            raise UserError(f"{path}: of another network or other trials than {rows[0]['folder']}: these cannot stand in "
                            "one table")
        if not rows:
            rows.append({**before, "folder": folder, "same": same})
        rows += [{**step, "folder": folder} for step in steps]
    return [rows[0], *sorted(rows[1:], key=lambda row: -row["bits"])]


def as_markdown(rows: Sequence[Row]) -> str:
    """Writes the table in Markdown, a line for each network."""
    heads = ["", "bytes", "bits a weight", "EER (%)", "95 % interval", "to float", "95 % interval", "minDCF(0.01)",
             "minDCF(0.05)", "cosine to float", "lowest"]
    return markdown_table(heads, [_cells(row) for row in rows], 1) + "\n"


def _cells(row: Row) -> list[str]:
    to_float = row["to_float"] or {"eer": None, "interval": None}
    return [row["name"], f"{row['size_bytes']:,}", f"{row['bits']:.3g}", f"{row['eer']:.2f}", _range(row["interval"]),
            _known(to_float["eer"], "+.2f"), _range(to_float["interval"], "+"), f"{row['mindcf01']:.3f}",
            f"{row['mindcf05']:.3f}", _known(row["cosine"], ".4f"), _known(row["lowest"], ".4f")]


def _known(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _range(values: Sequence[float] | None, sign: str = "") -> str:
    return "" if values is None else " to ".join(f"{value:{sign}.2f}" for value in values)


def as_tsv(rows: Sequence[Row]) -> str:
    """Writes all numbers as tab-separated lines with a head; what is not known is empty."""
    heads = ["folder", "step", *(head for head, _, _ in NUMBERS), "eer_low", "eer_high", "to_float", "to_float_low",
             "to_float_high"]
    lines = [heads]
    for row in rows:
        to_float = row["to_float"] or {"eer": None, "interval": None}
        values = [(row["interval"] or (None, None)), (to_float["eer"],), (to_float["interval"] or (None, None))]
        lines.append([os.path.basename(row["folder"]) if row["to_float"] else "", row["name"],
                      *(_known(row[key], form) for _, key, form in NUMBERS),
                      *(_known(value, ".3f") for group in values for value in group)])
    return "".join("\t".join(line) + "\n" for line in lines)
