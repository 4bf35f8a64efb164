"""Figures on quantization: the numbers beside them against numpy, and files that stand alone."""

import csv
import dataclasses
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm as normal

from svq.bin import quant_report
from svq.draw.page import tsv
from svq.errors import UserError
from svq.quant.api import quantizable
from svq.report import quant_page, quant_plots
from svq.report.results import read_results, write_results
from tests.helpers import run_worker
from tests.report import fake, quantized
from tests.report.test_html import Checker

FIGURES = ("frontier_test", "frontier_test_all", "levels_4bit", "levels_3bit", "bits_by_layer", "binarized", "weights")


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    quantized.write_exp(root)
    run_worker(quant_report.main, "--exp", root / "exp", "--parent", "small", "--title", "A <title>")
    return root / "exp"


def read(exp, name):
    with open(exp / "quantization" / "small" / f"{name}.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def floats(rows, *columns):
    return [np.array([float(row[column]) for row in rows]) for column in columns]


def weights():
    return {name: module.weight.detach().numpy().ravel() for name, module in quantizable(quantized.base_net())}


def test_every_figure_as_svg_and_tsv(exp):
    made = {path.name for path in (exp / "quantization" / "small").iterdir()}
    assert made == {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "tsv")} | {"index.html", "results.md", "results.tex"}
    for name in FIGURES:
        text = (exp / "quantization" / "small" / f"{name}.svg").read_text()
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in text and "#0001" not in text and "#0002" not in text and "nan" not in text


def test_the_page_needs_nothing_else(exp):
    page, checker = (exp / "quantization" / "small" / "index.html").read_text(), Checker()
    checker.feed(page)
    assert checker.open == [] and {ref[1:] for ref in checker.references} <= set(checker.ids)
    assert len(checker.ids) == len(set(checker.ids)) and page.count("<script") == 1
    assert all(ref.startswith("#") for ref in checker.references)
    assert [f'<section id="{name}">' in page for name in ("table", *FIGURES)] == [True] * (1 + len(FIGURES))
    assert "<h1>A &lt;title&gt;</h1>" in page and ">small_mixed2<" in page


def test_frontier_holds_the_results(exp):
    rows = {(r.system, r.trials): r for r in read_results(exp / "results.tsv") if r.norm == "asnorm"}
    for trials in quantized.LISTS:
        shown = read(exp, f"frontier_{trials}")
        assert [r["system"] for r in shown] == [
            "small", "small_float", "small_uniform4", "small_uniform2", "small_kmqat4", "small_kmqat4-r100",
            "small_kmqat2", "small_mixed2", "small_mixed2-onestage", "small_static", "small_adaptive"]
        assert [r["family"] for r in shown] == (["Float"] * 2 + ["Uniform"] * 2 + ["KMQAT"] * 3 + ["Mixed"] * 2
                                                + ["Static", "Adaptive"])
        for r in shown:
            known = rows[r["system"], trials]
            assert float(r["megabytes"]) == pytest.approx(known.size_bytes / 1e6)
            assert [float(r[k]) for k in ("eer", "eer_low", "eer_high")] == [known.eer, known.eer_low, known.eer_high]


@pytest.mark.parametrize("bits", [3, 4])
def test_levels_of_the_embedding_layer(exp, bits):
    rows, w = read(exp, f"levels_{bits}bit"), weights()["embedding"]
    names = ("histogram", "Uniform", "PoT", "APoT", "KMQAT")
    by_series = {name: [r for r in rows if r["series"] == name] for name in names}
    assert sum(map(len, by_series.values())) == len(rows)
    low, high, counts = floats(by_series.pop("histogram"), "low", "high", "weights")
    assert np.array_equal(low[1:], high[:-1])
    expected = np.histogram(w, np.append(low, high[-1]))[0]
    assert np.abs(counts - expected).sum() <= 2  # edges of seven digits
    for name, part in by_series.items():
        level, same, counts = floats(part, "low", "high", "weights")
        assert np.array_equal(level, same) and (np.diff(level) > 0).all() and len(level) <= 2**bits
        assert low[0] <= level[0] and level[-1] <= high[-1]
        nearest = np.bincount(np.abs(w[:, None] - level).argmin(1), minlength=len(level))
        assert np.abs(counts - nearest).sum() <= 4 and counts.sum() == w.size
    # KMQAT's levels are k-means: each is the mean of the weights nearest to it.
    levels = floats(by_series["KMQAT"], "low")[0]
    which = np.abs(w[:, None] - levels).argmin(1)
    np.testing.assert_allclose(levels, [w[which == k].mean() for k in range(2**bits)], rtol=1e-2, atol=1e-3)


