"""local/prepare_noise_rir: any folders, and MUSAN and RIRS_NOISES in their official layouts."""

import numpy as np
import pytest
import soundfile

from svq.data import audio
from svq.data.datadir import DataDir
from svq.data.validate import validate
from tests.local import corpora
from tests.local.helpers import CORPORA, error, run, table

SCRIPT = "prepare_noise_rir.py"


def sound(folder):
    problems = validate(folder, check_audio="decode")
    assert problems.total == 0, problems.lines()
    return table(folder / "utt2spk")


def test_official_layouts(tmp_path):
    noise, rir = corpora.musan(tmp_path), corpora.rirs_noises(tmp_path)
    said = run(SCRIPT, "--noise", noise, "--rir", rir, "--data", tmp_path / "data").stdout
    assert sound(tmp_path / "data" / "noise") == {
        "music-fma-music-fma-0000": "music",
        "noise-free-sound-noise-free-sound-0000": "noise",
        "noise-sound-bible-noise-sound-bible-0001": "noise",
        "speech-librivox-speech-librivox-0000": "speech",
    }
    assert "1 files are no recordings and are left out, for instance free-sound/LICENSE" in said
    rooms = sound(tmp_path / "data" / "rir")
    # three sizes of two each, and the one real response of rir_list: not the noises beside it
    assert sorted(rooms.values()) == ["largeroom"] * 2 + ["mediumroom"] * 2 + ["real"] + ["smallroom"] * 2
    assert rooms["real-air_type1"] == "real"


def test_the_first_of_two_channels_is_taken_of_a_response(tmp_path):
    rir = corpora.rirs_noises(tmp_path)
    run(SCRIPT, "--rir", rir, "--data", tmp_path / "data")
    both, _ = soundfile.read(rir / "real_rirs_isotropic_noises" / "air_type1.wav", dtype="float32")
    np.testing.assert_array_equal(audio.load(DataDir(tmp_path / "data" / "rir").wav["real-air_type1"]), both[:, 0])
    assert table(tmp_path / "data" / "rir" / "reco2file_and_channel") == {"real-air_type1": "real-air_type1 1"}


def test_a_response_of_two_channels_may_have_any_scale(tmp_path):
    both = 20 * corpora.noise(0.1, 0, channels=2).astype(np.float32)
    (tmp_path / "rir").mkdir()
    soundfile.write(tmp_path / "rir" / "a.wav", both, 16000, subtype="FLOAT")
    run(SCRIPT, "--rir", tmp_path / "rir", "--data", tmp_path / "data")
    np.testing.assert_array_equal(audio.load(DataDir(tmp_path / "data" / "rir").wav["rir-a"]), both[:, 0])


def test_parts_of_musan_and_the_folder_around_it(tmp_path):
    corpora.musan(tmp_path / "around")
    run(SCRIPT, "--noise", tmp_path / "around", "--musan-parts", "noise", "--data", tmp_path / "data")
    assert set(sound(tmp_path / "data" / "noise").values()) == {"noise"}
    assert not (tmp_path / "data" / "rir").exists()
    assert "--musan-parts takes some of" in error(SCRIPT, "--noise", tmp_path / "around", "--musan-parts", "nosie")


def test_any_folder_with_hostile_names(tmp_path):
    root = tmp_path / "it's; $(touch hacked)"
    corpora.write_wav(root / "sea-side waves" / "a b'c.wav", corpora.noise(0.2, 0))
    corpora.write_wav(root / "sea" / "z" / "1.wav", corpora.noise(0.2, 1, channels=2))
    corpora.write_wav(root / "top.wav", corpora.noise(0.2, 2))
    run(SCRIPT, "--noise", root, "--rir", root, "--data", tmp_path / "data")
    want = {"noise-top": "noise", "sea-z-1": "sea", "sea_side_waves-a_b_c": "sea_side_waves"}
    assert sound(tmp_path / "data" / "noise") == want
    assert len(sound(tmp_path / "data" / "rir")) == 3
    assert not list(tmp_path.rglob("hacked"))


def test_refusals(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "neither --noise nor --rir" in error(SCRIPT)
    assert "no such folder (noises)" in error(SCRIPT, "--noise", tmp_path / "nowhere")
    assert "no recordings (noises)" in error(SCRIPT, "--noise", tmp_path / "empty")
    for name in ("a b.wav", "a_b.wav"):
        corpora.write_wav(tmp_path / "same" / "x" / name, corpora.noise(0.1, 0))
    said = error(SCRIPT, "--noise", tmp_path / "same", "--data", tmp_path / "data")
    assert "two recordings would be called x-a_b" in said
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.wav").write_bytes(b"not audio")
    assert "broken.wav" in error(SCRIPT, "--rir", tmp_path / "bad", "--data", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("wav.scp"))


@pytest.mark.parametrize("line", ["--rir-id 1\n", "\n", "x RIRS_NOISES/../a.wav\n", "x RIRS_NOISES/simulated_rirs/gone.wav\n"])
def test_a_broken_rir_list_is_named_with_its_line(tmp_path, line):
    rir = corpora.rirs_noises(tmp_path)
    with open(rir / "simulated_rirs" / "smallroom" / "rir_list", "a") as file:
        file.write(line)
    assert "smallroom/rir_list:3: " in error(SCRIPT, "--rir", rir, "--data", tmp_path / "data")


@pytest.mark.skipif(not (CORPORA / "noise").is_dir(), reason="the real corpora are not beside the repository")
def test_real_folders(tmp_path):
    run(SCRIPT, "--noise", CORPORA / "noise", "--rir", CORPORA / "rir", "--data", tmp_path)
    assert (len(sound(tmp_path / "noise")), len(sound(tmp_path / "rir"))) == (223, 33)
