"""local/check_voxceleb and prepare_voxceleb on miniature trees in the official layout."""

import itertools
import os
import re
import shutil

import numpy as np
import pytest

from svq.data import audio
from svq.data.validate import validate
from tests.local import corpora
from tests.local.helpers import ROOT, error, run, table, tree, trials

SCRIPT, STAND_IN = "prepare_voxceleb.py", ROOT / "tests" / "local" / "stand_in"


def options(folder, data):
    return ("--vox1", folder / "vox1", "--vox2", folder / "vox2", "--trials", folder / "trials",
            "--counts", folder / "counts", "--dev-speakers", 3, "--dev-utts", 4, "--data", data)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A tree in folders whose names need quoting, and the data directories made of it."""
    folder = corpora.voxceleb(tmp_path_factory.mktemp("vox") / "it's a \"corpus\" $HOME")
    run(SCRIPT, *options(folder, folder / "data"), "--vox2-meta", folder / "vox2_meta.csv")
    return folder


@pytest.fixture
def copy(official, tmp_path):
    """A tree of one's own to spoil."""
    shutil.copytree(official, tmp_path / "vox", ignore=shutil.ignore_patterns("data"))
    return tmp_path / "vox"


def test_pipes_decode_through_ffmpegs_command_line(official, monkeypatch):
    monkeypatch.setenv("SVQ_ALLOW_PIPES", "true")  # as run.sh does
    if not shutil.which("ffmpeg"):
        monkeypatch.setenv("PATH", f"{STAND_IN}:{os.environ['PATH']}")
    wav = table(official / "data" / "train" / "wav.scp")
    utt, value = next(iter(wav.items()))
    assert re.fullmatch(r"ffmpeg -nostdin -v 8 -i '.*\.m4a' -f wav -ac 1 -ar 16000 - \|", value)
    speaker, rest = utt.split("-", 1)
    path = official / "vox2" / "dev" / "aac" / speaker / rest[:-6] / f"{rest[-5:]}.m4a"
    assert np.abs(audio.load(value) - audio.load(str(path))).max() < 2 / 32768
    for part in ("train", "dev", "vox1"):
        problems = validate(official / "data" / part, check_audio="decode")
        assert problems.total == 0, problems.lines()


def test_parts_and_speakers(official):
    utts = {part: table(official / "data" / part / "utt2spk") for part in ("train", "dev", "vox1")}
    speakers = {part: set(ids.values()) for part, ids in utts.items()}
    assert {part: (len(speakers[part]), len(ids)) for part, ids in utts.items()} == {
        "train": (8, 48), "dev": (3, 12), "vox1": (6, 36)
    }
    assert not any(a & b for a, b in itertools.combinations(speakers.values(), 2))
    # four utterances of three videos: every video is among them
    for speaker in speakers["dev"]:
        assert len({utt[:-6] for utt, s in utts["dev"].items() if s == speaker}) == 3


def test_trial_lists_are_the_published_ones_in_their_order(official):
    def utterance(name):
        return name.removesuffix(".wav").replace("/", "-")

    for ours, published in {"O": "veri_test2", "E": "list_test_all2", "H": "list_test_hard2", "O_original": "veri_test",
                            "E_original": "list_test_all", "H_original": "list_test_hard"}.items():
        lines = [line.split() for line in open(official / "trials" / f"{published}.txt")]
        want = [(utterance(a), utterance(b), "target" if label == "1" else "nontarget") for label, a, b in lines]
        assert trials(official / "data" / "vox1" / f"trials_{ours}") == want


def test_numbers_of_the_complete_lists():
    counts = dict(line.split() for line in open(ROOT / "local" / "voxceleb.counts") if not line.startswith("#"))
    assert [int(counts[f"trials_{name}"]) for name in "OEH"] == [37611, 579818, 550894]
    assert [int(counts[f"trials_{name}_original"]) for name in "OEH"] == [37720, 581480, 552536]
    assert int(counts["vox2_dev.speakers"]) == 5994


def test_same_gender_development_trials(official, tmp_path):
    gender = table(official / "data" / "dev" / "spk2gender")
    made = trials(official / "data" / "dev" / "trials")
    assert all(gender[a[:7]] == gender[b[:7]] for a, b, _ in made)
    assert sum(kind == "target" for *_, kind in made) == 3 * 6
    run(SCRIPT, *options(official, tmp_path))  # no genders: pairs of all
    assert len(trials(tmp_path / "dev" / "trials")) == 12 * 11 // 2
    assert not (tmp_path / "dev" / "spk2gender").exists()


