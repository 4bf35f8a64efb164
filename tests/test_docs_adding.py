"""docs/adding.md: its quantizer and its network, added to a copy of the package as it says, and what it does with them."""

import re
import shutil
import subprocess
import sys

from tests.conftest import ROOT

# What the page calls "list it", a network being imported there, too: the module, who lists it, and where.
LISTED = {"quantile": ("svq/quant/methods.py", "METHODS = {"), "small": ("svq/nets/__init__.py", "FAMILIES = (")}


def test_the_page_adds_a_quantizer_and_a_network(tmp_path):
    shutil.copytree(ROOT / "svq", tmp_path / "svq", ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    *files, use = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    lines = re.findall(r"```text\n(.*?)```", page, flags=re.S)
    assert len(files) == len(lines) == len(LISTED)
    for block, line in zip(files, lines):
        path, content = block.removeprefix("# ").split("\n", 1)
        (tmp_path / path).write_text(content, encoding="utf-8")
        module = path.split("/")[-1].removesuffix(".py")
        listing, opening = LISTED[module]
        text = (tmp_path / listing).read_text(encoding="utf-8")
        assert text.count(f"\n{opening}") == 1
        text = re.sub(rf"(\n{re.escape(opening)}.*\n)", rf"\1{line}", text)
        package = path.rsplit("/", 1)[0].replace("/", ".")
        text = text.replace(f"\nfrom {package} import ", f"\nfrom {package} import {module}, ", 1)
        (tmp_path / listing).write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", use], cwd=tmp_path, capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
