"""The synthetic corpus: same bytes whatever the processes, sound data directories, nothing shared between sets."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal as dsp

from svq.data.validate import validate
from svq.errors import UserError
from tests.local.helpers import ROOT, error, run, table, tree, trials

sys.path.insert(0, str(ROOT / "local"))
from mini import acoustics, processes, text, voice  # noqa: E402

pytest.importorskip("espeakng_loader", reason="the mini corpus is spoken by the espeakng-loader wheel")

SIZE = "--train-speakers 3 --dev-speakers 4 --test-speakers 4 --utts 3 --noises 5 --rirs 2".split()


def prepare(folder, *more):
    return run("prepare_mini.py", "--corpus", folder / "corpus", "--data", folder / "data", *SIZE, *more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a corpus with spaces")
    prepare(folder, "--nj", 2)
    return folder


def test_another_seed_changes_every_recording(made, tmp_path):
    prepare(tmp_path, "--seed", 1, "--part", "corpus")
    first, second = tree(made / "corpus"), tree(tmp_path / "corpus")
    recordings = [name for name in first if name.endswith(".wav")]
    assert len(recordings) == 11 * 3 + 5 + 2
    assert all(first[name] != second[name] for name in recordings)


def test_recordings_are_as_promised(made):
    for part, speakers in (("train", 3), ("dev", 4), ("test", 4)):
        wav, seconds = table(made / f"data/{part}/wav.scp"), table(made / f"data/{part}/utt2dur")
        assert len(wav) == 3 * speakers
        for utterance, path in wav.items():
            wave, rate = soundfile.read(path)
            assert rate == 16000 and wave.ndim == 1 and soundfile.info(path).subtype == "PCM_16"
            assert 2.0 <= len(wave) / rate <= 4.0
            assert float(seconds[utterance]) == pytest.approx(len(wave) / rate, abs=1e-4)
            assert np.sqrt(np.mean(wave**2)) > 1e-3 and np.max(np.abs(wave)) < 1.0


def test_speakers_are_disjoint_and_genders_balanced(made):
    parts = [set(table(made / f"data/{part}/spk2gender").items()) for part in ("train", "dev", "test")]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    for part in parts[1:]:
        assert sorted(gender for _, gender in part) == ["f", "f", "m", "m"]


def test_no_speaker_says_a_text_twice(made):
    header, *rows = [line.rstrip("\n").split("\t") for line in open(made / "corpus/utterances.tsv")]
    said = {(row[header.index("speaker")], row[header.index("text")]) for row in rows}
    assert len(said) == len(rows) == 11 * 3


def test_trials(made):
    gender, speaker = table(made / "data/test/spk2gender"), table(made / "data/test/utt2spk")
    for enroll, test, kind in trials(made / "data/test/trials"):
        assert (speaker[enroll] == speaker[test]) == (kind == "target")
        assert gender[speaker[enroll]] == gender[speaker[test]]
    kinds = [kind for *_, kind in trials(made / "data/test/trials_all")]
    assert (kinds.count("target"), kinds.count("nontarget")) == (4 * 3, 6 * 9)


def test_data_directories_are_valid_and_rewritten_alike(made):
    before = tree(made / "data")
    for part in ("train", "dev", "test", "noise", "rir"):
        assert validate(made / "data" / part).lines() == []
    prepare(made)
    assert tree(made / "data") == before


def test_shell_options_reach_the_worker(made, tmp_path):
    run("prepare_mini.sh", "--corpus", made / "corpus", "--data", tmp_path / "data", "--part", "data", *SIZE)
    assert tree(tmp_path / "data") == tree(made / "data")
    assert run("prepare_mini.sh", "--utts", "many", ok=False).returncode == 2


def test_killed_and_run_again_with_other_processes_gives_the_same_bytes(made, tmp_path):
    script = [sys.executable, "local/prepare_mini.py", "--corpus", tmp_path / "corpus", "--part", "corpus", *SIZE]
    process = subprocess.Popen([*map(str, script), "--nj", "1"], cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "corpus.partial/wav/train002").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "ended before it could be killed"
    assert not (tmp_path / "corpus").exists()
    prepare(tmp_path, "--part", "corpus", "--nj", 3)
    assert tree(tmp_path) == {f"corpus/{name}": data for name, data in tree(made / "corpus").items()}


def test_refusals(made, tmp_path):
    (tmp_path / "mine").mkdir()
    assert "is not a mini corpus" in error("prepare_mini.py", "--corpus", tmp_path / "mine")
    assert "--dev-speakers is 3" in error("prepare_mini.py", "--dev-speakers", 3)
    assert "no such folder" in error("prepare_mini.py", "--corpus", tmp_path / "none", "--part", "data")
    assert "other options" in error(
        "prepare_mini.py", "--corpus", made / "corpus", "--part", "data", "--data", tmp_path / "data", "--seed", 7
    )
    assert not (tmp_path / "data").exists()


@given(st.integers(0, 2**32), st.integers(3, 30))
def test_sentences_have_the_length_asked_for(seed, words):
    said = text.sentence(np.random.default_rng(seed), words)
    assert len(said.split()) == words and said == text.sentence(np.random.default_rng(seed), words)


def test_room_response_decays_as_asked():
    room = acoustics.room_response(np.random.default_rng(0), rt60=0.5, direct_db=0.0)
    assert np.sum(room**2) == pytest.approx(1.0)
    assert room[0] ** 2 == pytest.approx(0.5)  # 0 dB: half of the energy is direct sound
    low = dsp.sosfiltfilt(dsp.butter(4, 1000, fs=16000, output="sos"), room)[400:]
    energy = 10 * np.log10(np.cumsum(low[::-1] ** 2)[::-1])  # Schroeder's backward integral
    slope = np.polyfit(np.arange(3200) / 16000, energy[:3200], 1)[0]
    assert -60 / slope == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("kind", acoustics.NOISES)
def test_noise_is_mixed_at_the_ratio_asked_for(kind):
    rng = np.random.default_rng(0)
    wave, murmur = rng.standard_normal(16000), rng.standard_normal(20000)
    added = acoustics.mixed(wave, acoustics.noise(rng, kind, len(wave), murmur), snr=7.0) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(added**2)) == pytest.approx(7.0)


def test_filter_gives_each_frequency_its_gain():
    seconds = np.arange(16000) / 16000
    for frequency, gain in ((100, -38.04), (300, 0.0), (1000, 0.0), (3400, 0.0), (6800, -48.0)):
        tone = np.sin(2 * np.pi * frequency * seconds)
        out = acoustics.filtered(tone, lambda f: acoustics.band_response(f, 300, 3400))[4000:12000]
        measured = 20 * np.log10(np.std(out) / np.std(tone))
        assert measured == pytest.approx(gain, abs=0.3)


def test_level_and_no_clipping():
    wave = np.random.default_rng(0).standard_normal(16000)
    quiet = acoustics.to_pcm16(wave, -30.0) / 32767
    assert 20 * np.log10(np.sqrt(np.mean(quiet**2))) == pytest.approx(-30, abs=0.1)
    assert np.max(np.abs(acoustics.to_pcm16(wave, 0.0))) <= np.ceil(0.99 * 32767)


def test_voice_file_scales_pitch_and_formants():
    own = voice.draw_voice(np.random.default_rng(0), "f")

    def numbers(pitch, formants):
        lines = voice.voice_file(own, pitch, np.full(9, formants)).splitlines()
        return {" ".join(w[:-3]): w for w in (line.split() for line in lines) if w[0] == "formant"}, next(
            float(line.split()[1]) for line in lines if line.startswith("pitch ")
        )

    (plain, low), (shifted, high) = numbers(1.0, 1.0), numbers(1.5, 1.2)
    assert high == pytest.approx(1.5 * low, rel=0.01)
    for name in plain:
        assert float(shifted[name][2]) == pytest.approx(1.2 * float(plain[name][2]), rel=0.02)


def test_a_failing_task_is_named_and_stops_the_others(tmp_path):
    def work(name):
        if name == "bad":
            raise ValueError("broken")
        time.sleep(30)

    start = [("slow",), ("bad",), ("late",)]
    with pytest.raises(UserError, match="bad failed"):
        list(processes.run_each(work, start, nj=2))


def test_every_task_runs_once_in_a_process_of_its_own(tmp_path):
    def work(name):
        (tmp_path / name).write_text(json.dumps(os.getpid()))

    done = list(processes.run_each(work, [(f"{i}",) for i in range(7)], nj=3))
    assert len(done) == 7
    assert len({path.read_text() for path in tmp_path.iterdir()} - {str(os.getpid())}) == 7
