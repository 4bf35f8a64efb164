"""local/prepare_speechocean762, prepare_librispeech: splits, pieces, trials, refusals; on the real corpora where present."""

import itertools
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from svq.data import audio
from svq.data.validate import validate
from tests.local import corpora
from tests.local.helpers import CORPORA, ROOT, error, run, table, tree, trials

sys.path.insert(0, str(ROOT / "local"))
import prepare_librispeech  # noqa: E402
import prepare_speechocean762  # noqa: E402

SCRIPT = "prepare_speechocean762.py"


@pytest.fixture(autouse=True)
def pipes(monkeypatch):
    """As run.sh does: pieces are cut by SoX."""
    monkeypatch.setenv("SVQ_ALLOW_PIPES", "true")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A miniature corpus in folders whose names need quoting, and the data directories made of it."""
    folder = tmp_path_factory.mktemp("so") / "it's a \"corpus\" $HOME"
    corpora.speechocean762(folder / "so", train=12, test=6, utts=3)
    corpora.librispeech(folder / "ls")
    options = ("--corpus", folder / "so", "--extra-corpus", folder / "ls", "--dev-speakers", 4, "--num-nontarget", 20)
    run(SCRIPT, *options, "--data", folder / "data")
    return folder, options


def test_data_directories_are_sound_and_speakers_are_disjoint(prepared):
    data = prepared[0] / "data"
    speakers = {}
    for part in ("train", "dev", "test"):
        problems = validate(data / part, check_audio="decode")
        assert problems.total == 0, problems.lines()
        speakers[part] = set(table(data / part / "utt2spk").values())
    assert {part: len(ids) for part, ids in speakers.items()} == {"train": 8 + 4, "dev": 4, "test": 6}
    assert not any(a & b for a, b in itertools.combinations(speakers.values(), 2))
    assert speakers["test"] == {f"{i:04d}" for i in range(13, 19)}
    assert {f"ls-{i}" for i in (103, 104, 105, 106)} <= speakers["train"]
    assert table(data / "train" / "spk2gender")["ls-103"] == "f"
    for part in ("dev", "test"):
        ages = {utt: "child" if int(utt[:4]) % 3 == 0 else "adult" for utt in table(data / part / "utt2spk")}
        assert table(data / part / "utt2domain") == ages
    assert not (data / "train" / "utt2domain").exists()


def test_trials_are_all_targets_and_a_same_gender_draw(prepared):
    data = prepared[0] / "data"
    # dev: two speakers of each gender give 18 pairs in all, fewer than the 20 asked for
    for part, drawn in (("dev", 18), ("test", 20)):
        spk, gender = table(data / part / "utt2spk"), table(data / part / "spk2gender")
        pairs = list(itertools.combinations(sorted(spk), 2))
        want = {(a, b) for a, b in pairs if spk[a] == spk[b]}
        got = trials(data / part / "trials")
        assert {(a, b) for a, b, kind in got if kind == "target"} == want
        others = [(a, b) for a, b, kind in got if kind == "nontarget"]
        assert len(others) == len(set(others)) == drawn
        assert all(spk[a] != spk[b] and gender[spk[a]] == gender[spk[b]] for a, b in others)
    everything = {(a, b): kind for a, b, kind in trials(data / "test" / "trials_all")}
    assert everything == {(a, b): "target" if spk[a] == spk[b] else "nontarget" for a, b in pairs}


def test_pieces_decode_to_the_samples_of_the_recording(prepared):
    folder = prepared[0]
    whole, _ = soundfile.read(folder / "ls/train-clean-100/103/1240/103-1240-0000.flac", dtype="float32")
    wav = table(folder / "data/train/wav.scp")
    durations = table(folder / "data/train/utt2dur")
    pieces = {utt: value for utt, value in wav.items() if utt.startswith("ls-")}
    # 9 s: two pieces, the last second dropped; 7 s: 4 + 3; 4 s and 1.5 s stay whole
    assert sorted(float(durations[utt]) for utt in pieces) == [1.5, 3.0, 4.0, 4.0, 4.0, 4.0]
    second = audio.load(pieces["ls-103-1240-0000-p001"])
    np.testing.assert_allclose(second, whole[64000:128000], atol=1 / 32768)


def test_same_command_gives_the_same_bytes_and_the_seed_matters(prepared, tmp_path):
    folder, options = prepared
    run(SCRIPT, *options, "--data", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(folder / "data")
    run(SCRIPT, *options, "--data", tmp_path / "other", "--seed", 1)
    assert tree(tmp_path / "other") != tree(folder / "data")


def test_preparing_again_takes_away_what_belonged_to_other_recordings(prepared, tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("feats.scp", "feats.yaml", "utt2num_frames", "trials_old", "notes.txt"):
        (tmp_path / "train" / name).write_text("x y\n")
    run(SCRIPT, *prepared[1], "--data", tmp_path)
    left = {path.name for path in (tmp_path / "train").iterdir()}
    assert left == {"wav.scp", "utt2spk", "spk2utt", "utt2dur", "spk2gender", "notes.txt"}


def test_a_speaker_in_train_and_test_is_named_and_nothing_is_written(tmp_path):
    corpus = corpora.speechocean762(tmp_path / "so")
    for name in ("wav.scp", "utt2spk", "spk2gender"):
        both = (corpus / "test" / name).read_text() + (corpus / "train" / name).read_text().splitlines()[0] + "\n"
        (corpus / "test" / name).write_text(both)
    assert "0001 (train and test)" in error(SCRIPT, "--corpus", corpus, "--data", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def _spoil(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda c: (c / "train" / "wav.scp").unlink(), "wav.scp: no such file"),
        (lambda c: (c / "WAVE/SPEAKER0002/000020001.WAV").unlink(), "train/wav.scp:5: "),
        (lambda c: (c / "WAVE/SPEAKER0002/000020001.WAV").write_bytes(b""), "000020001.WAV"),
        (lambda c: _spoil(c / "train" / "utt2spk", "000020001\t0002\n", ""), "train/wav.scp:5: 000020001 is not in"),
        (lambda c: _spoil(c / "test" / "spk2gender", "\tf", "\tx"), "spk2gender: no m or f for speaker 0012"),
        (lambda c: _spoil(c / "train" / "utt2spk", "000020001\t0002", "000020001"), "train/utt2spk:5: "),
    ],
)
def test_a_broken_corpus_is_named_in_one_line(tmp_path, spoil, said):
    corpus = corpora.speechocean762(tmp_path / "so")
    spoil(corpus)
    assert said in error(SCRIPT, "--corpus", corpus, "--dev-speakers", 2, "--data", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_wrong_options_are_refused(tmp_path):
    corpus = corpora.speechocean762(tmp_path / "so")
    assert "no such folder (speechocean762)" in error(SCRIPT, "--corpus", tmp_path / "nowhere")
    assert "--dev-speakers is 10" in error(SCRIPT, "--corpus", corpus, "--dev-speakers", 10)
    assert "no such folder" in error(SCRIPT, "--corpus", corpus, "--dev-speakers", 2, "--extra-corpus", tmp_path / "x")


def test_shell_script_passes_its_options_on(prepared, tmp_path):
    folder, _ = prepared
    musan, rirs = corpora.musan(tmp_path), corpora.rirs_noises(tmp_path)
    run("prepare_speechocean762.sh", "--corpus", folder / "so", "--extra-corpus", folder / "ls", "--dev-speakers", 4,
        "--num-nontarget", 20, "--noise", musan, "--rir", rirs, "--data", tmp_path / "data")
    made = tree(tmp_path / "data")
    assert {k: v for k, v in made.items() if k.split("/")[0] not in ("noise", "rir")} == tree(folder / "data")
    assert "noise/wav.scp" in made and "rir/wav.scp" in made
    assert run("prepare_speechocean762.sh", "--dev-speakers", "few", ok=False).returncode == 2


@given(st.floats(0.1, 60), st.floats(0.5, 10), st.floats(0, 10))
def test_cut_covers_the_recording_up_to_a_short_rest(seconds, piece, shortest):
    pieces = prepare_librispeech.cut(seconds, piece, shortest)
    assert pieces[0][0] == 0
    for (a, length), (b, _) in itertools.pairwise(pieces):
        assert length == piece and b == pytest.approx(a + length)
    lost = seconds - sum(length for _, length in pieces)
    assert -1e-6 < lost < min(piece, shortest) + 1e-6 or lost == pytest.approx(0, abs=1e-6)
    assert all(length >= min(shortest, piece, seconds) for _, length in pieces)


@pytest.mark.parametrize("official", [True, False])
def test_librispeech_alone(tmp_path, official):
    corpus = corpora.librispeech(tmp_path / "ls", official=official)
    run("prepare_librispeech.py", "--corpus", corpus, "--data", tmp_path / "data", "--piece-seconds", 3)
    assert validate(tmp_path / "data", check_audio="decode").total == 0
    assert table(tmp_path / "data" / "spk2gender")["ls-104"] == "m"
    assert "dev-clean" in error("prepare_librispeech.py", "--corpus", corpus, "--subsets", "train-clean-100 dev-clean")
    corpora.write_wav(corpus / "train-clean-100" / "103" / "stray.wav", corpora.noise(0.1, 0))
    assert "stray.wav: not <subset>" in error("prepare_librispeech.py", "--corpus", corpus, "--data", tmp_path / "x")


def test_librispeech_broken_genders(tmp_path):
    corpus = corpora.librispeech(tmp_path / "ls")
    _spoil(corpus / "SPEAKERS.TXT", "| M |", "| ? |")
    assert "SPEAKERS.TXT:3: " in error("prepare_librispeech.py", "--corpus", corpus, "--data", tmp_path / "x")
    (corpus / "SPEAKERS.TXT").unlink()
    run("prepare_librispeech.py", "--corpus", corpus, "--data", tmp_path / "data")
    assert not (tmp_path / "data" / "spk2gender").exists()


@pytest.mark.skipif(not (CORPORA / "speechocean762").is_dir(), reason="the real corpora are not beside the repository")
def test_real_corpora(tmp_path):
    said = run(SCRIPT, "--corpus", CORPORA / "speechocean762", "--extra-corpus", CORPORA / "librispeech251",
               "--data", tmp_path).stdout
    assert f"{tmp_path}/test: 80 speakers, 1600 utterances" in said
    assert f"{tmp_path}/dev: 20 speakers, 400 utterances" in said
    train = table(tmp_path / "train" / "utt2spk")
    own = [speaker for speaker in train.values() if not speaker.startswith("ls-")]
    assert (len(set(own)), len(own), len(set(train.values()) - set(own))) == (105, 2100, 251)
    assert f"{tmp_path}/test/trials: 15200 target and 100000 of" in said
    assert sum(1 for _ in open(tmp_path / "test" / "trials_all")) == 1600 * 1599 // 2
    assert validate(tmp_path / "test", check_audio="none").total == 0
