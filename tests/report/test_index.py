"""exp/index.html: links the pages that are there, and they link back."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from svq.draw.page import linked, listing, page
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
        href, words = Links(tmp_path / name).found[0]
        assert words == f"All pages of {'a table' if name.startswith('bits') else 'mini & more'}"
        target = ((tmp_path / name).parent / unquote(href)).resolve()
        assert target == (tmp_path / ("bits_net" if name.startswith("bits") else "") / "index.html").resolve()
    assert ("../index.html", "All pages of mini & more") in Links(tmp_path / "bits_net/index.html").found
    names = ["index.html", "pages.js", *PAGES]
    once = [(tmp_path / name).read_bytes() for name in names]
    for name in PAGES:
        make(tmp_path, name)
    assert [(tmp_path / name).read_bytes() for name in names] == once
    reports = [href for href, words in Links(tmp_path / "analysis/net/scores/index.html").found if words == "Report"]
    assert reports == ["../../../report.html"]


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


def test_every_page_knows_of_all_others(tmp_path):
    """The script beside the index has them all; pages made first need not be written again."""
    make(tmp_path, "report.html")
    first = (tmp_path / "report.html").read_bytes()
    for name in list(PAGES)[1:]:
        make(tmp_path, name)
    assert (tmp_path / "report.html").read_bytes() == first
    text = (tmp_path / "pages.js").read_text()
    found = json.loads(text[text.index("= [") + 2: text.index("].map") + 1])
    assert [unquote(path) for path, _ in found] == ["index.html", *(entry.path for entry in entries(tmp_path))]
    words = [word for _, word in found]
    assert len(set(words)) == len(words) and "Layers: layers_kmqat4-ptq" in words
    for name in PAGES:
        source = re.search(r'<script src="([^"]*)">', (tmp_path / name).read_text())[1]
        assert ((tmp_path / name).parent / unquote(source)).is_file()


def test_links_are_there_once():
    text = page("T", "s", [("a", "A", "b")], "f")
    once = linked(text, [("../index.html", "All")], "../pages.js")
    assert linked(once, [("../index.html", "All")], "../pages.js") == once and once.count('class="pages"') == 1
    assert linked(once, [("x.html", "X")], "x.js") == linked(text, [("x.html", "X")], "x.js")


def test_a_title_is_no_script():
    assert "</script" not in linked(page("T", "s", [], "f"), [("a", "</script><b>")], "x.js").split('class="pages"')[1].split("<script")[0]
    assert json.dumps('b"\n') in listing([("a", 'b"\n')])
