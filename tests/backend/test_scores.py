"""Trial lists and score files: round trips, agreement with Python's own parsing, bad lines."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from svq.backend import scores
from svq.data.ids import IdIndex
from svq.data.words import Tokens, read_columns
from svq.errors import UserError

words = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=40)
ids = words.filter(lambda word: word not in ("0", "1", "target", "nontarget"))
numbers = st.floats(-1e9, 1e9) | st.floats(-2, 2)


def trials_of(triples):
    enroll, test, target = zip(*triples)
    return scores.Trials(Tokens.of(enroll), Tokens.of(test), np.array(target))


@given(st.lists(words, max_size=50))
def test_tokens_hold_their_words(ids):
    tokens = Tokens.of(ids)
    assert list(tokens) == ids
    assert tokens.equal(Tokens.of(ids)).all()
    assert not tokens.equal(Tokens.of([word + "x" for word in ids])).any()


@given(st.lists(words, min_size=1, max_size=50, unique=True), st.lists(words, max_size=50))
def test_find_agrees_with_a_dict(ids, others):
    wanted = ids[::-1] + others
    place = {word: i for i, word in enumerate(ids)}
    found = IdIndex(Tokens.of(ids)).find(Tokens.of(wanted))
    assert found.tolist() == [place.get(word, -1) for word in wanted]


def test_find_survives_equal_hashes(monkeypatch):
    monkeypatch.setattr(Tokens, "hashes", lambda self: np.full(len(self), 7 << 40, np.uint64))
    ids = [f"id{i}" for i in range(60)]
    assert IdIndex(Tokens.of(ids)).find(Tokens.of(ids[::-1] + ["other"])).tolist() == list(range(60))[::-1] + [-1]


def test_repeated_id_names_its_line():
    with pytest.raises(UserError, match=r"^list:3: `b` is already on line 2$"):
        IdIndex(Tokens.of(["a", "b", "b"]), "list")


def test_missing_ids_are_listed_and_counted():
    index = IdIndex(Tokens.of(["a"]))
    with pytest.raises(UserError, match=r"^emb: no embedding for 7 ids: m0 m1 m2 m3 m4 and 2 more$"):
        index.require("embedding", "emb", Tokens.of(["m0", "a", "m0"]), Tokens.of([f"m{i}" for i in range(1, 7)]))


@given(st.lists(numbers, min_size=1, max_size=40), st.integers(0, 7))
def test_formatting_is_fixed_point(values, decimals):
    text, length = scores.format_fixed(np.array(values), decimals)
    for row, size, value in zip(text, length, values):
        word = row[:size].tobytes().decode()
        assert word.endswith("\n") and len(word.strip().partition(".")[2]) == decimals
        assert abs(float(word) - value) <= 0.5000001 * 10.0 ** -decimals + abs(value) * 1e-15
        assert not word.startswith("-0.") or float(word) != 0


def test_formatting_of_huge_numbers():
    text, length = scores.format_fixed(np.array([1e20, -1.5]), 2)
    assert [row[:n].tobytes() for row, n in zip(text, length)] == [b"100000000000000000000.00\n", b"-1.50\n"]


plain = st.from_regex(r"-?[0-9]{1,9}\.?[0-9]{0,9}", fullmatch=True)


@given(st.lists(plain | st.floats(allow_nan=False).map(repr) | st.sampled_from(["inf", "-inf", "+1", ".5", "-.5"]),
                min_size=1, max_size=40))
def test_parsing_equals_float(texts):
    assert scores.parse_floats(Tokens.of(texts)).tolist() == [float(text) for text in texts]


@pytest.mark.parametrize("text", ["nan", "1.2.3", "--1", "-", ".", "1_0", "x", "1-2", "12345678901234567x"])
def test_parsing_refuses_what_is_no_number(text):
    with pytest.raises(UserError, match=r"^s:2: .* is not a score$"):
        scores.parse_floats(Tokens.of(["1.0", text]), "s")


@given(st.lists(st.tuples(words, words, st.booleans(), numbers), min_size=1, max_size=30))
def test_score_files_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("s") / "a b.score"
    trials = trials_of([row[:3] for row in rows])
    value = np.array([row[3] for row in rows])
    scores.write_scores(path, trials, value)
    lines = path.read_bytes().decode().split("\n")[:-1]
    assert [line.split(" ")[:2] for line in lines] == [[row[0], row[1]] for row in rows]
    back = scores.read_scores(path)
    assert back.score.tolist() == [float(line.split(" ")[2]) for line in lines]
    assert back.score.tolist() == scores.rounded(value).tolist()
    target, nontarget = scores.split(back, trials)
    assert sorted(np.concatenate([target, nontarget])) == sorted(back.score)
    assert len(target) == trials.target.sum()


def test_reading_takes_any_white_space(tmp_path):
    (tmp_path / "trials").write_bytes(b"  a\tb  target\r\nlonger-name\xc3\xa9 c nontarget")
    trials = scores.read_trials(tmp_path / "trials")
    assert list(trials.enroll) == ["a", "longer-name\u00e9"] and list(trials.test) == ["b", "c"]
    assert trials.target.tolist() == [True, False]


def test_many_lines_cross_every_block(tmp_path):
    """More rows than one block, ids of changing length."""
    rng = np.random.default_rng(1)
    rows = [(f"e{i % 977}" * (1 + i % 3), f"t{i}", i % 7 == 0) for i in range(70_000)]
    with open(tmp_path / "trials", "w") as stream:
        stream.writelines(f"{e} {t} {'target' if k else 'nontarget'}\n" for e, t, k in rows)
    trials = scores.read_trials(tmp_path / "trials")
    value = rng.normal(0, 50, len(rows))
    scores.write_scores(tmp_path / "s", trials, value)
    expected = "".join(f"{e} {t} {v:.6f}\n" for (e, t, _), v in zip(rows, value))
    assert (tmp_path / "s").read_text() == expected
    assert trials.target.tolist() == [k for _, _, k in rows]


@pytest.mark.parametrize("content, message", [
    (b"", r"t: empty file$"),
    (b"a b target\na b\n", r"t:2: 2 fields where 3 are expected$"),
    (b"a b target\n\na b target\n", r"t:2: 0 fields where 3 are expected: an empty line; take it out$"),
    (b"a,b,1\n", r"t:1: 1 fields where 3 are expected; write blanks in place of commas$"),
    (b"\xef\xbb\xbfa b 1\n", r"t: begins with a byte order mark; save it as UTF-8 without one$"),
    (b"a b target x\n", r"t:1: 4 fields where 3 are expected$"),
    (b"a b target\na b targit\n", r"t:2: 'targit' where target or nontarget"),
    (b"a b nontarges\n", r"t:1: 'nontarges'"),
    (b"a b 2\n", r"t:1: '2' where target or nontarget is expected \(or 1 or 0"),
    (b"a b 1\na b target\n", r"t:2: 'target' where 1 or 0 is expected, as in the lines before \(`enroll test 1\|0`\)"),
    (b"0 a b\n2 a b\n", r"t:2: '2' where 1 or 0 is expected, as in the lines before \(`1\|0 enroll test`\)"),
    (b"1 a 0\n0 b 1\n", r"t:1: may be `enroll test 1\|0` or `1\|0 enroll test`, as may all 2 lines"),
    (b"1 a target\n", r"t:1: may be `enroll test target\|nontarget` or `1\|0 enroll test`")])
def test_bad_trials_name_the_line(tmp_path, content, message):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UserError, match=message):
        scores.read_trials(tmp_path / "t")


@pytest.mark.parametrize("line", ["{a} {b} {word}", "{a} {b} {bit}", "{bit} {a} {b}"])
@given(rows=st.lists(st.tuples(ids, ids, st.booleans()), min_size=1, max_size=30))
def test_every_form_reads_alike(tmp_path_factory, line, rows):
    path = tmp_path_factory.mktemp("forms") / "t"
    path.write_text("".join(line.format(a=a, b=b, word="target" if t else "nontarget", bit=int(t)) + "\n" for a, b, t in rows))
    trials = scores.read_trials(path)
    assert list(zip(trials.enroll, trials.test, trials.target.tolist())) == rows
    assert list(scores.read_trials(path, labels=False).target) == [t for _, _, t in rows]


def test_one_line_tells_the_form_where_ids_look_like_labels(tmp_path):
    (tmp_path / "t").write_text("1 a 0\n1 b 1\nx c 1\n")
    trials = scores.read_trials(tmp_path / "t")
    assert list(trials.enroll) == ["1", "1", "x"] and trials.target.tolist() == [False, True, True]


def test_unlabelled_trials(tmp_path):
    (tmp_path / "t").write_text("a b\nc d\n")
    assert scores.read_trials(tmp_path / "t", labels=False).target is None
    with pytest.raises(UserError, match="2 fields"):
        scores.read_trials(tmp_path / "t")
    with pytest.raises(UserError, match="no such file"):
        scores.read_trials(tmp_path / "none")


def test_scores_of_another_list_are_refused(tmp_path):
    trials = trials_of([("a", "b", True), ("c", "d", False)])
    scores.write_scores(tmp_path / "s", trials, [1.0, 2.0])
    other = trials_of([("a", "b", True), ("c", "e", False)])
    with pytest.raises(UserError, match="s:2: c d where trials has c e"):
        scores.split(scores.read_scores(tmp_path / "s"), other)
    with pytest.raises(UserError, match="2 scores for the 1 trials"):
        scores.split(scores.read_scores(tmp_path / "s"), trials_of([("a", "b", True)]))


def test_a_score_that_is_not_finite_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match="trial a b is nan"):
        scores.write_scores(tmp_path / "s", trials_of([("a", "b", True)]), [np.nan])
    assert not list(tmp_path.iterdir())


def test_columns_share_no_line(tmp_path):
    (tmp_path / "t").write_text("a 1\nb 2\n")
    keys, values = read_columns(tmp_path / "t", (2,))
    assert list(keys) == ["a", "b"] and list(values) == ["1", "2"]
