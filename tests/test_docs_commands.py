"""Commands of README and docs are run: recipes and steps dry, workers as far as their options, benches at a small size,
jobs of Slurm as far as sbatch, and what starts the tests as far as pytest."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_docs import COMMANDS, name_of, program_of

# Commands that download or install (tests/utils/test_setup.py, tests/test_package.py and tests/local/ run them on machines
# that only note what is asked).
ELSEWHERE = re.compile(r"^(utils/setup\.sh|local/download_.*|npm|pip|git|cp)$")
KINDS = {"tests/run.sh": "tests", "utils/slurm.py": "slurm", "utils/submit.sh": "submitted", "cd": "shell", "export": "shell",
         ".": "shell", "svq": "shell"}


def kind_of(words: list[str], recipe: str) -> str:
    """recipe, script, worker, bench, tests, slurm, submitted, shell, or "" for what is not run here.

    Those of a recipe that the reader makes are not: tests/recipes/test_new_recipe.py runs them.
    """
    program, _ = program_of(words)
    if recipe == "mine" or "egs/mine" in words or ELSEWHERE.search(program):
        return ""
    if program in KINDS:
        return KINDS[program]
    if program.startswith("tests/bench/"):
        return "bench"
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


# Benches that take half a minute and more however small: SVQ_BENCHES=1 runs them, too.
LONG = ("allocation.py", "compact.py", "latency.py", "loader.py", "without_vnni.py")
# Options that make a bench small: does it run.
SMALL = {
    "allocation.py": "--width 4 --averages 2 --repeats 1", "compact.py": "--network ECAPALite --bits 2 --rounds 1",
    "data_dirs.py": "--utterances 2000 --speakers 64", "extract.py": "--width 4 --utterances 2 --threads 1",
    "fbank.py": "--repeats 1",
    "latency.py": "--networks ECAPALite --threads 1 --batches 1 --seconds 0.5 --rounds 1",
    "loader.py": "--utts 90 --batches 1 --rounds 1", "quantizers.py": "--quick --methods kmqat4",
    "scoring.py": "--utterances 200 --dim 8 --trials 500 --cohort 20 --top-n 5 --repeats 1",
    "sizes.py": "ecapalite", "train.py": "--quick --repeats 1"}


def benches() -> list[str]:
    """The commands of benches in the pages and in their own README, each once, without what the reader fills in."""
    listed = re.findall(r"^\| `(python3 tests/bench/[^`]*)`", (ROOT / "tests/bench/README.md").read_text(), re.MULTILINE)
    found = [*(shlex.join(words) for _, words, recipe in COMMANDS if kind_of(words, recipe) == "bench"), *listed]
    return list(dict.fromkeys(re.sub(r"(?: --\w+)? [A-Z]+(?: \.\.\.)?$", "", command) for command in found))


@pytest.mark.parametrize("command", benches())
def test_benches_run(command, tmp_path):
    words = command.split()
    name = words[-1].rpartition("/")[2]
    if any(long in command for long in LONG) and not os.environ.get("SVQ_BENCHES"):
        pytest.skip("half a minute and more: SVQ_BENCHES=1 runs it")
    if "without_vnni.py" in command and not all(map(shutil.which, ("gcc", "objdump"))):
        pytest.skip("without_vnni.py needs gcc and objdump")
    small = SMALL.get(name, "").split()
    if name == "without_vnni.py":
        small = [sys.executable, "-c", "print('ran')"]
    done = subprocess.run([sys.executable, *words[1:], *small], cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and done.stdout, done.stderr


def test_shells_take_what_they_are_given():
    asked = {shlex.join(words): None for _, words, recipe in COMMANDS if kind_of(words, recipe) == "shell"}
    for command in asked:
        done = subprocess.run(["bash", "-euc", f". ./path.sh\n{command}"], cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, (command, done.stderr)
    assert {"svq --help", ". ./path.sh", "cd egs/mini"} <= set(asked)


SBATCH = """#!/bin/sh
printf '%s\\n' "$@" > "$SAID"
cat > /dev/null
echo 17
"""


def test_slurm_gets_what_it_is_given(tmp_path):
    """On a cluster of an sbatch that notes its options; the recipe in place of egs/voxceleb does nothing."""
    recipe = tmp_path / "recipe"
    for folder in (tmp_path / "bin", recipe):
        folder.mkdir()
    (recipe / "run.sh").touch()
    for name, text in (("sbatch", SBATCH), ("squeue", "#!/bin/sh\n"), ("scontrol", "#!/bin/sh\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    said = tmp_path / "said"
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SAID": str(said)}
    asked = [words for _, words, place in COMMANDS if kind_of(words, place) in ("slurm", "submitted")]
    for words in asked:
        program, options = program_of(words)
        if program == "utils/slurm.py":   # as cmd.sh names it; submitted without waiting
            command = [sys.executable, ROOT / "utils/slurm_submit.py", *options, tmp_path / "a.log", "true"]
        else:
            command = ["bash", ROOT / program, *(recipe if word == "egs/voxceleb" else word for word in options)]
        said.unlink(missing_ok=True)
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=env)
        assert done.returncode == 0 and "submitted job 17" in done.stdout, (words, done.stderr)
        told = said.read_text().splitlines()
        for option in {"--mem", "--partition", "--time"} & set(options):
            assert f"{option}={options[options.index(option) + 1]}" in told, (words, told)
    assert len(asked) >= 5


def test_tests_start_with_what_they_are_given(tmp_path):
    """In a tree where python3 only notes what it is given."""
    for name in ("tests", "utils", "bin"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "tests/run.sh", tmp_path / "tests")
    (tmp_path / "utils/setup.sh").touch()
    (tmp_path / "path.sh").write_text("")
    for name, text in (("python3", 'echo "$@"'), ("slurmctld", ":"), ("munged", ":")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    told = {}
    for words in {tuple(words): None for _, words, recipe in COMMANDS if kind_of(words, recipe) == "tests"}:
        _, options = program_of(list(words))
        done = subprocess.run(["bash", "tests/run.sh", *options], cwd=tmp_path, text=True, capture_output=True,
                              env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
        assert done.returncode == 0 and "-m pytest" in done.stdout, (words, done.stderr)
        assert all((ROOT / word).exists() for word in options if "/" in word)
        told[" ".join(options)] = done.stdout.strip()
    assert told[""].endswith("tests -m not slow") and "not slow" not in told["--all"] and len(set(told.values())) == len(told)


def test_most_commands_are_run():
    kinds = [kind_of(words, recipe) for _, words, recipe in COMMANDS]
    print({kind: kinds.count(kind) for kind in set(kinds)})
    assert sum(map(bool, kinds)) > 0.85 * len(kinds)
