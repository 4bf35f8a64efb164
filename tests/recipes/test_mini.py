"""The mini recipe at debug size: what comes out, what is redone, what a killed run leaves."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys

from svq.cascade.ladder import load_ladder
from svq.report.results import read_results
from tests.recipes.conftest import KEPT, NOT_RESULTS, ROOT, SYSTEMS, run_recipe

sys.path.append(str(ROOT / "utils"))
from stamps import read_stamp  # noqa: E402


def test_results_hold_every_system_list_back_end_and_normalization(mini):
    rows = read_results(mini[0].exp / "results.tsv")
    expected = itertools.product(SYSTEMS, ("dev", "test", "test_all"), ("cosine", "plda"), ("none", "asnorm"))
    assert [(r.system, r.trials, r.backend, r.norm) for r in rows] == list(expected)
    for row in rows:
        row_of_system = row.system.partition("_")[2]
        bits = {"kmqat4-ptq": 4, "kmqat4-ptq-int8": 8, "adaptive": 1, "mixed2": 2, "best2": 2, "nested4": 4,
                "nested4-2bit": 2}.get(row_of_system, 32)
        between = {"mixed2": (1, 2), "best2": (1, 2), "selected8-ptq": (8, 32)}.get(row_of_system, (bits, bits))
        assert between[0] <= row.avg_bits <= between[1]
        assert 0 <= row.eer <= 100 and row.params > 0
        names = ["model.svq"] if row_of_system else ["model.safetensors"]
        if row.system.endswith("-int8"):
            names = ["model.xml", "model.bin"]
        assert row.size_bytes == sum((mini[0].exp / row.system / name).stat().st_size for name in names)


def test_report_is_one_page_with_plots(mini):
    page = (mini[0].exp / "report.html").read_text()
    assert page.count("<svg") >= 10 and "teacher_mixed2" in page
    assert not re.search(r"(src|href)=[\"']?https?:", page)


def test_quantization_has_figures_and_tables(mini):
    for parent, figures in (("teacher", ("frontier_test", "levels_4bit", "bits_by_layer", "binarized", "weights")),
                            ("student", ("frontier_test", "levels_3bit", "weights"))):
        folder = mini[0].exp / "quantization" / parent
        for name in ("index.html", "results.md", "results.tex", *(f"{figure}.svg" for figure in figures)):
            assert (folder / name).stat().st_size > 500, name
    bits = (mini[0].exp / "teacher_mixed2" / "bits.tsv").read_text()
    assert bits.count("\n") > 20 and "embedding" in bits


def test_analysis_is_of_scores_and_of_layers_before_and_after_finetuning(mini):
    folder = mini[0].exp / "analysis" / "teacher"
    scores = (folder / "scores" / "scores.md").read_text()
    assert "teacher_nested4-2bit" in scores and "student" not in scores
    for row in ("adaptive-ptq", "adaptive"):  # before finetuning and after it
        assert (folder / f"layers_{row}" / "index.html").stat().st_size > 5000
        assert "layers.0" in (folder / f"layers_{row}" / "layers.md").read_text()


def test_cascade_is_of_the_nested_file_and_the_float_network(mini):
    run = mini[0]
    folder = run.exp / "cascade" / "teacher_nested4-2bit-teacher_nested4-teacher"
    assert {row["list"] for row in rows_of(folder / "report" / "cascade.tsv")} == {"test", "test_all"}
    ladder = load_ladder(folder / "ladder.yaml")
    nested = str(run.exp / "teacher_nested4" / "model.svq")
    assert [(rung.model, rung.precision) for rung in ladder.rungs[:2]] == [(nested, 2), (nested, None)]
    assert all(rung.delta is not None for rung in ladder.rungs[:2]) and math.isfinite(ladder.operating.threshold)
    wavs = [line.split(maxsplit=1)[1] for line in (run.folder / "data" / "test" / "wav.scp").read_text().splitlines()]
    said = subprocess.run([sys.executable, "-m", "svq.bin.verify", "--cascade", folder / "ladder.yaml", wavs[0], "--",
                           wavs[0]], text=True, capture_output=True)
    assert said.returncode == 0 and "accept" in said.stdout, said.stderr
    assert not (run.exp / "cascade" / "teacher_adaptive-teacher_gone").exists()
    tests = len((run.folder / "data" / "test" / "trials_live").read_text().splitlines())
    measured = (folder / "report" / "cascade.md").read_text().split("### Measured")[1]
    assert f"over {tests:,} trials of test_live" in measured and "| teacher alone |" in measured


def rows_of(path) -> list[dict[str, str]]:
    lines = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return [dict(zip(lines[0], line)) for line in lines[1:]]


def test_table_of_bits_made_by_hand_is_taken(mini):
    run = mini[0]
    table = run.folder / "conf" / "mixed2.bits.tsv"
    table.write_text((run.exp / "teacher_mixed2" / "bits.tsv").read_text())
    try:
        plan = run_recipe("mini", *run.options, "--dry-run", "--stage", 5, "--stop-stage", 5)
    finally:
        table.unlink()
    assert f"--bits {table}" in plan and "steps/allocate.sh" not in plan


def test_killed_training_ends_with_the_bytes_of_an_undisturbed_one(mini):
    killed, undisturbed = mini
    log = killed.bytes_of("teacher/log/train.log").decode()
    assert "resuming from" in log
    for name in ("model.safetensors", "head.safetensors", "config.yaml", "speakers.txt"):
        assert killed.bytes_of(f"teacher/{name}") == undisturbed.bytes_of(f"teacher/{name}"), name


def test_a_stamp_tells_of_every_result(mini):
    """So that one that is lost is made again."""
    exp = mini[0].exp
    told = {path for stamp in exp.rglob(".done.*") for path in (read_stamp(stamp) or {"out": ()})["out"]}
    told = {os.path.realpath(os.path.join(ROOT, "egs/mini", path)) for path in told}
    names = {path: f"exp/{path.relative_to(exp)}" for path in exp.rglob("*") if path.is_file()}
    lost = [name for path, name in names.items() if os.path.realpath(path) not in told and not KEPT.search(name)
            and not NOT_RESULTS.search(name) and not re.search("/run(_alone/[^/]+)?/", name)]  # the last: seconds
    assert not lost


def test_run_again_redoes_nothing(mini):
    run = mini[0]
    before = times_of_results(run)
    output = run_recipe("mini", *run.options)
    assert " 0 made," in output and times_of_results(run) == before


def times_of_results(run) -> dict:
    """Modification times of all files but the lock and the stamps, whose notes of file times are refreshed."""
    files = (path for path in run.exp.rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files if not path.name.startswith((".lock", ".done."))}


def test_a_packed_file_that_is_gone_is_packed_again(mini):
    run = mini[0]
    packed = run.exp / "teacher_adaptive" / "model.svq"
    hidden = packed.rename(packed.with_suffix(".hidden"))
    try:
        plan = run_recipe("mini", *run.options, "--dry-run")
    finally:
        hidden.rename(packed)
    assert f"would make {packed.parent}/summary.json ({packed} is not there yet)" in plan and "dry run: 1 to make" not in plan


def test_changed_setting_redoes_that_stage_and_what_follows(mini):
    run = mini[0]
    config = run.folder / "conf" / "quant.yaml"
    text = config.read_text()
    try:
        config.write_text(text.replace("base: adaptive", "base: adaptive, quant: {per_channel: true}"))
        made = re.findall(r"would make (\S.*?) \(", run_recipe("mini", *run.options, "--dry-run"))
    finally:
        config.write_text(text)
    names = [name.rpartition("/exp/")[2] for name in made]
    assert names[0] == "teacher_adaptive/model.safetensors"
    # Both pages on quantization take the table of results, the analysis of scores all systems of the teacher.
    analysis = [f"analysis/teacher/{part}/index.html" for part in ("layers_adaptive-ptq", "layers_adaptive", "scores")]
    pages = ["results.tsv", "quantization/student/index.html", "quantization/teacher/index.html", *analysis]
    assert names[-len(pages):] == pages
    assert all(name.startswith("teacher_adaptive/") for name in names[:-len(pages)])
    stages = ("embeddings/test/embedding.scp", "scores/test/cosine_none.score", "scores/test/plda_asnorm.score",
              "scores/dev/cosine_none.llr", "summary.json")
    assert {f"teacher_adaptive/{stage}" for stage in stages} <= set(names)


def test_bad_setting_is_one_line_and_leaves_what_was_there(mini):
    run = mini[0]
    config = run.folder / "conf" / "teacher.yaml"
    text, model = config.read_text(), run.bytes_of("teacher/model.safetensors")
    try:
        config.write_text(text + "epoch: 3\n")
        output = run_recipe("mini", *run.options, "--stop-stage", 3, status=2)
        assert "unknown key 'epoch'; did you mean 'epochs'?" in output and len(output.splitlines()) == 1
    finally:
        config.write_text(text)
    assert run.bytes_of("teacher/model.safetensors") == model
    run_recipe("mini", *run.options, "--stop-stage", 3)


def test_packed_model_is_what_was_scored(mini):
    import torch

    from svq.models import load_model

    exp = mini[0].exp
    for system in ("teacher_best2", "teacher_mixed2", "teacher_adaptive"):
        trained, config = load_model(exp / system)
        packed, packed_config = load_model(exp / system / "model.svq")
        assert packed_config == config
        feats = torch.randn(3, 100, config.front_end.num_mels, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            cosine = torch.nn.functional.cosine_similarity(trained(feats), packed(feats))
        assert (1 - cosine).max() < 1e-4


def test_selected_blocks_stay_in_float_and_the_packed_file_says_so(mini):
    from svq.bits.table import read_bits
    from svq.models import load_model
    from svq.nets.blocks import blocks_of
    from svq.quant.api import quantizable

    exp = mini[0].exp
    bits = {row.layer: row.bits for row in read_bits(exp / "teacher_selected8-ptq" / "bits.tsv")}
    assert set(bits.values()) <= {8, 32}
    net, config = load_model(exp / "teacher_selected8-ptq" / "model.svq")
    assert {name: config.quant.bits_of(name) for name, _ in quantizable(net)} == bits
    steps = (exp / "teacher_selected8-ptq" / "steps.tsv").read_text().splitlines()
    kept = {line.split("\t")[0] for line in steps[1:] if line.split("\t")[1] == "left in float"}
    assert {name for block, names in blocks_of(net, "block").items() for name in names if block in kept} == {
        name for name, found in bits.items() if found == 32}
    blocks = (exp / "teacher" / "blocks_selected8" / "blocks.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in blocks if line.startswith(("float\t", "all\t"))] == ["float", "all"]


def test_int8_system_is_scored_by_its_runtime(mini):
    from svq.deploy.runtimes import load_embedder

    folder = mini[0].exp / "student_kmqat4-ptq-int8"
    embedder = load_embedder(folder / "model.xml")
    assert embedder.backend == "openvino" and embedder.metadata.precision == "int8"
    assert "Ended (code 0)" in (folder / "embeddings" / "log" / "extract.1.log").read_text()
    assert (folder / "scores" / "test" / "cosine_asnorm.score").exists()


def test_search_has_a_best_system_and_a_table_of_costs(mini):
    folder = mini[0].exp / "student" / "search"
    assert (folder / "best" / "model.safetensors").exists() and (folder / "best.yaml").exists()
    rows = [line.split("\t")[0] for line in (folder / "report" / "tradeoff.tsv").read_text().splitlines()]
    assert rows[1:] == ["student", "student_kmqat4-ptq", "student_kmqat4-ptq-int8", "best"]


def test_packed_calibration_is_that_of_the_scores(mini, tmp_path):
    """A packed file from the recipe decides by itself: its calibration knows the mean that its scores are without."""
    import numpy as np

    from svq import Verifier
    from svq.backend.embeddings import read_vector

    folder = mini[0].exp / "teacher_adaptive"
    calibration = Verifier.load(folder / "model.svq").calibration
    mean = read_vector(folder / "embeddings" / "cohort" / "mean.vec")
    assert calibration.score == "cosine_none" and np.array_equal(calibration.mean_vector(), mean.astype(np.float32))
