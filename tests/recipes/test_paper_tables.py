"""The tables of Liu et al., each trained and scored by its own command, from networks and data of debug size.

The settings are those of egs/voxceleb/conf with all that takes time made small. Some hundred trainings: `bash tests/run.sh
--tables`. What the commands would do at full size: test_tables.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from svq.report.results import read_results
from tests.recipes.conftest import ROOT
from tests.recipes.test_tables import TABLES, VOXCELEB, published
from tests.recipes.voxceleb_miniature import miniature

pytestmark = pytest.mark.skipif(not os.environ.get("SVQ_TABLES"), reason="bash tests/run.sh --tables runs it")

SMALL = {"epochs": 4, "batch_size": 16, "average": 1, "num_threads": 1, "precision": "fp32",
         "data": {"crop_seconds": 0.5, "num_workers": 1},
         "schedule": {"warmup_epochs": 0.5, "margin_start_epoch": 0, "margin_full_epoch": 1}}
WIDTHS = {"teacher": {"width": 2}, "resnet101": {"width": 2}, "dfresnet110": {"width": 4}, "dfresnet179": {"width": 4},
          "thinresnet34": {"width": 2}, "fastresnet34": {"width": 2}}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Options and environment of the recipe at debug size; all tables share networks and data, as at full size."""
    folder = tmp_path_factory.mktemp("tables of a paper")
    shrink(VOXCELEB / "conf", folder / "conf")
    return miniature(folder)


def shrink(whole: Path, folder: Path) -> None:
    """Copies settings, such that a file and its rows are as they are but for sizes and times."""
    folder.mkdir()
    shared = [str(whole / "quant.yaml"), str(ROOT / "conf" / "quant.yaml")]
    for path in sorted(whole.glob("*.yaml")):
        settings = {"base": str(path), **SMALL}
        if path.stem in ("aggregation", "search"):
            settings = yaml.safe_load(path.read_text())
        elif path.stem.endswith("quant"):
            (folder / path.name).write_text(shrunk_rows(yaml.safe_load(path.read_text())))
            continue
        elif path.stem == "finetune":
            settings["rows"] = ["quant.yaml", *shared]
        elif path.stem.endswith("finetune"):
            settings["rows"] = ["dfresnet110.quant.yaml", str(whole / "dfresnet110.quant.yaml"), *shared]
        elif path.stem in WIDTHS:
            settings["model"] = {"net": WIDTHS[path.stem], "embed_dim": 16}
        lines = [f"{key}: {value if key == 'base' else json.dumps(value)}\n" for key, value in settings.items()]
        (folder / path.name).write_text("".join(lines))


def shrunk_rows(rows: dict) -> str:
    """Gives a table of the rows that have epochs of their own, with fewer of these."""
    return "".join(f"{name}: {{base: {name}, epochs: {SMALL['epochs']}}}\n" for name, row in rows.items() if "epochs" in row)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_one_command(small, table):
    options, environment = small
    command = ["bash", "local/table.sh", table, *map(str, options), "--systems-nj", "2", "--stop-stage", "12"]
    done = subprocess.run(command, cwd=VOXCELEB, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    exp = Path(options[options.index("--exp") + 1])
    rows = read_results(exp / table / "results.tsv")
    assert {row.system for row in rows} >= set(published(TABLES[table][0]))
    assert {(row.backend, row.norm) for row in rows} == {("cosine", "asnorm")}
    lists = {"dev", "vox1_H"} if table == "table_5" else {"dev", "vox1_O", "vox1_E", "vox1_H"}
    assert {row.trials for row in rows} == lists and all(0 <= row.eer <= 100 for row in rows)
    told = (exp / table / "table.md").read_text()
    assert all(f"| {row.system} |" in told for row in rows)
