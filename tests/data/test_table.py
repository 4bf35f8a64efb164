import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.data.table import Table, find, write_table
from svq.data.words import Tokens, padded, read_columns, read_pairs
from svq.errors import UserError

# Ids and values: any text without white space or control characters at the places where they would split it.
ids = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=12)
values = st.lists(ids, min_size=1, max_size=3).map(" ".join)


def write(path, raw: bytes):
    path.write_bytes(raw)
    return path


@given(st.dictionaries(ids, values, min_size=1, max_size=30))
def test_round_trip_sorted_as_bytes(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("t") / "table"
    write_table(path, pairs.items())
    table = Table.read(path)
    assert list(table.items()) == sorted(pairs.items(), key=lambda kv: kv[0].encode())
    assert table.is_sorted
    assert [table[k] for k in pairs] == list(pairs.values())
    assert [table.key(i) for i in table.indices(list(pairs))] == list(pairs)


@given(st.lists(st.tuples(ids, values), min_size=1, max_size=30, unique_by=lambda p: p[0]), st.data())
def test_blanks_between_fields_and_missing_last_newline_change_nothing(tmp_path_factory, pairs, data):
    blank = st.text(" \t", min_size=1, max_size=3)
    lines = [k + data.draw(blank) + v + data.draw(st.text(" \t", max_size=2)) for k, v in pairs]
    raw = "\n".join(lines) + data.draw(st.sampled_from(["", "\n"]))
    table = Table.read(write(tmp_path_factory.mktemp("t") / "table", raw.encode()))
    assert list(table.items()) == pairs
    assert b"".join(table.blocks()).decode() == "".join(f"{k} {v}\n" for k, v in pairs)


@given(st.lists(st.tuples(ids, values), min_size=1, max_size=20, unique_by=lambda p: p[0]), st.data())
def test_lookup_and_selection_in_any_order(pairs, data):
    table = Table.from_pairs(pairs)
    rows = data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=10))
    assert b"".join(table.blocks(np.array(rows, np.int64))).decode() == "".join("%s %s\n" % pairs[i] for i in rows)
    assert list(table.items(np.array(rows, np.int64))) == [pairs[i] for i in rows]
    absent = data.draw(ids.filter(lambda k: k not in dict(pairs)))
    assert absent not in table
    with pytest.raises(KeyError):
        table.indices([pairs[0][0], absent])
    assert table.positions([absent, pairs[-1][0]])[1].tolist() == [False, True]


@given(st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\0", b"x")), min_size=1, max_size=20))
def test_array_of_tokens_equals_slices(fields):
    length = np.array([len(f) for f in fields])
    buffer = np.frombuffer(padded(b"".join(fields)), dtype=np.uint8)
    assert Tokens(buffer, np.cumsum(length) - length, length).array().tolist() == fields


@given(st.sets(ids, min_size=1), st.lists(ids))
def test_find_equals_membership(have, wanted):
    ordered = np.sort(np.array([k.encode() for k in have]))
    position, found = find(ordered, np.array([k.encode() for k in wanted], dtype="S64"))
    assert found.tolist() == [k in have for k in wanted]
    assert [ordered[p].decode() for p, f in zip(position, found) if f] == [k for k in wanted if k in have]


@pytest.mark.parametrize(
    "raw, line, text",
    [
        (b"a 1\nb\n", 2, "nothing after it"),
        (b"a 1\nb  \t\n", 2, "nothing after it"),
        (b"a 1\n\nb 2\n", 2, "blank"),
        (b"a 1\n b 2\n", 2, "white space"),
        (b"a 1\r\nb 2\r\n", 1, "CR LF"),
        (b"a 1\nb \xff2\n", 2, "UTF-8"),
        (b"a 1\nb 2\x003\n", 2, "control character"),
        (b"a 1\n" + b"k" * 256 + b" 2\n", 2, "255 bytes"),
    ],
)
def test_malformed_line_is_named(tmp_path, raw, line, text):
    path = write(tmp_path / "bad.scp", raw)
    with pytest.raises(UserError, match=rf"bad.scp:{line}: .*{text}"):
        Table.read(path)


@pytest.mark.parametrize("raw, line, text", [
    (b"a 1\nb \xff2\n", 2, "UTF-8"),
    (b"a 1\nb 2\x003\n", 2, "control character"),
    (b"a 1\nb 2\r3\n", 2, "control character"),
    (b"a 1\nb \n", 2, ""),
    (b"a 1\n\nb 2\n", 2, ""),
    (b"a 1\n" + b"k" * 256 + b" 2\n", 2, "256 bytes"),
])
@pytest.mark.parametrize("read", [lambda path: read_columns(path, (2,)), read_pairs])
def test_lists_of_words_name_the_line_too(tmp_path, raw, line, text, read):
    path = write(tmp_path / "bad", raw)
    with pytest.raises(UserError, match=rf"bad:{line}: .*{text}"):
        read(path)


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=30), st.data())
def test_a_table_and_a_list_of_words_hold_the_same(tmp_path_factory, pairs, data):
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    path = write(tmp_path_factory.mktemp("t") / "t", "".join(f"{a} {b}{end}" for a, b in pairs).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svq.data.words.SCAN_BYTES", data.draw(st.sampled_from([8, 64, 1 << 22])))
        columns = [list(column) for column in read_columns(path, (2,))]
        table, malformed = Table.scan(path)
    assert list(zip(*columns)) == pairs == list(zip(*(list(part) for part in read_pairs(path))))
    assert (list(table.items()) == pairs) if end == "\n" else (malformed[0].lines.tolist() == [*range(1, len(pairs) + 1)])


def test_malformed_lines_are_found_across_scan_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("svq.data.words.SCAN_BYTES", 16)
    raw = b"".join(b"key%03d value%d\n" % (i, i) for i in range(50)) + b"long " + b"x" * 100 + b"\nlast\n"
    table, malformed = Table.scan(write(tmp_path / "t", raw))
    assert [(m.lines.tolist(), m.text) for m in malformed] == [([52], "has an id but nothing after it")]
    assert table.value(table.index("key049")) == "value49" and len(table["long"]) == 100


def test_missing_empty_and_repeated(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Table.read(tmp_path / "none")
    with pytest.raises(UserError, match="empty file"):
        Table.read(write(tmp_path / "empty", b""))
    assert len(Table.read(tmp_path / "empty", allow_empty=True)) == 0
    with pytest.raises(UserError, match="twice:3: `a` is already on line 1"):
        Table.read(write(tmp_path / "twice", b"a 1\nb 2\na 3\n")).index("b")


def test_columns_and_numbers(tmp_path):
    table = Table.read(write(tmp_path / "t", b"a x  y\nb x\nc x y z\nd p\tq \n"))
    (first, second), ok = table.columns(2)
    assert ok.tolist() == [True, False, False, True]
    assert (first[3], second[3]) == (b"p", b"q")
    assert Table.from_pairs([("a", "1.5"), ("b", "2")]).float_array().tolist() == [1.5, 2.0]
    with pytest.raises(UserError, match=":2: `x` is not a number"):
        Table.from_pairs([("a", "1.5"), ("b", "x")]).float_array()


@pytest.mark.parametrize("pairs", [[("a b", "1")], [("", "1")], [("a", "1\n2")], [("a", " ")], [("a", 1), ("a", 2)]])
def test_write_table_refuses_what_it_could_not_read_back(tmp_path, pairs):
    with pytest.raises(UserError):
        write_table(tmp_path / "t", pairs)
    assert list(tmp_path.iterdir()) == []
