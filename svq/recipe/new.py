"""Makes the folder of a new recipe: run.sh, conf/, local/, README.md and the links that every recipe has.

run.sh is that of egs/speechocean762 with another head and other stages 0 and 1 (utils/new_recipe/); the stages of the
method stay the same, line by line.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from svq.data import given
from svq.data.datadir import DataDir
from svq.data.shared import require_disjoint
from svq.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BASE = "speechocean762"
LINKS = ("path.sh", "cmd.sh", "steps", "utils")             # links to the top that every recipe has
LOCAL = ("table.sh", "prepare_noise_rir.sh", "prepare_noise_rir.py")
NOT_FOR_OTHERS = ("ready.yaml",)                            # settings of BASE that no other recipe can use
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLAIN = re.compile(r"[A-Za-z0-9_./+:,@%-]*")


@dataclasses.dataclass(frozen=True)
class Given:
    """The data that a recipe is made for. Paths are absolute; an empty one was not given. root: folder that relative paths
    in wav.scp start from."""

    train_data: str
    test_data: str
    test_trials: str
    dev_data: str = ""
    dev_trials: str = ""
    dev_speakers: int = 0
    root: str = ""

    def directories(self) -> dict[str, str]:
        """Gives the data directories by their use: train, dev (if given), test."""
        return {name: path for name, path in (("train", self.train_data), ("dev", self.dev_data), ("test", self.test_data)) if path}


def speakers_to_set_aside(train_data) -> int:
    """Counts the training speakers to set aside for calibration: a tenth, from 10 to 100, but at most a third, at least 2."""
    speakers = len(DataDir(train_data).speakers)
    return max(min(max(speakers // 10, 10), 100, speakers // 3), 2)


def make(name: str, what: Given, title: str = "", egs=None) -> Path:
    """Makes the folder egs/<name>, whole or not at all, and tries its stage 1 on the lists; gives its path.

    title: title of the report; empty: the name. egs: folder that it goes into, by default that of this checkout. UserError
    where it is there already, or where the recipe could not run with these data directories or trial lists.
    """
    egs = Path(egs or ROOT / "egs").resolve()
    if not (ROOT / "egs" / BASE / "run.sh").is_file():
        raise UserError(f"{ROOT}: no checkout of svq with its recipes; git clone it, and run its utils/new_recipe.sh")
    if not _NAME.fullmatch(name):
        raise UserError(f"`{name}` is no name for a recipe: letters, digits, - _ and . only")
    folder = egs / name
    if os.path.lexists(folder):
        raise UserError(f"{folder}: is there already; choose another name, or remove it")
    require_usable(what)
    egs.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=egs))
    try:
        fresh.chmod(0o755)
        write(fresh, name, what, title or name)
        try_stage_1(fresh, what)
        if os.path.lexists(folder):
            raise UserError(f"{folder}: is there already; choose another name, or remove it")
        os.rename(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def require_usable(what: Given) -> None:
    """Refuses, by UserError, data directories that are not sound, and two that share speakers or recordings."""
    places = list(what.directories().values())
    for place in places:
        given.require_usable(place)
    require_disjoint(places)


def write(folder: Path, name: str, what: Given, title: str) -> None:
    """Writes all files of a recipe into an empty folder, which will be called `name`."""
    for link in LINKS:
        _link(folder / link, ROOT / link)
    (folder / "local").mkdir()
    for script in LOCAL:
        _link(folder / "local" / script, ROOT / "local" / script)
    _write(folder / "local" / "prepare_data.sh", _template("prepare_data.sh"), 0o755)
    (folder / "conf").mkdir()
    shared = os.path.relpath(ROOT / "conf", folder / "conf")
    for path in sorted((ROOT / "egs" / BASE / "conf").glob("*.yaml")):
        if path.name not in NOT_FOR_OTHERS:
            _write(folder / "conf" / path.name, path.read_text().replace("../../../conf/", f"{shared}/"))
    _write(folder / "run.sh", run_text((ROOT / "egs" / BASE / "run.sh").read_text(), name, what, title), 0o755)
    _write(folder / "README.md", readme_text(folder, name, what))


def run_text(base: str, name: str, what: Given, title: str) -> str:
    """Writes the text of the run.sh of a new recipe, from that of BASE; UserError where BASE's is not as expected."""
    base = _once(r"^export SVQ_ALLOW_PIPES=.*\n", "", base)
    base = _once(r"^trials=.*\n", _option('trials="dev/trials test/trials"', "trial lists; the first one calibrates"), base)
    base = _once(r"^title=.*\n", _option(f"title={quoted(title)}", "the report's title"), base)
    base = re.sub(r' \$\{malayalam:\+[^}]*\}', "", base)
    options, middle, stages = (_between(base, *ends) for ends in ((r"^systems=", r"^if stage 0 "), (r"^if stage 0 ", r"^if stage 2 "),
                                                                 (r"^if stage 2 ", None)))
    assert "if stage 1 " in middle
    values = {field.name.upper(): str(getattr(what, field.name)) for field in dataclasses.fields(what)}
    head = fill(_template("head.sh"), {**{key: quoted(value) for key, value in values.items()}, "NAME": name})
    text = _aligned(head) + options + _template("stages.sh") + stages
    left = [word for word in ("malayalam", BASE, "$corpus", "extra_corpus") if word in text.replace(head, "")]
    if left:
        raise UserError(f"egs/{BASE}/run.sh has what svq/recipe/new.py does not know: {left[0]}")
    return text


