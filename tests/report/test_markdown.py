"""RESULTS.md between its markers, and the LaTeX table."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq import hardware
from svq.errors import UserError
from svq.report import markdown
from svq.report.results import Row, write_results

NAN = float("nan")


def row(system="teacher", trials="test", eer=2.341, low=2.0, high=2.7, **changes):
    values = dict(system=system, trials=trials, backend="cosine", norm="none", eer=eer, mindcf01=0.2,
                  mindcf05=0.1, cllr=0.08, avg_bits=32.0, size_bytes=26_512_345, params=6_630_000, mincllr=0.07,
                  actdcf01=0.25, eer_low=low, eer_high=high, num_target=1200, num_nontarget=34567)
    return Row(**{**values, **changes})


ROWS = [row(), row("teacher_kmqat4", eer=2.4, cllr=0.07, avg_bits=4.0, size_bytes=3_390_000),
        row(trials="test_all", eer=1.1)]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table():
    text = markdown.markdown(ROWS)
    lines = text.split("\n")
    tables = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in tables} == {13}
    assert cells(tables[2]) == ["teacher", "cosine", "none", "2.34", "2.00 to 2.70", "0.200", "0.100", "0.080", "0.250", "32",
                                "26.512", "6.630"]
    assert cells(tables[3])[:4] == ["teacher_kmqat4", "cosine", "none", "2.40"]
    assert "### Trials: test\n\n1,200 target and 34,567 non-target trials." in text
    assert cells(tables[6])[3] == "1.10"
    assert "**" not in text  # the intervals of both systems meet


def test_only_an_eer_that_is_told_from_others_is_bold():
    rows = [row("a", eer=2.0, low=1.8, high=2.2), row("b", eer=2.1, low=1.9, high=2.3), row("c", eer=5.0, low=4.5, high=5.5)]
    assert re.findall(r"\*\*(.*?)\*\*", markdown.markdown(rows)) == ["2.00", "2.10"]
    assert re.findall(r"textbf\{(.*?)\}", markdown.latex(rows)) == ["2.00", "2.10"]
    assert "**" not in markdown.markdown([row("a", eer=2.0, low=NAN, high=NAN), row("c", eer=5.0)])


def test_interval_column_only_when_there_is_one():
    text = markdown.markdown([row(low=NAN, high=NAN)])
    assert "interval" not in text and "nan" not in text
    mixed = markdown.markdown([row(low=NAN, high=NAN), row("b")])
    assert "95 % interval" in mixed and "| - |" in mixed


def test_command_with_a_fence_in_it():
    assert markdown.made_by("echo '```'", "") == ["Made by\n\n````sh\necho '```'\n````"]


texts = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda t: "results:" not in t)


@given(texts, texts, texts.filter(lambda t: "\r" not in t))
def test_the_text_round_the_markers_is_kept(before, after, old):
    def page(middle):
        return f"{before}\n{markdown.BEGIN}\n{middle}\n{markdown.END}\n{after}"

    once = markdown.insert(page(old), "| new |")
    assert once == page("\n| new |\n")
    assert markdown.insert(once, "| new |") == once


@pytest.mark.parametrize("text, message", [
    ("nothing", "R.md: no line '<!-- results:begin -->'"),
    (f"{markdown.BEGIN}\n", "R.md: no line '<!-- results:end -->'"),
    (f"{markdown.END}\n{markdown.BEGIN}\n", "R.md:1: '<!-- results:end -->' stands before"),
    (f"{markdown.BEGIN}\n{markdown.END}\n{markdown.BEGIN}\n", "R.md:3: a second marker"),
    (f"{markdown.BEGIN}\n{markdown.END}\n\n{markdown.END}\n", "R.md:4: a second marker"),
])
def test_bad_markers(tmp_path, text, message):
    path = tmp_path / "R.md"
    path.write_text(text)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        markdown.update_file(path, "table")
    assert path.read_text() == text


def test_latex():
    text = markdown.latex(ROWS)
    assert r"teacher\_kmqat4 & cosine & none & 2.40 & 2.00 to 2.70 & 0.200" in text
    assert r"\multicolumn{12}{l}{\emph{test\_all}}" in text
    assert r"EER (\%)" in text
    body = [line for line in text.split("\n") if line.count("&")]
    assert {line.count("&") for line in body} == {11}
    assert text.count(r"\midrule") == 2
    assert r"\textbackslash{}\#\textasciitilde{}" in markdown.latex([row(r"\#~")])


def test_worker_keeps_words_and_line_ends(tmp_path):
    folder = tmp_path / "with a space"
    folder.mkdir()
    write_results(folder / "results.tsv", ROWS)
    page = folder / "RESULTS.md"
    page.write_bytes(f"# Mine\r\n{markdown.BEGIN}\nold\n{markdown.END}\nBelow\r\n".encode())
    command = [sys.executable, "-m", "svq.bin.results_md", "--results", folder / "results.tsv", "--into", page,
               "--command", "bash run.sh", "--hardware", "2 cores", "--latex", folder / "t.tex"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = "Made by\n\n```sh\nbash run.sh\n```\n\non 2 cores.\n\n" + markdown.markdown(ROWS)
    expected = f"# Mine\r\n{markdown.BEGIN}\n\n{table}\n\n{markdown.END}\nBelow\r\n"
    assert page.read_bytes() == expected.encode()
    assert (folder / "t.tex").read_text() == markdown.latex(ROWS)
    page.unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{page} is missing; write it with the lines" in done.stderr


def test_hardware_line(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert hardware.describe(str(info)).startswith("Some CPU @ 2 GHz (")
    assert hardware.describe(str(tmp_path / "none"))


def test_chosen_rows():
    from svq.bin.results_md import chosen

    assert chosen(ROWS, ["trials=test", "system=teacher_kmqat4,other"]) == [ROWS[1]]
    for condition in ("trials=none", "eer=2", "trials"):
        with pytest.raises(UserError, match=condition):
            chosen(ROWS, [condition])
