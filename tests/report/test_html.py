"""The page: self-contained, reproducible, small, and it says what the table says."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from svq.draw import figure
from svq.errors import UserError
from svq.report import collect, html, plots
from svq.report.collect import Layer, Report, Scored
from svq.report.compared import Against
from svq.report.results import Row
from tests.report import fake

SYSTEMS = ("teacher", "student", "teacher_kmqat4")
LISTS = ("dev", "test")


def row(system, trials, **changes):
    separation, bits, size = fake.SYSTEMS[system]
    values = dict(system=system, trials=trials, backend="cosine", norm="none", eer=separation, mindcf01=0.3,
                  mindcf05=0.2, cllr=0.12, avg_bits=bits, size_bytes=size, params=6_630_000, mincllr=0.1,
                  actdcf01=0.35, eer_low=separation - 0.5, eer_high=separation + 0.5, num_target=300,
                  num_nontarget=3000)
    return Row(**{**values, **changes})


def layers(count):
    rng = np.random.default_rng(0)
    levels = np.linspace(-0.1, 0.1, 16)
    return [Layer(f"layer{i}", rng.normal(0, 0.05, (8, 8, 3, 3)), levels, 4) for i in range(count)]


def report(tmp_path, **changes):
    scored = {}
    for i, system in enumerate(SYSTEMS):
        gap = fake.SYSTEMS[system][0]
        fake.write_plain_files(tmp_path / system, 4.0, 1, i)
        for j, name in enumerate(LISTS):
            raw = fake.gaussian_scores(gap, 300, 3000, [i, j])
            scored[system, name] = Scored(*raw, *(gap * s - gap**2 / 2 for s in raw))
    values = dict(
        title="A <title> & more", rows=[row(s, name) for s in SYSTEMS for name in LISTS],
        backend="cosine", norm="none", scored=scored,
        curves={s: collect.read_curves(tmp_path / s / "curves.csv") for s in SYSTEMS},
        layers={"teacher_kmqat4": layers(3)}, parents={"teacher_kmqat4": "teacher"},
        against={"teacher_kmqat4": Against("teacher")},
        provenance={s: {"seed": 7, "git": "abc123", "versions": {"torch": "2.13.0"},
                        "config": {"net": "<ResNet34> & co"}} for s in SYSTEMS})
    return Report(**{**values, **changes})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return html.render(report(tmp_path_factory.mktemp("exp")))


class Checker(HTMLParser):
    """Collects ids, references and unclosed tags."""

    def __init__(self):
        super().__init__()
        self.ids, self.references, self.open, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.references.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_else(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.references and all(ref.startswith("#") for ref in checker.references)
    assert {ref[1:] for ref in checker.references} <= set(checker.ids)
    assert len(checker.ids) == len(set(checker.ids))
    assert "://" not in page and "@import" not in page and page.count("<script") == 1 and "<script>" in page


def test_same_report_same_bytes(page, tmp_path):
    assert html.render(report(tmp_path)) == page


def test_no_sentinel_colour_is_left(page):
    assert "#0001" not in page and "#0002" not in page
    used = set(re.findall(r"var\((--\w+)\)", page))
    root = page[: page.index("}")]
    assert used - {name for name in used if f"{name}:" in root} == set()


def test_size_for_eight_systems(page):
    sections = re.findall(r'<section id="(\w+)">', page)
    assert sections == ["headline", "sizes", "det", "all", "scores", "calibration", "training", "levels",
                        "provenance"]
    # Three systems and two lists here; eight and three draw at most four times as much.
    assert len(page.encode()) < 500_000


def test_text_is_escaped(page):
    assert "<title>A &lt;title&gt; &amp; more</title>" in page
    assert "&lt;ResNet34&gt; &amp; co" in page


def headline_cells(page):
    part = page[page.index('id="headline"'): page.index('id="sizes"')]
    lines = re.findall(r'<tr><td data-h="system">(\w+)(.*?)</td>(.*?)</tr>', part)
    return {name: [("", said), *re.findall(r"<td data-h=\"[^\"]*\"([^>]*)>(.*?)</td>", cells)] for name, said, cells in lines}


def test_headline(page):
    """Without resampled speakers: figures, changes and ratios, and nothing is marked or coloured."""
    cells = headline_cells(page)
    assert list(cells) == list(SYSTEMS)
    eer = {name: values[3] for name, values in cells.items()}
    assert eer["teacher"] == (' class="edge"', "3.40<small>2.90 to 3.90</small>")
    change = 100 * (3.3 / 3.4 - 1)
    assert eer["teacher_kmqat4"][1] == f'3.30<small>2.80 to 3.80</small><small class=same>−{-change:.1f} %</small>'
    ratio = 26_500_000 / 3_390_000
    assert cells["teacher_kmqat4"][2][1] == f"3.39<small>÷ {ratio:.2f}</small>"
    assert 'best"' not in page[page.index('id="headline"'): page.index('id="scores"')]


def headline(tmp_path, **changes):
    """The page's headline, of systems whose measures vary together."""
    found = report(tmp_path, **changes)
    luck = np.random.default_rng(0).normal(0, 0.4, 200)
    own = {s: np.random.default_rng(i).normal(0, 0.005, 200) for i, s in enumerate(found.systems)}
    samples = {row: {name: getattr(row, name) * (1 + luck + own[row.system]) for name in ("eer", "mindcf01", "cllr")}
               for row in found.rows}
    return f'id="headline"{html._headline(dataclasses.replace(found, samples=samples))}id="sizes"'


