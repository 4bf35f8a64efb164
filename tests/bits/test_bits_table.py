"""bits.tsv: what is written comes back, hand-edited files read, and every wrong line is named."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from svq.bits.table import LayerBits, bits_by_layer, check_bits, read_bits, write_bits
from svq.errors import UserError
from svq.quant import QuantConfig, quantize_
from svq.quant.api import average_bits

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z0-9_]{1,8}){0,3}", fullmatch=True)
shapes = st.lists(st.integers(1, 4096), min_size=1, max_size=4).map(tuple)
traces = st.none() | st.floats(-1e30, 1e30).map(lambda value: float(f"{value:.6g}"))
bits = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 32])
tables = st.lists(st.builds(LayerBits, names, shapes, traces, bits), min_size=1, max_size=8,
                  unique_by=lambda row: row.layer)


@given(rows=tables, comment=st.none() | st.just("1234 bytes"))
def test_round_trip(tmp_path_factory, rows, comment):
    path = tmp_path_factory.getbasetemp() / "bits.tsv"
    write_bits(path, rows, comment)
    back = read_bits(path)
    assert back == rows
    assert [row.line for row in back] == [i + 2 + (comment is not None) for i in range(len(rows))]


@given(rows=tables, seed=st.randoms())
def test_hand_edited_files_read_the_same(tmp_path_factory, rows, seed):
    """Comments, blank lines, another order of rows, Windows line ends and spaces round fields change nothing."""
    path = tmp_path_factory.getbasetemp() / "edited.tsv"
    write_bits(path, rows)
    header, *lines = path.read_text().splitlines()
    seed.shuffle(lines)
    edited = ["# mine", "", header, "#conv1\t1x1\t-\t9"]
    for line in lines:
        edited += ["   ", line.replace("\t", " \t "), "# end"]
    path.write_bytes("\ufeff".encode() + "\r\n".join(edited).encode())
    assert sorted(read_bits(path), key=lambda row: row.layer) == sorted(rows, key=lambda row: row.layer)


HEADER = "layer\tshape\ttrace\tbits\n"


@pytest.mark.parametrize("text, line, words", [
    ("", None, "empty table; it needs the header layer shape trace bits"),
    ("# only a comment\n\n", None, "empty table"),
    (HEADER, 1, "no row follows the header"),
    ("\nlayer\tbits\nconv1\t2\n", 2, "the header must be layer shape trace bits, separated by tabs"),
    ("layer shape trace bits\nconv1 2x2 - 2\n", 1, "separated by tabs"),
    ("conv1\t2x2\t-\t2\n", 1, "the header must be"),
    (HEADER + "conv1 2x2 - 2\n", 2, "must have 4 fields separated by tabs: layer shape trace bits"),
    (HEADER + "# x\nconv1\t2x2\t2\n", 3, "must have 4 fields"),
    (HEADER + "conv1\t2x2\t\t2\n", 2, "must have 4 fields"),
    (HEADER + "conv1\t2x2\t-\t2\t3\n", 2, "must have 4 fields"),
    (HEADER + "conv1\t2*2\t-\t2\n", 2, "layer conv1: shape is '2*2'; write it like 16x8x3x3"),
    (HEADER + "conv1\t2x0\t-\t2\n", 2, "shape is '2x0'"),
    (HEADER + "conv1\t2x\t-\t2\n", 2, "shape is '2x'"),
    (HEADER + "conv1\t2x2\tbig\t2\n", 2, "trace is 'big'; it must be a number, or - where it is unknown"),
    (HEADER + "conv1\t2x2\tnan\t2\n", 2, "trace is 'nan'"),
    (HEADER + "conv1\t2x2\tinf\t2\n", 2, "trace is 'inf'"),
    (HEADER + "conv1\t2x2\t-\t0\n", 2, "bits is '0'; it must be from 1 to 8, or 32 for float"),
    (HEADER + "conv1\t2x2\t-\t9\n", 2, "bits is '9'"),
    (HEADER + "conv1\t2x2\t-\t2.5\n", 2, "bits is '2.5'"),
    (HEADER + "conv1\t2x2\t-\t-\n", 2, "bits is '-'"),
    (HEADER + "conv1\t2x2\t-\t2\n\nconv1\t2x2\t-\t3\n", 4, "layer conv1 is already on line 2; keep one of them"),
])
def test_a_wrong_line_is_named(tmp_path, text, line, words):
    path = tmp_path / "my bits.tsv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_bits(path)
    message = str(error.value)
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert words in message and "\n" not in message


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match="none.tsv: no such file"):
        read_bits(tmp_path / "none.tsv")
    with pytest.raises(UserError, match="cannot be read"):
        read_bits(tmp_path)
    (tmp_path / "latin.tsv").write_bytes(HEADER.encode() + b"caf\xe9\t2x2\t-\t2\n")
    with pytest.raises(UserError, match="latin.tsv: not a text file in UTF-8"):
        read_bits(tmp_path / "latin.tsv")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_bits(tmp_path / "bits.tsv", [LayerBits("a", (2, 2), None, 2)])
    with pytest.raises(TypeError):
        write_bits(tmp_path / "bits.tsv", [LayerBits("a", (2, 2), None, 3), LayerBits("b", None, None, 2)])
    assert os.listdir(tmp_path) == ["bits.tsv"] and read_bits(tmp_path / "bits.tsv")[0].bits == 2


def network():
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Linear(3, 5))


def test_tables_of_another_network_are_refused(tmp_path):
    path = tmp_path / "bits.tsv"
    conv, linear = LayerBits("0", (3, 2, 3), 0.5, 2), LayerBits("2", (5, 3), None, 4)

    def refused(*rows):
        write_bits(path, rows)
        with pytest.raises(UserError) as error:
            check_bits(read_bits(path), network(), path)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refused(conv).startswith(f"{path}: no row for layer 2; add it")
    assert refused(conv, linear, LayerBits("3", (5, 3), None, 4)).startswith(
        f"{path}:4: layer 3 is not in the network; it has 0, 2")
    assert refused(conv, LayerBits("2", (3, 5), None, 4)).startswith(
        f"{path}:3: layer 2 has shape 3x5, in the network it is 5x3")
    with pytest.raises(UserError, match="bits.tsv: layer 3 is not in the network"):
        check_bits([LayerBits("3", (5, 3), None, 4)], network(), path)


def test_the_table_of_a_network_quantizes_it(tmp_path):
    path = tmp_path / "bits.tsv"
    write_bits(path, [LayerBits("2", (5, 3), None, 4), LayerBits("0", (3, 2, 3), 0.5, 2)])
    rows = read_bits(path)
    check_bits(rows, network(), path)
    torch.manual_seed(0)
    net = quantize_(network(), QuantConfig(layers=bits_by_layer(rows)))
    check_bits(rows, net, path)
    assert average_bits(net) == (18 * 2 + 15 * 4) / 33