def readme_text(folder: Path, name: str, what: Given) -> str:
    """Writes the text of README.md: the data, how to run the recipe, what to change."""
    rows = []
    for part, place in what.directories().items():
        data = DataDir(place)
        rows.append(f"| {part} | `{place}` | {len(data.speakers)} | {len(data.utt2spk)} |")
    drawn = "all target pairs and 100,000 other pairs, drawn"
    dev = (f"The recipe calibrates scores and chooses settings on `{what.dev_data}`: " +
           (f"`{what.dev_trials}`." if what.dev_trials else f"{drawn}.")
           if what.dev_data else
           f"You gave no development data. So the recipe draws {what.dev_speakers} training speakers (`dev_speakers`), sets up to 20 "
           f"utterances of each aside, and trains on none of theirs. On them it calibrates scores and chooses settings: {drawn}.")
    docs = os.path.relpath(ROOT / "docs", folder)
    return fill(_template("README.md"), {"NAME": name, "TABLE": "\n".join(rows), "TEST_TRIALS": what.test_trials, "DEV": dev,
                                         "DOCS": docs})


def try_stage_1(folder: Path, what: Given) -> None:
    """Runs local/prepare_data.sh of a recipe as its stage 1 will, into a folder that is removed again; UserError with the last
    line of its errors where it fails."""
    tried = folder / ".try"
    options = [f"--{field.name.replace('_', '-')}={getattr(what, field.name)}" for field in dataclasses.fields(what)]
    done = subprocess.run(["bash", "local/prepare_data.sh", *options, f"--data={tried}"], cwd=folder, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True)
    shutil.rmtree(tried, ignore_errors=True)
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["local/prepare_data.sh failed"])[-1]
        for part, place in (("test", what.test_data), ("dev", what.dev_data or what.train_data), ("given", what.train_data),
                            ("train", what.train_data)):
            line = line.replace(str(tried / part), place)
        raise UserError(re.sub(r"^[\w.]+: ", "", line))


def quoted(text: str) -> str:
    """Quotes a text as the value of an option at the top of a script, as utils/parse_options.sh reads it; UserError where no
    quotes can hold it."""
    if _PLAIN.fullmatch(text):
        return text
    if not set(text) & set('"$`\\\n'):
        return f'"{text}"'
    if not set(text) & set("'\n"):
        return f"'{text}'"
    raise UserError(f"{text!r}: holds an apostrophe and a quotation mark, $, ` or \\, or a line break; a script can hold no such "
                    "name; choose another")


def _option(assignment: str, comment: str) -> str:
    """Writes the line of an option, with its comment in the column of the others where there is room."""
    return f"{assignment:<29} # {comment}\n" if len(assignment) < 30 else f"{assignment}  # {comment}\n"


def fill(text: str, values: dict[str, str]) -> str:
    """Fills in a template: replaces its @WORDS@, each of which must have a value."""
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text)


def _aligned(head: str) -> str:
    """Puts the comments of a filled-in head's options in one column."""
    return re.sub(r"""^([a-z_]+=(?:'[^'\n]*'|"[^"\n]*"|\S*)) *# (.*)\n""", lambda found: _option(*found.groups()), head,
                  flags=re.MULTILINE)


def _once(pattern: str, by: str, text: str) -> str:
    """Replaces the one place that matches a pattern; UserError where there is none, or more than one."""
    text, count = re.subn(pattern, lambda _: by, text, flags=re.MULTILINE)
    if count != 1:
        raise UserError(f"egs/{BASE}/run.sh: {count} lines where svq/recipe/new.py knows one: {pattern}")
    return text


def _between(text: str, start: str, end: str | None) -> str:
    """Cuts out the lines from the first that matches `start` up to the next that matches `end` (None: to the end)."""
    first = re.search(start, text, re.MULTILINE)
    last = re.compile(end, re.MULTILINE).search(text, first.end()) if first and end else None
    if not first or (end and not last):
        raise UserError(f"egs/{BASE}/run.sh: no lines between {start} and {end}, as svq/recipe/new.py knows them")
    return text[first.start():last.start() if last else len(text)]


def _template(name: str) -> str:
    return (ROOT / "utils" / "new_recipe" / name).read_text()


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


def _link(path: Path, target: Path) -> None:
    path.symlink_to(os.path.relpath(target, path.parent))
