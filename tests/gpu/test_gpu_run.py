"""tests/gpu/run.sh itself, where there is no GPU."""

import os
import re
import subprocess

import pytest
import torch

from tests.conftest import ROOT
from tests.gpu.check import Output, checked
from tests.gpu import correctness
from tests.gpu.correctness import CHECKS
from tests.gpu.synthetic import TOY
from tests.simulated_device import simulated_device


def run(*arguments):
    return subprocess.run(["bash", str(ROOT / "tests/gpu/run.sh"), *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 0 and done.stdout.startswith("no CUDA device here") and not done.stderr


def test_all_of_it_at_toy_size(tmp_path):
    done = run("--device", "cpu", "--toy", "--out", tmp_path / "gpu.md")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "gpu.md").read_text()
    assert page == done.stdout and "FAILED" not in page and "Error" not in page and "All checks passed" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len([row for row in rows if re.search(r"svq, .* \| [\d,.]+ \|", row)]) == 12
    assert sum(check.__doc__.splitlines()[0] in page for check in CHECKS) == len(CHECKS) == 9


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("name", ["augmentation", "extraction", "sensitivities", "calibration", "resumption"])
def test_no_tensor_is_left_on_the_cpu(name):
    """The checks that need no card, on a simulated one: trainings, extraction, sensitivities, calibration."""
    with simulated_device() as device:
        assert getattr(correctness, name)(TOY, device)


def test_a_check_that_fails_is_named(capsys):
    def sound(size, device):
        """Holds."""
        return "as it should"

    def broken(size, device):
        """Does not hold."""
        assert size is None, "something is\nwrong"

    assert checked([broken, sound], TOY, torch.device("cpu"), Output(None)) == ["broken"]
    said = capsys.readouterr().out
    assert "| Does not hold. | **FAILED**: AssertionError: something is wrong" in said and "| Holds. | as it should |" in said
