"""Pages in a browser: a click sorts, links to all pages are shown, and nothing is cut at 1280 and at 400 pixels."""

import numpy as np
import pytest
import soundfile

from svq.draw.page import page
from svq.draw.tables import html_table
from svq.report.index import finish
from tests.demo import chromium

pytestmark = pytest.mark.skipif(chromium.program() is None, reason="no Chromium on this machine")
HEADS = ["system", "EER (%)", "95 %", "bytes", *(f"a measure of number {i}" for i in range(12))]
ROWS = [["b", "10.0", "9 to 11", "1,000", *["0.123 (0.100 to 0.150)"] * 12], ["c", "-", "-", "20", *["-"] * 12],
        ["a_system_of_a_name_without_blanks", "9.5", "8 to 10", "300", *["0.1"] * 12]]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    soundfile.write(folder / "silence.wav", np.zeros(16000), 16000)
    started = chromium.Browser(folder, folder / "silence.wav")
    yield started
    started.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An experiment of two pages in a folder whose name has a blank."""
    folder = tmp_path_factory.mktemp("an experiment")
    for name, title in (("report.html", "corpus"), ("quantization/net/index.html", "corpus: net")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(page(title, "", [("table", "Table", html_table(HEADS, ROWS, 1))], ""))
        finish(folder / name)
    return folder


def first_column(tab):
    return tab.run("Array.from(document.querySelectorAll('tbody tr'), (row) => row.cells[0].textContent[0]).join('')")


def test_a_click_sorts_and_the_third_one_puts_back(browser, place):
    tab = browser.open((place / "report.html").as_uri())
    for head, orders in (("1", ("abc", "bac", "bca")), ("2", ("cab", "bac", "bca")), ("0", ("abc", "cba", "bca"))):
        for order in orders:
            tab.click(f'th[data-c="{head}"]')
            assert first_column(tab) == order
    assert tab.troubles() == []


def test_links_to_all_pages(browser, place):
    tab = browser.open((place / "quantization/net/index.html").as_uri())
    shown = tab.run("Array.from(document.querySelectorAll('.pages a, .pages b'), (each) => each.textContent + (each.href ? '' : '*'))")
    assert shown == ["All pages of corpus", "Report", "Quantization*"]
    assert tab.run("document.querySelector('.pages a').href").endswith("experiment0/index.html")


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_cut(browser, place, width, tmp_path):
    tab = browser.open((place / "report.html").as_uri())
    tab.picture(tmp_path / "page.png", width, 900)
    assert tab.run("Array.from(document.querySelectorAll('.table, html'), (each) => each.scrollWidth - each.clientWidth)") == [0, 0]
