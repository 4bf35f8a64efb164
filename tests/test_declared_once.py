"""An option is declared once: in the worker that it is for, or in the step that needs it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "utils"))
import declared  # noqa: E402

FORWARDED = declared.of_folder(str(ROOT / "steps"))
# What a step declares though a worker that it calls has an option of that name: another one, or of another default.
OWN = {
    "compress.sh": {"out": "the folder of the compression; its workers get the folders within"},
    "extract.sh": {"sets": "between blanks; the worker gets those that are not up to date"},
    "score.sh": {"lists": "trial lists; the worker gets LIST:BACKEND:NORM of those that are not up to date",
                 "threads": "which the dispatcher reserves; the worker takes all that its machine has"},
    "train.sh": {"targets_ark": "one path, blanks and all, or several between blanks; the worker gets a word for each"},
    "score_norm.sh": {"lists": "as of score.sh", "threads": "as of score.sh"},
}
STEPS = [path for path in sorted((ROOT / "steps").glob("*.sh")) if path.name not in ("lists.sh", "systems.sh")]


def own_options(script: Path) -> set[str]:
    """The options that a step declares at its top."""
    head, _, rest = script.read_text().partition("utils/parse_options.sh")
    assert rest
    return set(re.findall(r"^([a-z][a-z0-9_]*)=", head, re.MULTILINE))


def options_of_worker(module: str) -> set[str]:
    """Those of a worker, and of all its verbs."""
    parser = declared.parser_of(module)
    verbs = [verb for action in parser._actions for verb in getattr(action, "choices", None) or ()
             if action.dest == "verb"]
    found = [declared.options_of(parser)] + [declared.options_of(declared.parser_of(module, verb)) for verb in verbs]
    return {name for options in found for name in options}


@pytest.mark.parametrize("script", STEPS, ids=lambda path: path.name)
def test_no_step_declares_what_a_worker_of_its_declares(script):
    modules = set(re.findall(r"-m (svq\.bin\.[a-z_]+)", re.sub(r"^\s*#.*", "", script.read_text(), flags=re.MULTILINE)))
    theirs = set().union(*map(options_of_worker, modules))
    assert own_options(script) & theirs == set(OWN.get(script.name, {}))


def test_every_step_forwards_what_its_workers_declare():
    wrong = {script: found for script, found in FORWARDED.items() if isinstance(found, declared.Wrong)}
    assert not wrong
    forwarding = {Path(script).name for script in FORWARDED}
    assert {script.name for script in STEPS} - forwarding == {"at_precision.sh", "make_ladder.sh"}  # nothing to forward
    assert sum(len(options) for found in FORWARDED.values() for _, _, options in found) > 200


@pytest.mark.parametrize("script", sorted(FORWARDED), ids=lambda path: Path(path).name)
def test_a_step_hands_on_all_that_it_forwards_and_leaves_it_as_it_is(script):
    body = Path(script).read_text().partition("utils/parse_options.sh")[2]
    for array, worker, options in FORWARDED[script]:
        assert f"\"${{{array}[@]}}\"" in body or Path(script).name == "compress.sh", worker
        if Path(script).name != "compress.sh":
            changed = [name for name in options if re.search(rf"(^|[ ;]){name}\+?=", body, re.MULTILINE)]
            assert changed in ([], ["restart"]), worker  # steps/search.sh: --force begins anew what true set aside
