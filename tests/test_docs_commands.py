"""Every command of README and docs is run: recipes and steps dry, workers as far as their options, `svq` on recordings."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_docs import COMMANDS, name_of, program_of

# Commands that install, start tests or benches, submit jobs or change the reader's shell; and those of a recipe that the
# reader makes, which tests/recipes/test_new_recipe.py runs.
ELSEWHERE = re.compile(r"^(utils/setup\.sh|tests/|local/download_|utils/(slurm|run)\.py|utils/submit\.sh|npm|pip|export|git|cp|cd|\.|svq)$|"
                       r"^tests/|^local/download_")


def kind_of(words: list[str], recipe: str) -> str:
    """recipe, script, worker, or "" for what is not run here."""
    program, _ = program_of(words)
    if recipe == "mine" or "egs/mine" in words or ELSEWHERE.search(program):
        return ""
    if program.endswith("run.sh") or program == "local/table.sh":
        return "recipe"
    return "worker" if program.startswith("svq.bin.") else "script"


def of_kind(kind: str) -> list:
    """Commands of one kind as pytest's parameters (words, recipe)."""
    found = {}
    for page, words, recipe in COMMANDS:
        if kind_of(words, recipe) == kind:
            found.setdefault((tuple(words), recipe), f"{name_of(page)}: {shlex.join(words)}"[:120])
    return [pytest.param(list(words), recipe, id=name) for (words, recipe), name in found.items()]


@pytest.mark.parametrize("words, recipe", of_kind("recipe"))
def test_recipes_say_what_they_would_do(words, recipe):
    """Nothing is there: begun at a later stage, a recipe names the one to begin with."""
    program, options = program_of(words)
    folder = Path(program).parts[1] if program.startswith("egs/") else recipe or "speechocean762"
    script = "local/table.sh" if program == "local/table.sh" else "run.sh"
    if "--help" not in options and "--dry-run" not in options:
        options = [*options, "--dry-run"]
    done = subprocess.run(["bash", script, *options], cwd=ROOT / "egs" / folder, text=True, capture_output=True)
    lacking = "--stage" in options and done.returncode == 1 and "go on with --stage" in done.stderr
    assert done.returncode == 0 or lacking, done.stderr or done.stdout


@pytest.mark.parametrize("words, recipe", of_kind("script"))
def test_scripts_take_what_they_are_given(words, recipe, tmp_path):
    """In an empty folder, for local/ one as a recipe's: what is read is missing, and that is all that is said."""
    program, options = program_of(words)
    made = {"local", "utils", "path.sh"} if program.startswith("local/") else set()
    for name in made:
        (tmp_path / name).symlink_to(ROOT / name)
    script = [program] if made else [ROOT / program]
    done = subprocess.run(["bash" if program.endswith(".sh") else sys.executable, *script, *options], cwd=tmp_path, text=True,
                          capture_output=True, env={**os.environ, "SVQ_DRY_RUN": "1"})
    told = (done.stderr + done.stdout).splitlines()
    lacking = done.returncode == 1 and re.search("missing|no such|not there|no scores|cannot be read", told[0])
    assert done.returncode == 0 or lacking and (len(told) == 1 or made), told
    assert {path.name for path in tmp_path.iterdir()} == made


# One process parses the options of all workers; argparse stops with status 2 at what a worker does not take.
PARSE = """
import argparse, contextlib, importlib, io, json, sys
class Parsed(BaseException): pass
whole = argparse.ArgumentParser.parse_known_args
depth = [0]
def parse(self, *args, **options):
    depth[0] += 1
    try:
        result = whole(self, *args, **options)
    finally:
        depth[0] -= 1
    if depth[0] or result[1]:
        return result
    raise Parsed
argparse.ArgumentParser.parse_known_args = parse
told = []
for worker, *words in json.loads(sys.argv[1]):
    sys.argv = [worker, *words]
    out = io.StringIO()
    try:
        with contextlib.redirect_stderr(out):
            importlib.import_module("svq.bin." + worker).main()
        told.append("ended without reading options")
    except Parsed:
        told.append("")
    except SystemExit:
        told.append(out.getvalue())
print(json.dumps(told))
"""


def test_workers_take_what_they_are_given():
    asked = []
    for page, words, recipe in COMMANDS:
        program, options = program_of(words)
        if kind_of(words, recipe) == "worker" and "--help" not in options:
            asked.append([program.removeprefix("svq.bin."), *options])
    done = subprocess.run([sys.executable, "-c", PARSE, json.dumps(asked)], cwd=ROOT, text=True, capture_output=True, check=True)
    wrong = [(words, told) for words, told in zip(asked, json.loads(done.stdout)) if told]
    assert not wrong and len(asked) > 20


def test_most_commands_are_run():
    kinds = [kind_of(words, recipe) for _, words, recipe in COMMANDS]
    print({kind: kinds.count(kind) for kind in set(kinds)})
    assert sum(map(bool, kinds)) > 0.6 * len(kinds)
