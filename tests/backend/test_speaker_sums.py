"""Means of speakers by running sums: exact, in any order, killed and resumed, the bytes of extraction and averaging."""

import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svq.backend import mean_jobs
from svq.backend.speaker_sums import SpeakerSums
from svq.bin import extract, extract_means, speaker_means
from svq.data import extraction
from svq.errors import UserError
from svq.models import save_model
from svq.network import ModelConfig
from tests.builders import data_dir
from tests.helpers import run_worker

VALUES = st.floats(-(2.0 ** 24), 2.0 ** 24, width=32)


@given(st.lists(st.tuples(st.integers(0, 2), VALUES), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_sums_are_those_of_fractions_in_any_order_and_parts(items, draw):
    def summed(parts):
        whole = SpeakerSums(3, 1)
        for part in parts:
            sums = SpeakerSums(3, 1)
            sums.add(np.array([[value] for _, value in part], np.float32).reshape(-1, 1), np.array([s for s, _ in part], int))
            whole.merge(sums)
        return whole

    mixed = draw.sample(items, len(items))
    cut = draw.randint(0, len(items))
    one, other = summed([items]), summed([mixed[:cut], mixed[cut:]])
    assert (one.coarse == other.coarse).all() and (one.fine == other.fine).all() and (one.counts == other.counts).all()
    for speaker in range(3):
        mine = [Fraction(value) for s, value in items if s == speaker]
        found = Fraction(int(one.coarse[speaker, 0]), 2 ** 12) + Fraction(int(one.fine[speaker, 0]), 2 ** 49)
        assert abs(found - sum(mine)) <= len(mine) * Fraction(1, 2 ** 50) and one.counts[speaker] == len(mine)
        if all(value == 0 or abs(value) >= Fraction(1, 2 ** 25) for value in mine):
            assert found == sum(mine)


def test_what_has_no_mean_is_refused(tmp_path):
    sums = SpeakerSums(2, 3)
    for value in (2.0 ** 25, np.nan, np.inf):
        with pytest.raises(UserError, match="is the model sound"):
            sums.add(np.full((1, 3), value), np.zeros(1, int))
    sums.add(np.ones((1, 3)), np.zeros(1, int))
    with pytest.raises(UserError, match="1 of 2 speakers have no embedding"):
        sums.means()
    sums.save(tmp_path / "sums.npz", "digest", 7)
    found, made_from, done = SpeakerSums.load(tmp_path / "sums.npz")
    assert (found.coarse == sums.coarse).all() and (made_from, done) == ("digest", 7)
    data = (tmp_path / "sums.npz").read_bytes()
    (tmp_path / "sums.npz").write_bytes(data[: len(data) // 2])
    assert SpeakerSums.load(tmp_path / "sums.npz") is None is SpeakerSums.load(tmp_path / "none.npz")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data directory, a small model, and the means of stored embeddings."""
    folder = tmp_path_factory.mktemp("means")
    data = data_dir(folder, speakers=4, utts=5, seconds=0.3)
    torch.manual_seed(0)
    config = ModelConfig(arch="ResNet18", net={"width": 4}, embed_dim=8)
    save_model(folder / "model", config.build().eval(), config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "_BLOCK_FRAMES", 70)
        run_worker(extract.main, data, folder / "model", folder / "stored" / "embedding")
    run_worker(speaker_means.main, data / "spk2utt", folder / "stored")
    return folder, data


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "_BLOCK_FRAMES", 70)
    monkeypatch.setattr(mean_jobs, "SAVE_SECONDS", 0.0)


def means(out, data, model, jobs=1):
    for job in range(1, jobs + 1):
        run_worker(extract_means.main, data, model, out, "--job", job, "--num-jobs", jobs)
    if jobs > 1:
        run_worker(extract_means.main, data, model, out, "--finish", "--num-jobs", jobs)


def files(folder):
    return [(folder / name).read_bytes() for name in ("spk_embedding.ark", "mean.vec")]


@pytest.mark.parametrize("jobs", [1, 3, 9])
def test_means_are_those_of_stored_embeddings_whatever_the_jobs(place, tmp_path, jobs):
    folder, data = place
    means(tmp_path / "out", data, folder / "model", jobs)
    assert files(tmp_path / "out") == files(folder / "stored")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mean.vec", "spk_embedding.ark", "spk_embedding.scp"]


def test_a_killed_job_goes_on_from_its_sums(place, tmp_path, monkeypatch):
    folder, data = place
    read, done = extraction.Utterances._read_all, []

    def killed(self, indices):
        for item in read(self, indices):
            done.append(item[0])
            if len(done) == 13:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(extraction.Utterances, "_read_all", killed)
    with pytest.raises(KeyboardInterrupt):
        means(tmp_path / "out", data, folder / "model")
    first = len(done)
    means(tmp_path / "out", data, folder / "model")
    assert files(tmp_path / "out") == files(folder / "stored")
    assert 0 < len(done) - first < 20, "it began anew"


def test_sums_of_another_model_are_not_taken(place, tmp_path):
    folder, data = place
    run_worker(extract_means.main, data, folder / "model", tmp_path / "out", "--job", 1, "--num-jobs", 2)
    torch.manual_seed(1)
    config = ModelConfig(arch="ResNet18", net={"width": 4}, embed_dim=8)
    save_model(tmp_path / "other", config.build().eval(), config)
    run_worker(extract_means.main, data, tmp_path / "other", tmp_path / "out", "--job", 2, "--num-jobs", 2)
    with pytest.raises(UserError, match="made from another model"):
        run_worker(extract_means.main, data, folder / "model", tmp_path / "out", "--finish", "--num-jobs", 2)
    means(tmp_path / "out", data, folder / "model", 2)
    assert files(tmp_path / "out") == files(folder / "stored")


def test_an_utterance_that_cannot_be_read_is_named_and_taken_when_it_can(place, tmp_path):
    folder, data = place
    shutil.copytree(data, tmp_path / "data")
    wav = next(line.split()[1] for line in open(data / "wav.scp") if line.startswith("spk01-utt02"))
    lines = (data / "wav.scp").read_text()
    shutil.copy(wav, tmp_path / "moved.wav")
    (tmp_path / "data" / "wav.scp").write_text(lines.replace(wav, str(tmp_path / "moved.wav")))
    (tmp_path / "moved.wav").rename(tmp_path / "gone.wav")
    for _ in range(2):  # what was summed is kept, and this one is tried again
        with pytest.raises(UserError, match="1 of 20 utterances have no embedding that can be averaged: spk01-utt02"):
            means(tmp_path / "out", tmp_path / "data", folder / "model")
    (tmp_path / "gone.wav").rename(tmp_path / "moved.wav")
    means(tmp_path / "out", tmp_path / "data", folder / "model")
    assert files(tmp_path / "out") == files(folder / "stored")


def test_a_lost_job_is_named(place, tmp_path):
    folder, data = place
    run_worker(extract_means.main, data, folder / "model", tmp_path / "out", "--job", 1, "--num-jobs", 2)
    with pytest.raises(UserError, match=r"sums.2.npz: missing or cut short: its job was lost; see log/means.2.log"):
        run_worker(extract_means.main, data, folder / "model", tmp_path / "out", "--finish", "--num-jobs", 2, "--log", "log/means.JOB.log")
