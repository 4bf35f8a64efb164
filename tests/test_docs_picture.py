"""The picture in the README shows the table that stands beside its script."""

import re
import subprocess
import sys

import matplotlib
import pytest

from tests.conftest import ROOT

PIN = re.search('matplotlib==([0-9.]+); python_version >=', (ROOT / "utils/requirements.txt").read_text())[1]


@pytest.mark.skipif(matplotlib.__version__ != PIN, reason=f"drawn by matplotlib {PIN}, byte for byte")
def test_the_picture_is_of_the_table(tmp_path):
    script = ROOT / "egs/speechocean762/results/draw_sizes.py"
    subprocess.run([sys.executable, script, tmp_path / "sizes.svg"], check=True)
    assert (tmp_path / "sizes.svg").read_bytes() == (ROOT / "docs/sizes.svg").read_bytes()
