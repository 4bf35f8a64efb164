"""local/prepare_commonbench: comparison lists of several forms, speakers by tables or by trials, refusals."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.data.validate import validate
from tests.local import out_of_domain
from tests.local.helpers import ROOT, run, table, tree, trials
from tests.local.out_of_domain import call, refused

sys.path.insert(0, str(ROOT / "local"))
import commonbench_tree  # noqa: E402
import prepare_commonbench  # noqa: E402
from svq.errors import UserError  # noqa: E402


@pytest.fixture(scope="module", params=["", "cv-corpus-16.1"])
def corpus(request, tmp_path_factory):
    return out_of_domain.commonbench(tmp_path_factory.mktemp("cb") / "it's a \"corpus\"", request.param)


def options(corpus, data, *more):
    return ("--corpus", corpus, "--comparisons", corpus / "comparisons.csv", "--data", data, *more)


@pytest.mark.parametrize("speakers", ["tables", "trials"])
def test_trials_are_the_comparisons(corpus, tmp_path, speakers):
    call(prepare_commonbench, *options(corpus, tmp_path / "data", "--speakers", speakers))
    problems = validate(tmp_path / "data", check_audio="decode")
    assert problems.total == 0, problems.lines()
    spk = table(tmp_path / "data" / "utt2spk")
    clip = {utt: utt.removeprefix(f"{speaker}-common_voice_") for utt, speaker in spk.items()}
    made = [(clip[a], clip[b], int(kind == "target")) for a, b, kind in trials(tmp_path / "data" / "trials")]
    assert made == list(out_of_domain.COMPARISONS)
    # de_1xx, de_2xx and zh-CN_3xx are a speaker each, however they are told.
    groups = {utt: clip[utt].split("_")[1][0] for utt in spk}
    assert len(set(spk.values())) == 3 and len({(spk[u], groups[u]) for u in spk}) == 3
    assert set(table(tmp_path / "data" / "utt2domain").values()) == {"de", "zh-CN"}
    assert not (tmp_path / "data" / "spk2gender").exists()  # one of them never told


def test_same_command_gives_the_same_bytes_and_languages_are_chosen(corpus, tmp_path):
    for name in ("a", "b"):
        run("prepare_commonbench.sh", *options(corpus, tmp_path / name, "--languages", "de"))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert len(trials(tmp_path / "a" / "trials")) == 5


def test_trials_of_withdrawn_clips_are_left_out_where_asked(corpus, tmp_path):
    lines = (corpus / "comparisons.csv").read_text() + "common_voice_de_101.mp3,common_voice_de_999.mp3,1\n"
    (tmp_path / "list.csv").write_text(lines)
    given = ("--corpus", corpus, "--comparisons", tmp_path / "list.csv", "--data", tmp_path / "data")
    assert "list.csv:9: 1 of 8 clips are not there: common_voice_de_999" in refused(prepare_commonbench, *given)
    assert not (tmp_path / "data").exists()
    said = call(prepare_commonbench, *given, "--drop-missing", "true")
    assert "left out the trials of 1 clips" in said and len(trials(tmp_path / "data" / "trials")) == 7


@pytest.mark.parametrize("lines, columns, said", [
    ("a\nde/clips/common_voice_de_101.mp3;common_voice_de_102.mp3;yes\n", "", "list:2: 2 clips and 0 labels"),
    ("1,1,common_voice_de_101.mp3,common_voice_de_102.mp3\n", "", "list:1: 2 clips and 2 labels"),
    ("common_voice_de_101 common_voice_de_201 1\n", "", "a target trial of common_voice_de_101 and"),
    ("common_voice_de_101 common_voice_de_102 0\n", "", "list:1: a non-target trial of"),
    ("common_voice_de_101 common_voice_de_102 1\nx y 1\n", "", "list:2: not two clips"),
    ("common_voice_de_101 common_voice_de_102 1\n", "", "not a single non-target trial"),
    ("common_voice_de_101 common_voice_de_102 1\n", "enroll label", "--columns names enroll, test, label once each"),
    ("common_voice_de_101 common_voice_fr_102 1\n", "", "list:1: 1 of 2 clips are not there"),
])
def test_a_broken_list_is_named_in_one_line(corpus, tmp_path, lines, columns, said):
    (tmp_path / "list").write_text(lines)
    arguments = ("--corpus", corpus, "--comparisons", tmp_path / "list", "--data", tmp_path / "data")
    assert said in refused(prepare_commonbench, *arguments, f"--columns={columns}")
    assert not (tmp_path / "data" / "trials").exists()


def test_languages_without_a_comparison_are_named(corpus, tmp_path):
    said = refused(prepare_commonbench, *options(corpus, tmp_path / "data", "--languages", "sv-SE"))
    assert "comparisons.csv: no comparison of two clips in it; --languages" in said


def test_a_clip_in_no_table_and_a_label_against_the_trials_are_named(corpus, tmp_path):
    rows = ((1, 2, 1), (2, 3, 1), (1, 3, 0))
    (tmp_path / "list").write_text("".join(f"common_voice_de_10{a} common_voice_de_10{b} {t}\n" for a, b, t in rows))
    arguments = ("--corpus", corpus, "--comparisons", tmp_path / "list", "--data", tmp_path / "data")
    assert "list:3: a non-target trial" in refused(prepare_commonbench, *arguments, "--speakers", "trials")
    bare = tmp_path / "bare"
    (bare / "de").mkdir(parents=True)
    clips = next(corpus.rglob("de/clips"))
    (bare / "de" / "clips").symlink_to(clips)
    arguments = ("--corpus", bare, *arguments[2:])
    want = "list:1: common_voice_de_101, common_voice_de_102, common_voice_de_103 in no table"
    assert want in refused(prepare_commonbench, *arguments)


@pytest.mark.parametrize("line, columns", [
    ("common_voice_de_1.mp3,common_voice_sv-SE_2.mp3,1", ""),
    ("1 de/clips/common_voice_de_1.mp3 sv-SE/clips/common_voice_sv-SE_2.mp3", ""),
    ("\ufeff0;\"common_voice_de_1.mp3\";1;\"common_voice_sv-SE_2.mp3\"\r", "- enroll label test"),
    ("common_voice_de_1\tcommon_voice_sv-SE_2\tTrue", ""),
])
def test_lists_of_many_forms_are_read(tmp_path, line, columns):
    (tmp_path / "list").write_text(line + "\n", newline="")
    rows = list(commonbench_tree.read_comparisons(tmp_path / "list", columns))
    assert rows == [(1, True, "common_voice_de_1", "common_voice_sv-SE_2")]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_joined_clips_are_the_connected_components(trials_):
    comparisons = [(n, target, str(a), str(b)) for n, (target, a, b) in enumerate(trials_)]
    reached = {clip: {clip} for row in comparisons for clip in row[2:]}
    for _ in reached:  # as often as there are clips: no path is longer
        for _, target, a, b in comparisons:
            if target:
                reached[a] = reached[b] = reached[a] | reached[b]
    for clip in reached:
        for other in list(reached[clip]):
            reached[clip] |= reached[other]
    assert prepare_commonbench.joined(comparisons) == {clip: min(members) for clip, members in reached.items()}


def test_labels_at_odds_are_refused():
    rows = [(7, True, "a", "b")]
    prepare_commonbench.check_labels(rows, {"a": "x", "b": "x"}, "list", "")
    with pytest.raises(UserError, match="list:7: a target trial of a and b, of two speakers"):
        prepare_commonbench.check_labels(rows, {"a": "x", "b": "y"}, "list", "")
