"""Reads the list of published checkpoints, models.yaml: what each is, who publishes it, and under which licence."""

from __future__ import annotations

import difflib
import os
import posixpath
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import yaml

from svq.errors import UserError
from svq.files import open_file

LIST = os.path.join(os.path.dirname(__file__), "models.yaml")


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    arch: its network in svq.nets. origin: the toolkit that wrote it, as `svq import --from` takes it. url: the file at
    its publisher's. bytes, sha256: of the file; None: not known. eer: as published, per cent, on list `test`; None: not
    given.
    """

    name: str
    arch: str
    origin: str
    url: str
    licence: str
    bytes: int | None = None
    sha256: str | None = None
    eer: float | None = None
    test: str = "VoxCeleb1-O"

    @property
    def file(self) -> str:
        """Names the file as its publisher does."""
        return posixpath.basename(unquote(urlsplit(self.url).path))


def catalogue() -> dict[str, Published]:
    """Reads all published checkpoints, by name."""
    with open_file(LIST, "r", encoding="utf-8") as file:
        return {name: Published(name, **about) for name, about in yaml.safe_load(file).items()}


def find(name: str) -> Published:
    """Finds the checkpoint called `name`; UserError, with names that are close, where there is none."""
    known = catalogue()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 3)
    mend = f"did you mean {' or '.join(close)}?" if close else "`svq download` without a name lists them"
    raise UserError(f"no published checkpoint is called {name} here; {mend}")


def listing() -> str:
    """Writes a table of all published checkpoints, a line each."""
    rows = [("name", "network", "size (MB)", "EER (%)", "licence")]
    for each in catalogue().values():
        size = "-" if each.bytes is None else f"{each.bytes / 1e6:.1f}"
        eer = "-" if each.eer is None else f"{each.eer:g}" + ("" if each.test == "VoxCeleb1-O" else f" ({each.test})")
        rows.append((each.name, each.arch, size, eer, each.licence))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip() + "\n" for row in rows)