def test_development_speakers_set_aside_from_the_training_part(copy, tmp_path):
    shutil.rmtree(copy / "vox2" / "test")
    assert "--dev-part dev does without" in error(SCRIPT, *options(copy, tmp_path / "data"))
    run(SCRIPT, *options(copy, tmp_path / "data"), "--dev-part", "dev")
    train, dev = (set(table(tmp_path / "data" / part / "utt2spk").values()) for part in ("train", "dev"))
    assert (len(train), len(dev)) == (5, 3) and not train & dev
    run(SCRIPT, *options(copy, tmp_path / "again"), "--dev-part", "dev")
    assert tree(tmp_path / "again") == tree(tmp_path / "data")
    run(SCRIPT, *options(copy, tmp_path / "other"), "--dev-part", "dev", "--seed", 5)
    assert tree(tmp_path / "other") != tree(tmp_path / "data")


def test_a_file_list_gives_what_listing_gives(copy, official, tmp_path):
    for corpus in ("vox1", "vox2"):
        files = [str(p.relative_to(copy / corpus)) for p in (copy / corpus).rglob("*.*") if p.is_file()]
        np.random.default_rng(0).shuffle(files)
        (copy / f"{corpus}.list").write_text("".join(f"./{name}\n" for name in files))
    lists = ("--vox1-list", copy / "vox1.list", "--vox2-list", copy / "vox2.list")
    run(SCRIPT, *options(official, tmp_path / "data"), *lists, "--vox2-meta", official / "vox2_meta.csv")
    assert tree(tmp_path / "data") == tree(official / "data")
    (copy / "vox2.list").write_text("dev/aac/id05010/x/00001.m4a\ndev/aac/id05010/00001.m4a\n")
    assert "vox2.list:2: 'dev/aac/id05010/00001.m4a' does not end in" in error(SCRIPT, *options(copy, tmp_path), *lists)
    (copy / "vox2.list").unlink()
    assert "vox2.list: no such file" in error(SCRIPT, *options(copy, tmp_path), *lists)


@pytest.mark.parametrize("layout", ["wav", "vox1_dev_wav/wav", ""])
def test_layouts_of_voxceleb1(copy, official, tmp_path, layout):
    merged = copy / "merged" / layout
    merged.mkdir(parents=True)
    for part in ("dev", "test"):
        for speaker in (copy / "vox1" / part / "wav").iterdir():
            speaker.rename(merged / speaker.name)
    run(SCRIPT, *options(copy, tmp_path / "data"), "--vox1", copy / "merged")
    assert table(tmp_path / "data/vox1/utt2spk") == table(official / "data/vox1/utt2spk")


def _append(path, text):
    with open(path, "a") as file:
        file.write(text)


def _duplicate(folder):
    shutil.copytree(folder / "vox1/test/wav/id10270", folder / "vox1/dev/wav/id10270")


def _shared_speaker(folder):
    shutil.copytree(folder / "vox2/test/aac/id00017", folder / "vox2/dev/aac/id00017")


