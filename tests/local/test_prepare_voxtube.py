"""local/prepare_voxtube: speakers, sessions and trials drawn, genders and languages, refusals."""

import sys

import pytest

from svq.data.validate import validate
from tests.local import out_of_domain
from tests.local.helpers import ROOT, run, table, tree, trials
from tests.local.out_of_domain import call, refused

sys.path.insert(0, str(ROOT / "local"))
import prepare_voxtube  # noqa: E402


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return out_of_domain.voxtube(tmp_path_factory.mktemp("vt") / "it's a \"corpus\"")


def test_utterances_spread_over_videos_and_trials_stay_within_a_gender(corpus, tmp_path):
    call(prepare_voxtube, "--corpus", corpus / "audio", "--meta", corpus / "resources", "--data", tmp_path,
         "--speakers", 4, "--utts", 3)
    problems = validate(tmp_path, check_audio="decode")
    assert problems.total == 0, problems.lines()
    spk, gender = table(tmp_path / "utt2spk"), table(tmp_path / "spk2gender")
    # The first speaker has one video, the last is in no table.
    assert sorted(set(spk.values())) == sorted(out_of_domain.channel(i) for i in (1, 2, 3, 4))
    assert len({utt.rpartition("-segment_")[0] for utt in spk}) == len(spk) == 12
    made = trials(tmp_path / "trials")
    assert sum(kind == "target" for *_, kind in made) == 4 * 3
    assert all((spk[a] == spk[b]) == (kind == "target") and gender[spk[a]] == gender[spk[b]] for a, b, kind in made)
    assert set(table(tmp_path / "utt2domain").values()) == {"english", "haitian_creole"}


def test_seed_and_languages_choose(corpus, tmp_path):
    options = ("--corpus", corpus / "audio", "--speakers", 2, "--utts", 2)
    for name, seed in (("a", 0), ("b", 0), ("c", 3)):
        run("prepare_voxtube.sh", *options, "--data", tmp_path / name, "--seed", seed)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")
    assert not (tmp_path / "a" / "spk2gender").exists() and not (tmp_path / "a" / "utt2domain").exists()
    call(prepare_voxtube, "--corpus", corpus / "audio", "--meta", corpus / "resources", "--languages", "english",
         "--speakers", 0, "--min-videos", 1, "--data", tmp_path / "d")
    assert set(table(tmp_path / "d" / "spk2utt")) == {out_of_domain.channel(i) for i in range(3)}
    assert (tmp_path / "d" / "utt2domain").exists()
    call(prepare_voxtube, *options, "--data", tmp_path / "d")
    assert not (tmp_path / "d" / "utt2domain").exists()  # it was of other recordings


def test_refusals(corpus, tmp_path):
    options = ("--corpus", corpus / "audio", "--data", tmp_path / "data")
    assert "5 speakers have 2 videos, not 400" in refused(prepare_voxtube, *options)
    meta = ("--meta", corpus / "resources")
    assert "klingon not in" in refused(prepare_voxtube, *options, *meta, "--languages", "klingon")
    assert "--languages needs --meta" in refused(prepare_voxtube, *options, "--languages", "english")
    assert "no folder named as a channel" in refused(prepare_voxtube, "--corpus", corpus, *options[2:])
    assert "--meta takes VoxTube's folder" in refused(prepare_voxtube, *options, "--meta", tmp_path)
    (tmp_path / "language_gender_meta.csv").write_text("speaker_id,gender,language\nUCx,unknown,english\n")
    assert "meta.csv:2: not `speaker" in refused(prepare_voxtube, *options, "--meta", tmp_path)
    assert not (tmp_path / "data").exists()