def test_the_best_and_what_cannot_be_told_from_it_are_marked(tmp_path):
    """All intervals overlap by far: differences of the same resampled speakers decide."""
    rows = [row(s, "test", eer=eer, eer_low=1.0, eer_high=7.0) for s, eer in zip(SYSTEMS, (3.4, 2.90, 2.91))]
    cells = headline_cells(headline(tmp_path, rows=rows))
    assert ["best" in cells[s][3][0] for s in SYSTEMS] == [False, True, True]
    assert not any("best" in cells[s][4][0] for s in SYSTEMS)  # minDCF is 0.3 for all of them: no mark says anything


def test_a_change_is_coloured_only_where_it_is_told_from_0(tmp_path):
    against = {"teacher_kmqat4": Against("teacher", finetuned=True)}
    rows = [row(s, "test", eer=eer) for s, eer in zip(SYSTEMS, (3.4, 2.9, 3.401))]
    text = headline(tmp_path, rows=rows, against=against)
    assert "<small class=same>+0.0 %</small>" in headline_cells(text)["teacher_kmqat4"][3][1]
    assert "against teacher, not finetuned" in headline_cells(text)["teacher_kmqat4"][0][1]
    assert "so a change from teacher also holds what finetuning brought" in text
    rows = [row(s, "test", eer=eer) for s, eer in zip(SYSTEMS, (3.4, 2.9, 4.4))]
    text = headline(tmp_path, rows=rows, against=against)
    assert "<small class=worse>+29.4 %</small>" in headline_cells(text)["teacher_kmqat4"][3][1]


def test_every_figure_has_a_finding(page):
    assert page.count('<figure class="card"><figcaption class="finding">') == page.count("<figure")
    assert not re.findall(r'class="finding">[^<]*\bnan\b', page)


def test_more_lists_than_fit_a_screen_make_several_tables(tmp_path):
    lists = ("a", "b", "c", "d")
    scored = {("teacher", name): Scored(*[np.arange(4.0)] * 4) for name in lists}
    part = headline(tmp_path, rows=[row("teacher", name) for name in lists], scored=scored)
    assert part.count("<table>") == 2 and [part.count(f'colspan="3">{name}<') for name in lists] == [1] * 4


def test_without_logs_layers_intervals_and_provenance(tmp_path):
    bare = [row(s, "test", eer_low=float("nan"), eer_high=float("nan")) for s in SYSTEMS[:2]]
    page = html.render(report(tmp_path, rows=bare, curves={}, layers={}, provenance={}))
    assert "No training log: teacher, student." in page
    assert 'id="levels"' not in page and 'id="provenance"' not in page
    assert "nan" not in re.sub(r"<[^>]*>", " ", page).split()


def test_one_perfect_system_and_constant_scores(tmp_path):
    """The degenerate scores of a debug run must not break the drawing."""
    perfect = Scored(np.array([2.0, 3.0]), np.array([-1.0, 0.0]), np.array([2.0, 3.0]), np.array([-1.0, 0.0]))
    blind = Scored(*[np.zeros(3)] * 4)
    rows = [row("teacher", "test", eer=0.0), row("student", "test", eer=50.0)]
    scored = {("teacher", "test"): perfect, ("student", "test"): blind}
    html.render(report(tmp_path, rows=rows, scored=scored, curves={}, layers={}, provenance={}))


