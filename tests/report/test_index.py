"""exp/index.html: links the pages that are there, and they link back."""

import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from svq.draw.page import link_back, page
from svq.report.index import entries, finish, folder_of

PAGES = {
    "report.html": "mini & more", "quantization/net/index.html": "mini: net", "analysis/net/scores/index.html": "scores of net",
    "analysis/net/layers_kmqat4/index.html": "layers of net", "analysis/net/layers_kmqat4-ptq/index.html": "layers <untrained>",
    "cascade/a-b/report/index.html": "Cascade", "net/search/report/index.html": "settings of net",
    "bits_net/report.html": "a table", "analysis/a name #1/scores/index.html": "strange name",
}


def make(folder, name, title=None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(title or PAGES[name], "A summary.", [("one", "One", "<p>text</p>")], "Made."))
    finish(path)


class Links(HTMLParser):
    """The links of a page, but for those within it: [(address, text)]."""

    def __init__(self, path):
        super().__init__()
        self.found, self.href, self.title = [], None, ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.href = dict(attrs).get("href", "") if tag == "a" else "title" if tag == "title" else None

    def handle_data(self, data):
        if self.href == "title":
            self.title += data
        elif self.href and not self.href.startswith("#"):
            self.found.append((self.href, data))
            self.href = None


@pytest.mark.parametrize("order", [list(PAGES), [*list(PAGES)[:1], *reversed(list(PAGES)[1:])]])
def test_every_page_is_linked_and_links_back(tmp_path, order):
    """Whatever order they are made in, the same bytes."""
    for name in order:
        make(tmp_path, name)
    links = Links(tmp_path / "index.html")
    assert links.title.strip() == "mini & more"
    assert {unquote(href): text for href, text in links.found} == PAGES
    for name in PAGES:
        href, _ = Links(tmp_path / name).found[0]
        target = ((tmp_path / name).parent / unquote(href)).resolve()
        assert target == (tmp_path / ("bits_net" if name.startswith("bits") else "") / "index.html").resolve()
    assert ("../index.html", "← All pages") in Links(tmp_path / "bits_net/index.html").found
    once = (tmp_path / "index.html").read_bytes()
    for name in PAGES:
        make(tmp_path, name)
    assert (tmp_path / "index.html").read_bytes() == once


def test_each_kind_has_a_sentence(tmp_path):
    for name in PAGES:
        make(tmp_path, name)
    text = (tmp_path / "index.html").read_text()
    assert len(re.findall(r"<section id=.*?><h2>.*?</h2>\n<p>[A-Z][^<]*\.?[^<]*</p><ul><li>", text)) == 7


def test_pages_of_one_title_are_told_by_their_folders(tmp_path):
    make(tmp_path, "report.html")
    for name in ("a-b", "a-c"):
        make(tmp_path, f"cascade/{name}/report/index.html", "Cascade")
    assert [text for _, text in Links(tmp_path / "index.html").found[1:]] == ["Cascade (cascade/a-b/report)", "Cascade (cascade/a-c/report)"]


def test_some_pages_only(tmp_path):
    make(tmp_path, "report.html")
    make(tmp_path, "cascade/a-b/report/index.html")
    assert [entry.path for entry in entries(tmp_path)] == ["report.html", "cascade/a-b/report/index.html"]
    (tmp_path / "cascade/a-b/report/index.html").unlink()
    make(tmp_path, "report.html")
    assert len(Links(tmp_path / "index.html").found) == 1


def test_a_page_outside_of_an_experiment_is_left_as_it_is(tmp_path):
    make(tmp_path, "quantization/net/index.html")
    assert Links(tmp_path / "quantization/net/index.html").found == [] and not (tmp_path / "index.html").exists()
    assert folder_of(tmp_path / "quantization/net/index.html") is None


def test_pages_that_end_at_the_same_time_are_all_there(tmp_path):
    make(tmp_path, "report.html")
    names = [f"cascade/{i}/report/index.html" for i in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: make(tmp_path, name, name), names))
    assert len(Links(tmp_path / "index.html").found) == 13


def test_the_link_is_there_once():
    text = page("T", "s", [("a", "A", "b")], "f")
    once = link_back(text, "../index.html")
    assert link_back(once, "../index.html") == once and once.count('class="back"') == 1
    assert link_back(once, "x.html") == link_back(text, "x.html")
