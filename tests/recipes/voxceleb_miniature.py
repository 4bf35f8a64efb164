"""VoxCeleb, MUSAN and rooms in their official layouts, filled with the speech of the mini recipe."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests import warm
from tests.local import corpora
from tests.recipes.conftest import ROOT, run_recipe


def miniature(folder: Path) -> tuple[list, dict[str, str]]:
    """Makes the corpora in `folder`. Returns options and environment for egs/voxceleb to run on them, in `folder` too,
    with the settings in `folder`/conf."""
    run_recipe("mini", "--debug", "--corpus", folder / "corpus", "--data", folder / "mini", "--exp", folder / "none",
               "--stop-stage", 1)
    parts = [str(folder / "mini" / part) for part in ("train", "dev", "test")]
    environment = {**os.environ, "PATH": f"{ROOT / 'utils'}:{os.environ['PATH']}"}
    voices = folder / "voices"
    subprocess.run(["bash", "utils/combine_data.sh", str(voices), *parts], cwd=ROOT, env=environment, check=True)
    tree = folder / "official layout"
    corpora.voxceleb(tree, source=voices)
    corpora.musan(tree)
    corpora.rirs_noises(tree)
    options = ["--vox1", tree / "vox1", "--vox2", tree / "vox2", "--lists", tree / "trials", "--musan", tree / "musan",
               "--rirs", tree / "RIRS_NOISES", "--conf", folder / "conf", "--data", folder / "data", "--exp",
               folder / "exp", "--counts", tree / "counts", "--dev-speakers", "4", "--nj", "2", "--extract-nj", "1",
               "--cohort-per-spk", "4"]
    stand_in = ROOT / "tests" / "local" / "stand_in"
    return options, {**os.environ, **warm.environment(), "PATH": f"{stand_in}:{os.environ['PATH']}"}
