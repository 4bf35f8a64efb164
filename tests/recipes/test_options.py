"""Every recipe refuses bad options at once, and evaluates none."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.recipes.conftest import ROOT, run_recipe

RECIPES = sorted(path.parent.name for path in (ROOT / "egs").glob("*/run.sh"))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("options, told", [
    (("--stage",), "needs a value"),
    (("--stage", "five"), "takes an integer"),
    (("--no-such-option", "1"), "unknown option"),
    (("--stage", "3", "--stop-stage", "2"), "nothing to do"),
    (("--int8-runtime", "magic", "--dry-run"), "--int8-runtime is openvino or onnxruntime, not 'magic'"),
])
def test_bad_option_exits_2(recipe, options, told):
    output = run_recipe(recipe, *options, status=2)
    assert told in output and len(output.splitlines()) == 1


@pytest.mark.skipif(not shutil.which("dash"), reason="no shell here that is not bash")
@pytest.mark.parametrize("recipe", RECIPES)
def test_another_shell_hands_over_to_bash(recipe):
    command = ["dash", "run.sh", "--title", "two words", "--stage", "x"]
    done = subprocess.run(command, cwd=ROOT / "egs" / recipe, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "run.sh: --stage takes an integer, not 'x'\n")


@pytest.mark.parametrize("recipe", RECIPES)
def test_option_values_are_not_evaluated(recipe, tmp_path):
    victim = tmp_path / "touched"
    run_recipe(recipe, "--stage", f"$(touch {victim})", status=2)
    run_recipe(recipe, "--title", f"$(touch {victim})`touch {victim}`", "--exp", f"$(touch {victim})",
               "--dry-run")
    assert not victim.exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_names_the_options_and_story_is_short(recipe):
    output = run_recipe(recipe, "--help")
    for option in ("--stage", "--stop-stage", "--dry-run", "--force", "--systems", "--nj"):
        assert option in output
    assert len((ROOT / "egs" / recipe / "run.sh").read_text().splitlines()) < 310
