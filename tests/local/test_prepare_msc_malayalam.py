"""local/prepare_msc_malayalam: speakers and utterances kept, both forms of the metadata, refusals; the real corpus."""

import sys
from collections import Counter

import pytest

from svq.data.validate import validate
from tests.local import out_of_domain
from tests.local.helpers import CORPORA, ROOT, run, table, tree, trials
from tests.local.out_of_domain import call, refused

sys.path.insert(0, str(ROOT / "local"))
import prepare_msc_malayalam  # noqa: E402


@pytest.mark.parametrize("published", [False, True])
def test_speakers_with_enough_utterances_and_all_their_target_pairs(tmp_path, published):
    corpus = out_of_domain.malayalam(tmp_path / "it's \"it\"", published)
    options = ("--max-utts", 6, "--num-nontarget", 50)
    said = call(prepare_msc_malayalam, "--corpus", corpus, "--data", tmp_path / "data", *options)
    problems = validate(tmp_path / "data", check_audio="decode")
    assert problems.total == 0, problems.lines()
    spk = table(tmp_path / "data" / "utt2spk")
    assert sorted(Counter(spk.values()).values()) == [5, 6, 6, 6]  # of 8, 5, 6, 7; the speaker of four is left out
    made = trials(tmp_path / "data" / "trials")
    assert sum(kind == "target" for *_, kind in made) == 10 + 3 * 15 and len(made) == 55 + 50
    assert all((spk[a] == spk[b]) == (kind == "target") for a, b, kind in made)
    assert "4 speakers, 23 of 30 utterances" in said and not (tmp_path / "data" / "spk2gender").exists()
    durations = {float(seconds) for seconds in table(tmp_path / "data" / "utt2dur").values()}
    assert durations == {0.3 if not published else 0.1}  # 4,800 samples, of 48,000 a second as published


def test_speakers_of_known_gender_give_trials_within_a_gender(tmp_path):
    corpus = out_of_domain.malayalam(tmp_path / "msc")
    options = ("--known-gender", "true", "--max-utts", 0, "--min-utts", 4)
    call(prepare_msc_malayalam, "--corpus", corpus, "--data", tmp_path / "data", *options)
    gender, spk = table(tmp_path / "data" / "spk2gender"), table(tmp_path / "data" / "utt2spk")
    assert gender == {"ml000": "m", "ml001": "f", "ml003": "m", "ml004": "f"} and len(spk) == 24
    assert all(gender[spk[a]] == gender[spk[b]] for a, b, _ in trials(tmp_path / "data" / "trials"))


def test_same_command_gives_the_same_bytes_and_the_seed_matters(tmp_path):
    corpus = out_of_domain.malayalam(tmp_path / "msc")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run("prepare_msc_malayalam.sh", "--corpus", corpus, "--data", tmp_path / name, "--max-utts", 5, "--seed", seed)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")


def _spoil(corpus, old, new):
    text = (corpus / "metadata.tsv").read_text()
    assert old in text
    (corpus / "metadata.tsv").write_text(text.replace(old, new, 1))


def _rename(corpus, *pairs):
    for old, new in pairs:
        text = (corpus / "metadata.tsv").read_text()
        (corpus / "metadata.tsv").write_text(text.replace(f"\t{old}\t", f"\t{new}\t"))


@pytest.mark.parametrize("spoil, options, said", [
    (lambda c: (c / "metadata.tsv").unlink(), (), "metadata.tsv: no such file"),
    (lambda c: _spoil(c, "\tgender", "\tsex"), (), "metadata.tsv:1: the header lacks the column `speaker_gender`"),
    (lambda c: _spoil(c, "\tml000\t", "\t"), (), "metadata.tsv:2: 4 columns, not the header's 5"),
    (lambda c: _spoil(c, "\tml000\t", "\t\t"), (), "metadata.tsv:2: an utterance, speaker or path is empty"),
    (lambda c: _spoil(c, "ml000\tMale", "ml000\tFemale"), (), "metadata.tsv:3: speaker ml000 is of the other gender"),
    (lambda c: (c / "audio/ml001/ml001-0001.ogg").unlink(), (), "ml001-0001.ogg is not there"),
    (lambda c: (c / "audio/ml001/ml001-0001.ogg").write_bytes(b""), (), "ml001-0001.ogg"),
    (lambda c: _rename(c, ("ml000", "ml 0"), ("ml001", "ml-0")), (), "two speakers would be called ml_0: ml 0 and ml-0"),
    (lambda c: None, ("--min-utts", 9), "fewer than two speakers with 9 utterances"),
    (lambda c: None, ("--max-utts", 1), "--min-utts and --max-utts are at least 2"),
])
def test_a_broken_corpus_is_named_in_one_line(tmp_path, spoil, options, said):
    corpus = out_of_domain.malayalam(tmp_path / "msc")
    spoil(corpus)
    assert said in refused(prepare_msc_malayalam, "--corpus", corpus, "--data", tmp_path / "data", *options)
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(not (CORPORA / "msc_malayalam").is_dir(), reason="the real corpus is not beside the repository")
def test_real_corpus(tmp_path):
    said = call(prepare_msc_malayalam, "--corpus", CORPORA / "msc_malayalam", "--data", tmp_path)
    assert f"{tmp_path}: 32 speakers, 624 of 1541 utterances" in said
    assert f"{tmp_path}/trials: 8619 target and 100000 of" in said
    assert validate(tmp_path, check_audio="none").total == 0