def test_error_of_levels():
    weight = torch.tensor([[-1.0, -0.9, 0.9, 1.0]])
    found = quant_page.levels_of(weight, "adaptive", 1)
    deviation = float(weight.square().mean().sqrt())
    np.testing.assert_allclose(found.codebook, [-deviation, deviation], rtol=1e-6)
    assert found.counts.tolist() == [2, 2] and found.method == "Adaptive"
    w = weight.double().numpy()
    assert found.error == pytest.approx(((np.sign(w) * deviation - w) ** 2).sum() / (w**2).sum(), rel=1e-4)


def test_bits_beside_traces(exp):
    rows = read(exp, "bits_by_layer")
    w = weights()
    assert [row["layer"] for row in rows] == list(w)
    # small_mixed2-onestage has the same bits: shown once.
    assert list(rows[0]) == ["layer", "shape", "weights", "trace", "trace_std_error", "small_mixed2"]
    assert [int(row["small_mixed2"]) for row in rows] == [quantized.MIXED[i % 4] for i in range(len(rows))]
    assert [int(row["weights"]) for row in rows] == [weight.size for weight in w.values()]
    np.testing.assert_allclose(floats(rows, "trace")[0], [10.0 ** -(i % 5) for i in range(len(rows))])
    assert "dashed: small_kmqat2, 2 in every layer" in (exp / "quantization" / "small" / "bits_by_layer.svg").read_text()


def test_binarized_values(exp):
    rows, w = read(exp, "binarized"), weights()
    convolutions = [name for name in w if name != "embedding"]
    for system in ("small_static", "small_adaptive"):
        for layer in (convolutions[0], convolutions[-1]):
            part = [r for r in rows if (r["system"], r["layer"]) == (system, layer)]
            low, high, counts = floats([r for r in part if r["series"] == "float"], "low", "high", "weights")
            assert np.abs(counts - np.histogram(w[layer], np.append(low, high[-1]))[0]).sum() <= 2
            values, counts = floats([r for r in part if r["series"] == "binary"], "low", "weights")
            if system == "small_adaptive":  # eqs. 13, 14 and 16
                mean, deviation = w[layer].mean(), w[layer].std()
                np.testing.assert_allclose(values, [mean - deviation, mean + deviation], rtol=1e-5)
                assert counts.tolist() == [(w[layer] < mean).sum(), (w[layer] > mean).sum()]
            else:  # eqs. 10 to 12
                assert values[0] == pytest.approx(-values[1])
                assert counts.tolist() == [(w[layer] < 0).sum(), (w[layer] > 0).sum()]


def test_densities_from_low_to_deep(exp):
    rows, w = read(exp, "weights"), weights()
    shown = list(dict.fromkeys(row["layer"] for row in rows))
    assert shown == ["conv1", "layers.1.conv2", "layers.3.conv2", "layers.5.conv2", "layers.7.conv2"]
    for layer in shown:
        grid, height = floats([row for row in rows if row["layer"] == layer], "weight", "density")
        mass = np.trapezoid(height, grid) if hasattr(np, "trapezoid") else np.trapz(height, grid)
        assert mass == pytest.approx(1, abs=0.03)
        assert grid[0] < np.quantile(w[layer], 0.01) and grid[-1] > np.quantile(w[layer], 0.99)


def test_density_of_a_bell():
    grid, height = quant_plots.density(np.random.default_rng(0).normal(0.3, 0.05, 100_000))
    np.testing.assert_allclose(height, normal.pdf(grid, 0.3, 0.05), atol=0.04 * 8)
    grid, height = quant_plots.density(np.zeros(50))
    assert np.isfinite(height).all() and height.max() == height[50] > 0


def test_the_embedding_layer_is_the_last_linear_one():
    convolution, linear = torch.nn.Conv1d(2, 2, 1), torch.nn.Linear(2, 2)
    assert quant_page.embedding_layer(torch.nn.Sequential(linear, torch.nn.Linear(2, 2), convolution)) == "1"
    assert quant_page.embedding_layer(torch.nn.Sequential(convolution, torch.nn.Conv1d(2, 2, 1))) == "1"


def test_first_and_last_where_all_convolutions_are_points():
    weights = {"a": torch.zeros(4, 4, 1, 1), "b": torch.zeros(8, 4, 1), "c": torch.zeros(2, 8)}
    assert quant_page.from_low_to_deep(weights) == ["a", "c"]


def test_same_inputs_same_bytes(exp, tmp_path):
    run_worker(quant_report.main, "--exp", exp, "--parent", "small", "--trials", "test", "--bits", "3",
               "--out", tmp_path)
    figures = [path for path in tmp_path.iterdir() if path.suffix in (".svg", ".tsv")]
    assert len(figures) == 2 * 5
    for path in figures:
        assert path.read_bytes() == (exp / "quantization" / "small" / path.name).read_bytes(), path.name