A, B = "id10270/-xW00-c_000/00001.wav", "id10271/-xW00-c_001/00001.wav"


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda f: _append(f / "trials/veri_test2.txt", f"1 {A}\n"), "veri_test2.txt:152: not `0|1"),
        (lambda f: _append(f / "trials/veri_test2.txt", f"2 {A} {B}\n"), "veri_test2.txt:152: not `0|1"),
        (lambda f: _append(f / "trials/veri_test2.txt", f"1 {A} {B}\n"), "veri_test2.txt:152: label 1 for speakers"),
        (lambda f: _append(f / "trials/veri_test2.txt", f"0 {A} B.wav\n"), "veri_test2.txt:152: 'B.wav' is not"),
        (lambda f: _append(f / "trials/veri_test2.txt", f"0 {A} {B}x\n"), "veri_test2.txt:152: 1 recordings of the list"),
        (lambda f: _append(f / "trials/list_test_all.txt", f"0 {A} {B}\n"), "631 trials, not the 630"),
        (lambda f: (f / "trials/list_test_hard.txt").unlink(), "published at https://mm.kaist.ac.kr/"),
        (lambda f: shutil.rmtree(f / "vox1"), "vox1: no such folder (VoxCeleb1)"),
        (lambda f: shutil.rmtree(f / "vox1/test"), "recordings of the list are not in"),
        (lambda f: shutil.rmtree(f / "vox2/dev/aac/id05010"), "7 speakers, not the 8"),
        (lambda f: shutil.rmtree(f / "vox2/dev/aac/id05010/-xW00-c_010"), "46 utterances, not the 48"),
        (lambda f: shutil.rmtree(f / "vox2/dev"), "no recordings of VoxCeleb2 dev (dev/aac or"),
        (lambda f: (f / "vox2/dev/aac/A.J._Buckley").mkdir(), "A.J._Buckley: not a speaker's folder"),
        (lambda f: (f / "vox2/dev/aac/id05010/-xW00-c_010").rename(f / "vox2/dev/aac/id05010/a b"), "must be named"),
        (_duplicate, "speaker id10270 is in"),
        (lambda f: (_shared_speaker(f), (f / "counts").write_text("")), "two parts of the data: id00017 (train and dev)"),
        (lambda f: _append(f / "counts", "trials_O many\n"), "counts:11: not `name number`"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(copy, tmp_path, spoil, said):
    spoil(copy)
    assert said in error(SCRIPT, *options(copy, tmp_path / "data"), "--dev-speakers", 4)
    # vox1 may be there, whole, when what is wrong is in VoxCeleb2; nothing is half-written
    assert not (tmp_path / "data" / "dev" / "wav.scp").exists()
    assert not list((tmp_path / "data").rglob(".*"))


def test_wrong_options(official, tmp_path):
    assert "--lists takes some of O, E, H" in error(SCRIPT, *options(official, tmp_path), "--lists", "O X")
    assert "between 2 and 4" in error(SCRIPT, *options(official, tmp_path), "--dev-speakers", 5)
    meta = official / "counts"
    assert "counts:1: no column `Gender`" in error(SCRIPT, *options(official, tmp_path), "--vox1-meta", meta)


def test_one_list_needs_only_its_recordings(copy, tmp_path):
    shutil.rmtree(copy / "vox1" / "dev")
    run(SCRIPT, *options(copy, tmp_path), "--lists", "O", "--originals", "false", "--vox1-meta", copy / "vox1_meta.csv")
    names = {path.name for path in (tmp_path / "vox1").iterdir()}
    assert names == {"wav.scp", "utt2spk", "spk2utt", "spk2gender", "trials_O"}


def test_check_names_all_that_is_missing(copy, tmp_path):
    musan, rirs = corpora.musan(tmp_path), corpora.rirs_noises(tmp_path)
    roots = ("--vox1", copy / "vox1", "--vox2", copy / "vox2", "--trials", copy / "trials")
    run("check_voxceleb.py", *roots, "--musan", musan, "--rirs", rirs, path=STAND_IN)
    run("check_voxceleb.py", *roots, "--musan", tmp_path, "--rirs", tmp_path, path=STAND_IN)  # the folders around
    nothing = run("check_voxceleb.py", "--musan", copy, "--rirs", copy, ok=False)
    assert nothing.stderr.strip().endswith("11 things are missing, listed above")
    for name in ("VoxCeleb1", "VoxCeleb2 dev", "VoxCeleb2 test", "trials_O", "trials_H_original", "musan", "RIRS_NOISES"):
        assert re.search(rf"^missing: {name}: no .*published at https://", nothing.stdout, re.M), name
    shutil.rmtree(copy / "vox2" / "test")
    run("check_voxceleb.py", *roots, "--dev-part", "dev", path=STAND_IN)


def test_check_misses_ffmpeg_where_there_is_m4a(official, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    roots = ("--vox1", official / "vox1", "--vox2", official / "vox2", "--trials", official / "trials")
    said = run("check_voxceleb.py", *roots, ok=False).stdout.splitlines()
    assert len(said) == 1 and said[0].startswith("missing: ffmpeg: not found, and ")
    for path in (tmp_path / "vox2" / part / "wav" / "id00012" / "v" for part in ("dev", "test")):
        corpora.write_wav(path / "00001.wav", corpora.noise(0.1, 0))  # a copy converted to WAV needs no ffmpeg
    run("check_voxceleb.py", *roots, "--vox2", tmp_path / "vox2")


def test_shell_scripts_pass_their_options_on(official, tmp_path):
    musan, rirs = corpora.musan(tmp_path), corpora.rirs_noises(tmp_path)
    roots = ("--vox1", official / "vox1", "--vox2", official / "vox2", "--trials", official / "trials",
             "--musan", musan, "--rirs", rirs)
    run("check_voxceleb.sh", *roots, path=STAND_IN)
    run("prepare_voxceleb.sh", *roots, "--counts", official / "counts", "--dev-speakers", 3, "--dev-utts", 4,
        "--vox2-meta", official / "vox2_meta.csv", "--data", tmp_path / "data")
    made = tree(tmp_path / "data")
    assert {k: v for k, v in made.items() if k.split("/")[0] not in ("noise", "rir")} == tree(official / "data")
    assert "noise/wav.scp" in made and "rir/wav.scp" in made
    # the complete corpora's numbers are the default, and this tree is not complete
    assert "8 speakers, not the 5994" in error("prepare_voxceleb.sh", *roots, "--data", tmp_path / "data")
    assert run("check_voxceleb.sh", "--lists", ok=False).returncode == 2


def test_the_tree_can_hold_given_recordings(tmp_path):
    from tests.builders import data_dir

    source = data_dir(tmp_path, speakers=14, utts=2, seconds=0.2)
    folder = corpora.voxceleb(tmp_path / "vox", source=source)
    run(SCRIPT, *options(folder, tmp_path / "made"))
    first = table(tmp_path / "made" / "vox1" / "wav.scp")["id10270--xW00-c_000-00001"]
    np.testing.assert_allclose(audio.load(first), audio.load(table(source / "wav.scp")["spk00-utt00"]), atol=2 / 32768)
