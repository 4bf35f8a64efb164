"""The cnceleb recipe: a list beside those of another recipe, whose systems it tests."""

from __future__ import annotations

from tests.local import out_of_domain
from tests.local.helpers import trials
from tests.recipes.conftest import run_recipe


def test_prepares_its_list_among_the_data_of_another_recipe(tmp_path):
    root = out_of_domain.cnceleb(tmp_path / "it's a corpus", dev=1, second=0)
    options = ("--cnceleb1", root / "CN-Celeb_flac", "--counts", root / "counts", "--data", tmp_path / "data",
               "--exp", tmp_path / "exp", "--systems", "teacher", "--backends", "cosine")
    run_recipe("cnceleb", *options, "--stop-stage", 1)
    for name in ("trials", "trials_concat"):
        assert len(trials(tmp_path / "data" / "cnceleb" / name)) == 48
    plan = run_recipe("cnceleb", *options, "--dry-run")
    assert "make_fbank.sh" in plan and "prepare_cnceleb" not in plan.partition("stage 2")[2]
    assert f"{tmp_path}/exp/teacher/model.safetensors is missing: ../voxceleb/run.sh makes it" in plan


def test_other_corpora_beside_it(tmp_path):
    root = out_of_domain.cnceleb(tmp_path / "cnceleb", dev=1, second=0)
    common, tube = out_of_domain.commonbench(tmp_path / "common voice"), out_of_domain.voxtube(tmp_path / "voxtube")
    options = ("--cnceleb1", root / "CN-Celeb_flac", "--counts", root / "counts", "--commonbench", common, "--voxtube",
               tube / "audio", "--voxtube-meta", tube / "resources", "--data", tmp_path / "data", "--exp", tmp_path / "exp",
               "--voxtube-speakers", 0, "--systems", "teacher", "--nj", 1)
    run_recipe("cnceleb", *options, "--comparisons", common / "comparisons.csv", "--stop-stage", 1)
    for name in ("commonbench", "voxtube"):
        assert trials(tmp_path / "data" / name / "trials") and (tmp_path / "data" / name / "utt2domain").exists()
    told = run_recipe("cnceleb", *options, "--exp", tmp_path / "other", "--stop-stage", 0, status=1)
    assert "the list of CommonBench is missing: --comparisons names it" in told


def test_missing_corpus_and_recipe_are_named(tmp_path):
    options = ("--cnceleb1", tmp_path / "none", "--exp", tmp_path / "exp", "--stop-stage", 0)
    output = run_recipe("cnceleb", *options, status=1)
    assert str(tmp_path / "none") in output and "openslr.org/82" in output
    output = run_recipe("cnceleb", "--from", tmp_path, "--exp", tmp_path / "exp", status=1)
    assert f"{tmp_path} is not the folder of a recipe" in output