def test_what_there_is_nothing_for_is_left_out(tmp_path):
    chosen = {name: quantized.configs()[name] for name in ("small", "small_kmqat4")}
    quantized.write_exp(tmp_path, chosen)
    run_worker(quant_report.main, "--exp", tmp_path / "exp", "--parent", "small", "--trials", "test", "--bits", "2",
               "--layer", "conv1", "--methods", "kmqat", "--norm", "none")
    made = {path.stem for path in (tmp_path / "exp/quantization/small").iterdir()}
    assert made == {"frontier_test", "levels_2bit", "weights", "index", "results"}
    assert len(read(tmp_path / "exp", "frontier_test")) == 2


def test_exported_systems_are_in_the_table_and_on_the_frontier(tmp_path):
    chosen = {name: quantized.configs()[name] for name in ("small", "small_mixed2", "small_kmqat4")}
    rows = quantized.write_exp(tmp_path, chosen)
    for name in ("small-int8", "small_kmqat4-int8"):  # no folder: nothing of it is opened
        rows += [dataclasses.replace(row, system=name, avg_bits=8.0) for row in rows if row.system == "small_kmqat4"]
    write_results(tmp_path / "exp" / "results.tsv", rows)
    run_worker(quant_report.main, "--exp", tmp_path / "exp", "--parent", "small", "--trials", "test", "--bits", "2")
    shown = [(row["family"], row["system"]) for row in read(tmp_path / "exp", "frontier_test")]
    assert shown[-2:] == [("INT8", "small-int8"), ("INT8", "small_kmqat4-int8")] and len(shown) == 5
    assert list(read(tmp_path / "exp", "bits_by_layer")[0])[-1] == "small_mixed2"
    table = (tmp_path / "exp" / "quantization" / "small" / "results.md").read_text()
    assert "| small-int8 | INT8 arithmetic | 8 |" in table and "| small_kmqat4-int8 | INT8 arithmetic | 8 |" in table


@pytest.mark.parametrize("options, message", [
    (["--parent", "none"], "none: not in the results, which hold small, small_adaptive"),
    (["--parent", "small", "--systems", "small_best2"], "small_best2: not in the results"),
    (["--parent", "small", "--trials", "vox1"], "no results of cosine asnorm vox1"),
    (["--parent", "small_kmqat4"], "small_kmqat4: a quantized system; name the float one"),
    (["--parent", "small", "--layer", "conv9"], "no layer conv9 to quantize; it has conv1"),
    (["--parent", "small", "--methods", "magic"], "levels to show: 'method' is 'magic'; it must be one of kmqat"),
    (["--parent", "small", "--bits", "9"], "levels to show: bits is 9"),
    (["--parent", "small", "--results", "nowhere.tsv"], "nowhere.tsv is missing; stage 11 makes it"),
])
def test_wrong_options(exp, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run_worker(quant_report.main, "--exp", exp, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_layers_in_float_and_negative_traces():
    layers = [quant_plots.Layer("a$b", (2, 3), -1.0, 0.1), quant_plots.Layer("b", (4, 2), 0.5, np.nan)]
    drawn = quant_plots.bits_by_layer(layers, [quant_plots.Allocation("x$y$", 20.0, [4, 32], None)])
    assert ">float</text>" in drawn.svg and "x$y$: 20.00 bits on average" in drawn.svg and "a$b" in drawn.svg
    assert tsv(drawn).split("\n")[1:3] == ["a$b\t2x3\t6\t-1\t0.1\t4", "b\t4x2\t8\t0.5\tnan\t32"]


def test_step(exp, tmp_path):
    root = tmp_path / "with a space"
    root.mkdir()
    for name in ("steps", "utils"):
        (root / name).symlink_to(fake.ROOT / name)
    (root / "exp").symlink_to(exp)
    (root / "path.sh").write_text(f"export PATH='{Path(sys.executable).parent}':$PWD/utils:$PATH\n")
    command = ["steps/quant_report.sh", "--bits", "2", "--trials", "test", "--methods", "uniform kmqat", "--systems",
               "small_kmqat4 small_kmqat2", "--title", "$(touch x) *", "--out", "out here", "exp", "small"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(root / "out here" / "frontier_test.tsv") as file:
        assert [line.split("\t")[1] for line in file] == ["system", "small", "small_kmqat4", "small_kmqat2"]
    assert "<h1>$(touch x) *</h1>" in (root / "out here/index.html").read_text() and not (root / "x").exists()
    assert subprocess.run(command[:-1], cwd=root, capture_output=True).returncode == 2
