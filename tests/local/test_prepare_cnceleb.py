"""local/prepare_cnceleb: models of several recordings, trials, sets to train on, refusals."""

import sys
from collections import Counter

import pytest

from svq.data.validate import validate
from tests.local import out_of_domain
from tests.local.helpers import ROOT, run, table, tree, trials
from tests.local.out_of_domain import call, refused

sys.path.insert(0, str(ROOT / "local"))
import prepare_cnceleb  # noqa: E402


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A miniature in folders whose names need quoting, and the data directories made of it."""
    root = out_of_domain.cnceleb(tmp_path_factory.mktemp("cn") / "it's a \"corpus\" $HOME")
    options = ("--cnceleb1", root / "CN-Celeb_flac", "--cnceleb2", root / "CN-Celeb2_flac", "--counts", root / "counts",
               "--train", "true", "--dev-speakers", 2, "--dev-utts", 3)
    call(prepare_cnceleb, *options, "--data", root / "data")
    return root, options


def test_data_directories_are_sound_and_speakers_are_disjoint(prepared):
    data = prepared[0] / "data"
    speakers = {}
    for part, decode in (("cnceleb", "decode"), ("cnceleb_dev", "decode"), ("cnceleb_train", "none")):
        problems = validate(data / part, check_audio=decode)
        assert problems.total == 0, problems.lines()
        speakers[part] = Counter(table(data / part / "utt2spk").values())
    assert len(speakers["cnceleb"]) == 4 and set(speakers["cnceleb_dev"].values()) == {3}
    assert set(speakers["cnceleb_dev"]) | set(speakers["cnceleb_train"]) == {
        *(f"id000{i:02d}" for i in range(4)), "id10000", "id10001"}
    assert set(speakers["cnceleb_train"].values()) == {8} and len(speakers["cnceleb_train"]) == 4
    # Three utterances of four sessions: no two of one session.
    sessions = Counter(utt.rpartition("-")[0] for utt in table(data / "cnceleb_dev" / "utt2spk"))
    assert set(sessions.values()) == {1}


def test_both_lists_are_the_official_trials_against_models(prepared):
    root = prepared[0]
    official = [line.split() for line in open(root / "CN-Celeb_flac" / "eval" / "lists" / "trials.lst")]
    for name, ending in (("trials", "-enroll"), ("trials_concat", "-concat")):
        want = [(model.replace("-enroll", ending), test[5:-4], "target" if label == "1" else "nontarget")
                for model, test, label in official]
        assert trials(root / "data" / "cnceleb" / name) == want


def test_models_hold_the_recordings_of_the_map(prepared):
    data = prepared[0] / "data" / "cnceleb"
    models = {model: utts.split() for model, utts in table(data / "enroll.spk2utt").items()}
    assert models["id00801-enroll"] == ["id00801-enroll-singing-01-001", "id00801-enroll-singing-01-002"]
    assert models["id00800-concat"] == ["id00800-enroll-concat"]
    wav = table(data / "wav.scp")
    assert wav["id00801-enroll-singing-01-002"].endswith("/data/id00801/singing-01-002.flac")
    assert wav["id00800-enroll-concat"].endswith("/eval/enroll/id00800-enroll.flac")
    assert float(table(data / "utt2dur")["id00800-enroll-concat"]) == 0.6
    domains = table(data / "utt2domain")
    assert domains["id00800-enroll-concat"] == "mixed" and domains["id00801-enroll-concat"] == "singing"
    assert domains["id00803-live_broadcast-01-002"] == "live_broadcast"


def test_shell_script_gives_the_same_bytes(prepared, tmp_path):
    run("prepare_cnceleb.sh", *prepared[1], "--data", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(prepared[0] / "data")


def test_one_way_of_enrolment_needs_no_more_than_its_recordings(prepared, tmp_path):
    official = prepared[0] / "CN-Celeb_flac"
    corpus = tmp_path / "only eval"
    corpus.mkdir()
    (corpus / "eval").symlink_to(official / "eval")
    options = ("--cnceleb1", corpus, "--data", tmp_path)
    assert "no data; CN-Celeb1 is published at" in refused(prepare_cnceleb, *options)
    call(prepare_cnceleb, *options, "--enrolment", "concat")
    made = {path.name for path in (tmp_path / "cnceleb").iterdir()}
    assert {"trials_concat", "enroll.spk2utt"} <= made and "trials" not in made


def _spoil(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _keep(path, ending):
    path.write_text("".join(line for line in path.read_text().splitlines(True) if line.strip().endswith(ending)))


LISTS = "CN-Celeb_flac/eval/lists/"


@pytest.mark.parametrize("spoil, said", [
    (lambda c: _spoil(c / (LISTS + "trials.lst"), "001.wav 1", "001.wav 0"), "trials.lst:1: label 0 for id00800-"),
    (lambda c: _spoil(c / (LISTS + "trials.lst"), "id00800-enroll ", "someone "), "trials.lst:1: not `idNNNNN-enroll"),
    (lambda c: _spoil(c / (LISTS + "enroll.map"), "id00801-enroll", "id00999-enroll"), "enroll.map:2: not `idNNNNN-"),
    (lambda c: _keep(c / (LISTS + "trials.lst"), " 0"), "trials.lst: no target trial in it; is it the official list?"),
    (lambda c: (c / (LISTS + "enroll.map")).write_text("id00800 id00800/speech-01-001.wav\n"), "no model of id00801"),
    (lambda c: (c / "CN-Celeb_flac/eval/test/id00801-singing-02-001.flac").unlink(), "trials.lst:5: 1 recordings of"),
    (lambda c: (c / "CN-Celeb_flac/data/id00801/singing-01-001.flac").unlink(), "singing-01-001: not there, as .flac"),
    (lambda c: (c / "CN-Celeb_flac/eval/enroll/id00801-enroll.flac").write_bytes(b""), "id00801-enroll.flac"),
    (lambda c: _spoil(c / "counts", "trials 48", "trials 3484292"), "48 trials, not the 3484292 of the complete"),
    (lambda c: (c / (LISTS + "enroll.map")).unlink(), "no eval/lists/enroll.map; CN-Celeb1 is published at"),
])
def test_a_broken_corpus_is_named_in_one_line(tmp_path, spoil, said):
    root = out_of_domain.cnceleb(tmp_path / "cn", dev=2, second=0)
    spoil(root)
    options = ("--cnceleb1", root / "CN-Celeb_flac", "--counts", root / "counts", "--data", tmp_path / "data")
    assert said in refused(prepare_cnceleb, *options)
    assert not (tmp_path / "data").exists()
