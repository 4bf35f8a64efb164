"""Hundreds of bad inputs over every road, in this process: each is refused in one line, or handled rightly.

A table says how many of each kind were tried, and what became of them.
"""

import ast
import math
import re
import resource
import subprocess

import pytest

from svq import numbers
from svq.cli import parser
from tests.conftest import ROOT
from tests.inputs import archive_cases, audio_cases, list_cases, model_cases, option_cases, store_cases, text_cases
from tests.inputs.outcome import HANDLED, REFUSED, SILENT, TRACEBACK, Case, outcome, table

MODULES = (audio_cases, list_cases, archive_cases, model_cases, store_cases, text_cases, option_cases)
CASES = [case for module in MODULES for case in module.cases()]
KINDS = list(dict.fromkeys(case.kind for case in CASES))
LEAST = 400
MEGABYTES = 500  # that the memory of this process may grow by, in all: the largest input has one


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Each case with its outcome, what was said, and by how much it raised this process's peak of memory."""
    import torch  # noqa: F401  imports are no part of any input

    for kind in ("folder", "svq", *(["onnx"] if "exported models" in KINDS else [])):
        model_cases.made(kind)
    folder, rows = tmp_path_factory.mktemp("inputs"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SVQ_ALLOW_PIPES", raising=False)
        for i, case in enumerate(CASES):
            before = peak()
            rows.append((case, *outcome(case, folder / str(i)), peak() - before))
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_refused_in_one_line_or_handled_rightly(found, kind):
    wrong = [f"{case.what}: {seen}: {said}" for case, seen, said, _ in found
             if case.kind == kind and seen not in (HANDLED, REFUSED)]
    assert not wrong, "\n".join(wrong)


def test_table(found, capsys):
    with capsys.disabled():
        print("\n" + table([(case, seen) for case, seen, _, _ in found]))
    assert len(found) >= LEAST and len({(case.kind, case.what) for case, *_ in found}) >= LEAST


def test_no_input_takes_memory_that_it_has_not(found):
    most = sorted(((grown, case.kind, case.what) for case, _, _, grown in found), reverse=True)[:5]
    assert sum(grown for *_, grown in found) < MEGABYTES, most


@pytest.mark.parametrize("run, words, right, expected", [
    (lambda _: 1 / 0, "", None, TRACEBACK), (lambda _: 1, None, None, SILENT), (lambda _: 1, None, (2).__eq__, SILENT),
    (lambda _: 1, None, (1).__eq__, HANDLED), (lambda _: open("/none/x"), "/none/x: No such", None, REFUSED),
    (lambda _: open("/none/x"), "another word", None, SILENT), (lambda _: open("/none/x"), None, (1).__eq__, SILENT),
    (lambda _: parser("x").parse_args(["--x"]), "unrecognized", None, REFUSED)])
def test_what_counts_as_what(tmp_path, run, words, right, expected):
    assert outcome(Case("kind", "what", run, words, right), tmp_path / "x")[0] == expected


def test_bash_and_python_read_the_same_numbers(tmp_path):
    """A word that utils/parse_options.sh takes for an integer or a number a worker takes, too, and no other."""
    script = tmp_path / "count.sh"
    script.write_text(f"count=4\nshare=0.5\n. \"{ROOT}/utils/parse_options.sh\"\n")
    for option, kind in (("count", int), ("share", float)):
        arguments = parser("x")
        arguments.add_argument(f"--{option}", type=kind)
        for word in option_cases.SPELLINGS:
            bash = subprocess.run(["bash", script, f"--{option}={word}"], capture_output=True).returncode
            try:
                taken = getattr(arguments.parse_args([f"--{option}={word}"]), option) == kind(word)
                python = 0 if taken else 1
            except SystemExit as ended:
                python = ended.code
            large = kind is float and bash == 0 and math.isinf(float(word))  # bash cannot tell
            expected = 2 if large else bash
            assert python == expected, (option, word, bash, python)


def test_no_file_of_a_user_is_opened_without_a_look():
    """Other ways to open one than svq.files: the kernel's own files, and what was written a moment ago."""
    allowed = {"svq/hardware.py": 3, "svq/search/storage.py": 2, "svq/data/fix.py": 2, "svq/atomic.py": 1,
        "svq/files.py": 1, "svq/deploy/seal.py": 1, "svq/bin/make_demo.py": 1}
    count: dict[str, int] = {}
    for path in sorted((ROOT / "svq").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "open":
                mode = ast.unparse(node.args[1]) if len(node.args) > 1 else "r"
                if not re.search("[wx]", mode.replace("mode", "" if path.name == "files.py" else "w")):
                    name = str(path.relative_to(ROOT))
                    count[name] = count.get(name, 0) + 1
    assert count == allowed


def test_recipes_whose_lists_run_commands_allow_them():
    makers = ("perturb_data_dir_speed", "prepare_voxceleb", "prepare_librispeech")
    for script in sorted(ROOT.glob("egs/*/run.sh")):
        text = script.read_text(encoding="utf-8")
        assert any(maker in text for maker in makers) == ("export SVQ_ALLOW_PIPES=" in text), script
    assert "SVQ_ALLOW_PIPES" not in "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("steps/*.sh"))


def test_numbers_of_tables_are_those_of_words():
    import numpy as np

    good = ["0", "-3", "2.5", ".5", "5.", "1e-3", "+7", "007"]
    assert numbers.numbers(np.array([word.encode() for word in good])).tolist() == [numbers.number(word)
        for word in good]
    for word in (word for word in option_cases.BAD if word.strip() == word and word != "+3" and len(word) < 99):
        for read in (numbers.number, lambda word: numbers.numbers(np.array([b"1", word.encode()]))):
            with pytest.raises(ValueError, match="is not a number"):
                read(word)
