"""The voxceleb recipe on a miniature of the official layouts, filled with mini speech."""

from __future__ import annotations

import subprocess
from collections import Counter

from svq.report.results import read_results
from tests.recipes.conftest import ROOT, copy_conf, run_recipe
from tests.recipes.voxceleb_miniature import miniature


def test_missing_corpora_are_named_with_their_source(tmp_path):
    output = run_recipe("voxceleb", "--vox1", tmp_path / "none", "--exp", tmp_path / "exp", "--data",
                        tmp_path / "data", "--stop-stage", 0, status=1)
    assert str(tmp_path / "none") in output and "openslr.org" in output


def test_whole_recipe(tmp_path):
    copy_conf(tmp_path / "conf")
    finetuning = tmp_path / "conf" / "finetune.yaml"
    finetuning.write_text(finetuning.read_text().replace("input: feats", "input: wav"))  # no features of all speeds
    options, environment = miniature(tmp_path)
    run_recipe("voxceleb", *options, "--systems", "teacher teacher_kmqat4", "--backends", "cosine", **environment)
    rows = read_results(tmp_path / "exp" / "results.tsv")
    lists = ("dev", "vox1_O", "vox1_E", "vox1_H")
    assert [(r.system, r.trials, r.norm) for r in rows] == [
        (system, name, norm) for system in ("teacher", "teacher_kmqat4") for name in lists for norm in ("none", "asnorm")]
    counts = {name: utterances_of_speakers(tmp_path / "data" / name) for name in ("train", "cohort")}
    assert counts["cohort"] == {speaker: min(4, count) for speaker, count in counts["train"].items()}
    assert len((tmp_path / "data" / "cohort" / "feats.scp").open().readlines()) == sum(counts["cohort"].values())
    means = sorted(path.name for path in (tmp_path / "exp" / "teacher" / "embeddings" / "cohort").glob("[!.]*.*"))
    assert means == ["mean.vec", "spk_embedding.ark", "spk_embedding.scp"]  # and no embedding of an utterance
    assert not (tmp_path / "data" / "train_sp").exists() and list((tmp_path / "data" / "train_wav" / "shards").glob("*.tar"))
    speakers = (tmp_path / "exp" / "teacher" / "speakers.txt").read_text().split()
    assert len(speakers) == 3 * len(counts["train"])
    assert {name.split("-")[0] for name in speakers} >= {"sp0.9", "sp1.1"}
    a_table_of_the_paper(tmp_path / "exp", options, environment)


def a_table_of_the_paper(exp, options, environment):
    """Table II, of which two systems are made already."""
    before = {name: (exp / name / "model.safetensors").stat().st_mtime_ns for name in ("teacher", "teacher_kmqat4")}
    command = ["bash", "local/table.sh", "table_2", *options, "--stop-stage", "11"]
    done = subprocess.run(command, cwd=ROOT / "egs" / "voxceleb", env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert before == {name: (exp / name / "model.safetensors").stat().st_mtime_ns for name in before}
    rows = read_results(exp / "table_2" / "results.tsv")
    assert {(row.system, row.backend, row.norm) for row in rows} == {
        (name, "cosine", "asnorm") for name in ("teacher", "teacher_kmqat4-asymmetric", "teacher_kmqat4")}
    assert "| teacher_kmqat4-asymmetric |" in (exp / "table_2" / "table.md").read_text()


def utterances_of_speakers(folder) -> dict[str, int]:
    return dict(Counter(line.split()[1] for line in (folder / "utt2spk").open()))
