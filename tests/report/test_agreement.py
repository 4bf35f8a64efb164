"""Cosines between the embeddings of NAME and NAME-int8: found, counted, drawn."""

import dataclasses
import re

import numpy as np
import pytest

from svq.backend.embeddings import write_embeddings
from svq.errors import UserError
from svq.names import Names
from svq.report import html
from svq.report.collect import SHARES, Plan, collect_report, cosines, int8_agreement, summarized
from tests.report import fake

IDS = [f"u{i:03d}" for i in range(400)]


def vectors(seed, dim=16):
    return np.random.default_rng(seed).standard_normal((len(IDS), dim))


@pytest.fixture
def exp(tmp_path):
    """net and net-int8 with two sets in common, the second one in part; alone-int8 without its float system."""
    noisy = vectors(0) + 0.1 * vectors(1)
    write_embeddings(tmp_path / "net/embeddings/test", IDS, vectors(0))
    write_embeddings(tmp_path / "net-int8/embeddings/test", IDS[::-1], 3 * noisy[::-1])
    write_embeddings(tmp_path / "net/embeddings/dev", IDS, vectors(0))
    write_embeddings(tmp_path / "net-int8/embeddings/dev", IDS[:10] + ["other"], noisy[:11])
    write_embeddings(tmp_path / "net/embeddings/train", IDS, vectors(0))
    write_embeddings(tmp_path / "alone-int8/embeddings/test", IDS, vectors(0))
    return tmp_path


def test_pairs_and_their_cosines(exp):
    found = int8_agreement(exp, ["net", "net-int8", "alone-int8"])
    assert list(found) == ["net-int8"] and list(found["net-int8"]) == ["dev", "test"]
    a, b = vectors(0).astype(np.float32), (vectors(0) + 0.1 * vectors(1)).astype(np.float32)
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    both = found["net-int8"]["test"]
    assert both.utterances == 400 and found["net-int8"]["dev"].utterances == 10
    np.testing.assert_allclose(both.quantiles, np.quantile(expected, SHARES), atol=1e-6)
    assert both.edges[-1] == 1 and 400 * 0.997 <= both.counts.sum() <= 400
    middle = np.searchsorted(both.edges, np.median(expected))
    assert abs(both.counts[:middle].sum() - 200) < 50
    assert int8_agreement(exp, ["net"]) == {} and int8_agreement(exp / "net", ["net-int8"]) == {}


def test_other_dimension_and_zero_embeddings(exp):
    write_embeddings(exp / "net/embeddings/dev", IDS, vectors(0, dim=8))
    with pytest.raises(UserError, match="embeddings of 16 values, but .*net/embeddings/dev.* has 8; redo stage 6"):
        int8_agreement(exp, ["net-int8"])
    write_embeddings(exp / "zero", IDS[:2], np.array([[1.0, 2.0], [0.0, 0.0]]))
    with pytest.raises(UserError, match="u001"):
        cosines(exp / "zero", exp / "zero")


def test_equal_embeddings_and_sets_without_common_utterances(exp):
    same = summarized(np.ones(7))
    assert same.counts.sum() == 7 and same.quantiles == (1.0,) * len(SHARES) and same.edges[0] < 1
    write_embeddings(exp / "net-int8/embeddings/train", ["strange"], vectors(0)[:1])
    assert "train" not in int8_agreement(exp, ["net-int8"])["net-int8"]


def test_report_shows_them(tmp_path):
    lists = fake.write_tree(tmp_path, ["teacher"])
    fake.write_system(tmp_path / "exp/teacher-int8", 3.3, 8.0, 6_700_000, lists, ("cosine",), ("none",), 9)
    for name, noise in (("teacher", 0), ("teacher-int8", 0.05)):
        write_embeddings(tmp_path / "exp" / name / "embeddings/test", IDS, vectors(0) + noise * vectors(1))
    plan = Plan(tmp_path / "exp", ("teacher", "teacher-int8"), (tmp_path / "data/test/trials",), ("cosine",), ("none",),
                ("cosine", "none"))
    report = collect_report(plan, "with INT8", Names(frozenset()))
    page = html.render(report)
    section = page[page.index('<section id="int8">'):page.index('<section id="provenance">')]
    cells = re.sub(r' data-h="[^"]*"', "", section)
    assert '<td>teacher-int8</td><td class="l">test</td><td>400</td>' in cells and section.count("<svg") == 1
    assert f"of {400} utterances" in section
    assert all(f">{value:.4f}</td>" in section for value in report.agreement["teacher-int8"]["test"].quantiles)
    assert 'id="int8"' not in html.render(dataclasses.replace(report, agreement={}))