def test_curves_with_no_rows_and_malformed_ones(tmp_path):
    path = tmp_path / "curves.csv"
    header = "step,epoch,lr,margin,loss,accuracy,samples_per_s\n"
    path.write_text(header)
    assert len(collect.read_curves(path)["loss"]) == 0
    path.write_text(header + "1,0.1,0.1,0,3,0.5,9\n2,0.2,0.1,0,x,0.5,9\n")
    with pytest.raises(UserError, match="curves.csv:3: not 7 numbers"):
        collect.read_curves(path)
    path.write_text("step,loss\n")
    with pytest.raises(UserError, match="curves.csv:1: no column epoch, lr, margin, accuracy"):
        collect.read_curves(path)


def test_operating_point_is_the_cheapest():
    fpr, fnr = np.array([1.0, 0.1, 0.001, 0.0]), np.array([0.0, 0.05, 0.3, 1.0])
    assert plots.operating_point(fpr, fnr, 0.01) == (0.001, 0.3)
    assert plots.operating_point(fpr, fnr, 0.5) == (0.1, 0.05)


def test_thinning_keeps_ends_and_shape():
    x = np.linspace(0, 1, 100_001)
    thin_x, thin_y = plots.thin_curve(x, x**2, 300)
    assert len(thin_x) <= 300 and (thin_x[0], thin_x[-1]) == (0, 1)
    np.testing.assert_allclose(np.interp(x, thin_x, thin_y), x**2, atol=1e-5)
    y = np.arange(1000.0)
    assert plots.thin_mean(y, 150).mean() == pytest.approx(y.mean(), rel=1e-3)
    assert len(plots.thin_mean(y, 150)) == 150


def test_reliability_of_exact_ratios_and_of_doubled_ones():
    t, n = fake.gaussian_scores(2.0, 50_000, 50_000, 3)
    stated, observed = plots.reliability(2 * t - 2, 2 * n - 2)
    np.testing.assert_allclose(stated, observed, atol=0.012)
    stated, observed = plots.reliability(2 * (2 * t - 2), 2 * (2 * n - 2))
    assert np.abs(stated - observed).max() > 0.05


def test_reliability_weighs_the_classes_alike_and_pools_ties():
    stated, observed = plots.reliability(np.zeros(10), np.zeros(1000))
    np.testing.assert_allclose([stated, observed], [[0.5], [0.5]])


def test_ids_of_two_figures_differ():
    curve = plots.Det(0, False, np.array([1, 0.1, 0]), np.array([0, 0.1, 1]), 0.1)
    first, second = (plots.det_plot([curve], "test", name) for name in ("a", "b"))
    ids = [set(re.findall(r' id="([^"]*)"', text)) for text in (first, second)]
    assert ids[0] and not ids[0] & ids[1]


def test_a_dollar_in_a_name_is_no_mathematics():
    point = plots.Sized(0, "a$b_{c$", 1_000_000, 2.0, np.nan, np.nan, None)
    assert "a$b_{c$" in plots.size_plot([point], "x$y$", "s")
    calibrated = plots.Calibrated(0, "a$b_{c$", 1, 0.2, 0.1)
    assert "a$b_{c$" in plots.cllr_plot([calibrated], "x$y$", "s")
    assert figure.series(8) == figure.series(0)


def test_layers_of_a_quantized_network(tmp_path):
    models = pytest.importorskip("svq.models")
    from svq.quant import QuantConfig, quantize_, quantized_layers

    config = models.ModelConfig(net={"width": 8}, embed_dim=16, quant=QuantConfig(bits=3))
    network = quantize_(config.build(), config.quant)
    models.save_model(tmp_path, network, config)
    found = collect.read_layers(tmp_path)
    every = quantized_layers(network)
    assert [layer.name for layer in found] == [every[i].name for i in (0, len(every) // 2, len(every) - 1)]
    for layer in found:
        assert layer.bits == 3 and layer.levels.shape[-1] <= 8
        assert layer.weights.size and np.isfinite(layer.levels).all()
