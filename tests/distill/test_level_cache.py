"""Cached levels: right values, any number of jobs, nothing done twice, nothing half there, bad input named."""

import json
import os
import re
import shutil

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

from svq.backend.embeddings import read_vector
from svq.bin import teacher_embeddings
from svq.data import extraction
from svq.distill import cache as cache_module, cache_writing
from svq.distill.cache import LevelInfo
from svq.distill.levels import LevelOutputs, find_level
from svq.errors import UserError
from tests.builders import data_dir
from tests.distill.conftest import LEVELS, MELS, cache, features, make_teacher
from tests.helpers import run_worker


def read(folder, name):
    return {key: np.array(value) for key, value in kaldiio.load_scp(str(folder / f"{name}.scp")).items()}


@pytest.mark.parametrize("name", LEVELS)
def test_values_are_the_teachers_of_the_whole_utterance(place, name):
    outputs = LevelOutputs(place.net, [find_level(name, place.net)], MELS)
    info = LevelInfo.read(place.levels / f"{name.replace(':', '-')}.json")
    found = read(place.levels, name.replace(":", "-"))
    assert sorted(found) == sorted(place.feats) and info.utterances == 24
    rows = []
    for key, value in found.items():
        expected = outputs(place.feats[key][None])[name][0].numpy()
        atol = np.ptp(expected) / 65535 if info.per_frame else 1e-6  # two bytes a value
        np.testing.assert_allclose(value, expected, atol=atol, rtol=0, err_msg=key)
        rows.append(np.atleast_2d(value))
    mean = np.concatenate(rows).mean(0)
    np.testing.assert_allclose(read_vector(place.levels / info.mean), mean, atol=1e-5)
    assert info.dim == value.shape[-1] and info.per_frame == name.endswith(":none") and np.abs(mean).max() > 1e-2


def test_what_a_level_is_stands_beside_it(place):
    info = json.loads((place.levels / "wideBN-none.json").read_text())
    assert (info["level"], info["layers"], info["pool"], info["dim"]) == ("wideBN:none", ["frame5"], "none", 20)
    assert info["clock"] == {"stride": 1, "first": 7, "lost": 14} and info["mean"] == "wideBN-none.mean.vec"
    assert info["teacher"] == cache_module.teacher_digest(place.teacher) and info["front_end"]["num_mels"] == MELS


@pytest.mark.parametrize("num_jobs", [3, 30])
def test_number_of_jobs_does_not_matter(place, tmp_path, num_jobs):
    options = {"num_jobs": num_jobs}
    for job in range(1, num_jobs + 1):
        cache(place.teacher, place.data, tmp_path, "narrowBN", "wideBN:none", job=job, **options)
    assert not (tmp_path / "narrowBN.json").exists()
    run_worker(teacher_embeddings.main, "--model", place.teacher, "--data", place.data, "--out", tmp_path, "--level",
               "narrowBN", "wideBN:none", "--num-jobs", num_jobs, "--finish")
    for name, atol in (("narrowBN", 1e-6), ("wideBN-none", 1e-4)):
        found, whole = read(tmp_path, name), read(place.levels, name)
        assert list(found) == sorted(whole)
        for key in whole:
            np.testing.assert_allclose(found[key], whole[key], atol=atol)


def test_concatenation_is_no_level_of_its_own_and_one_pass_makes_all_vectors(place, tmp_path, monkeypatch):
    passes = []
    original = cache_writing.level_values
    monkeypatch.setattr(cache_writing, "level_values", lambda *a: passes.append(1) or original(*a))
    cache(place.teacher, place.data, tmp_path, "utterance", "narrowBN", "sp_aggr")
    assert len(passes) == 1


def test_the_same_again_is_not_made_again(place, tmp_path, monkeypatch, capsys):
    cache(place.teacher, place.data, tmp_path, "utterance")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(cache_writing, "level_values", None)  # would fail
    cache(place.teacher, place.data, tmp_path, "utterance")
    assert "there already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("change", ["teacher", "data", "layers"])
def test_other_inputs_make_it_anew(place, tmp_path, change):
    shutil.copytree(place.teacher, tmp_path / "teacher")
    shutil.copytree(place.data, tmp_path / "data")
    out = cache(tmp_path / "teacher", tmp_path / "data", tmp_path / "out", "narrowBN")
    before = (out / "narrowBN.json").read_bytes()
    if change == "teacher":
        make_teacher(tmp_path / "teacher", seed=5)
    elif change == "data":
        lines = (tmp_path / "data" / "utt2spk").read_text().splitlines(True)
        (tmp_path / "data" / "utt2spk").write_text("".join(lines[1:]))
    cache(tmp_path / "teacher", tmp_path / "data", out, "frame4" if change == "layers" else "narrowBN")
    assert ((out / "narrowBN.json").read_bytes() == before) == (change == "layers")
    assert len(read(out, "narrowBN")) == (23 if change == "data" else 24)


def test_a_finished_share_of_a_killed_run_is_not_done_again(place, tmp_path, monkeypatch):
    """Killed after job 2 of 3: the second run does what is left, and the result is that of an undisturbed run."""
    monkeypatch.setattr(extraction, "_BLOCK_FRAMES", 100)
    options = {"num_jobs": 3}
    for job in (1, 2):
        cache(place.teacher, place.data, tmp_path, "utterance", job=job, **options)
    finish = ["--model", place.teacher, "--data", place.data, "--out", tmp_path, "--level", "utterance", "--finish",
              "--num-jobs", 3, "--log", "exp/levels.JOB.log"]
    with pytest.raises(UserError, match=re.escape("job 3 was lost; see exp/levels.3.log")):
        run_worker(teacher_embeddings.main, *finish)
    done = []
    original = cache_writing.level_values
    monkeypatch.setattr(cache_writing, "level_values",
                        lambda outputs, those, *a: done.append(list(those.keys)) or original(outputs, those, *a))
    for job in (1, 2, 3):
        cache(place.teacher, place.data, tmp_path, "utterance", job=job, **options)
    assert len(done) == 1 and 0 < len(done[0]) < 12
    run_worker(teacher_embeddings.main, *finish)
    again = LevelInfo.read(tmp_path / "utterance.json")
    assert again.made_from == LevelInfo.read(place.levels / "utterance.json").made_from


def test_parts_of_another_number_of_jobs_are_cleared_away(place, tmp_path):
    cache(place.teacher, place.data, tmp_path, "frame4", "frame4.conv:mean", job=1, num_jobs=2)
    cache(place.teacher, place.data, tmp_path, "frame4")
    kept = sorted(os.listdir(tmp_path / "parts"))
    assert kept == [f"frame4.1of1.{kind}" for kind in ("ark", "json", "scp")] + \
        [f"frame4.conv-mean.1of2.{kind}" for kind in ("ark", "json", "scp")]


def test_the_disk_use_printed_beforehand_is_that_of_the_archives(place, tmp_path, capsys):
    cache(place.teacher, place.data, tmp_path, "utterance", "wideBN:none", "sp_aggr")
    printed = re.findall(r": (\S+): .* utterances: ([\d.]+) MB", capsys.readouterr().out)
    assert [name for name, _ in printed] == ["utterance", "wideBN:none", "sp_aggr"]
    for name, size in printed:
        actual = (tmp_path / "parts" / f"{name.replace(':', '-')}.1of1.ark").stat().st_size
        assert abs(float(size) * 1e6 - actual) <= 0.05e6
    for level in ("utterance", "sp_aggr"):  # of vectors it is exact; of frames it comes from utt2dur
        path = tmp_path / "parts" / f"{level}.1of1.ark"
        from svq.data.datadir import DataDir

        assert cache_module.planned_bytes(LevelInfo.read(tmp_path / f"{level}.json").dim, None,
                                          DataDir(place.data)) == path.stat().st_size


def test_plan_writes_nothing_and_no_room_is_refused(place, tmp_path, monkeypatch, capsys):
    run_worker(teacher_embeddings.main, "--model", place.teacher, "--data", place.data, "--out", tmp_path / "out",
               "--level", "utterance", "--plan")
    assert "utterance: a vector of 10 for each of 24 utterances" in capsys.readouterr().out
    monkeypatch.setattr("svq.distill.cache_writing.free_bytes", lambda _: 900)
    with pytest.raises(UserError, match="would take .* MB, but the disk has 0.0 MB free"):
        cache(place.teacher, place.data, tmp_path / "out", "utterance")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("level", ["utterance", "wideBN:none"])
def test_bad_utterances_are_named_and_nothing_is_written(place, tmp_path, capsys, level):
    data = data_dir(tmp_path, speakers=1, utts=4, seconds=0.3)
    soundfile.write(tmp_path / "data_wav" / "spk00-utt01.wav", np.zeros(399), 16000)
    soundfile.write(tmp_path / "data_wav" / "spk00-utt02.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(UserError, match="2 of 4 utterances have no teacher embeddings: spk00-utt01, spk00-utt02"):
        cache(place.teacher, data, tmp_path / "out", level)
    errors = capsys.readouterr().err
    assert "spk00-utt01: " in errors and "spk00-utt02: " in errors
    assert not list((tmp_path / "out").rglob("*.ark")) and not list((tmp_path / "out").rglob("*.json"))


@pytest.mark.parametrize("levels, words", [
    (["frame7"], "no layer 'frame7'"), (["lde_aggr"], "needs a trained dictionary: name its folder with --aggr")])
def test_levels_that_cannot_be_made(place, tmp_path, levels, words):
    with pytest.raises(UserError, match=words):
        cache(place.teacher, place.data, tmp_path / "out", *levels)
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_is_none(place, tmp_path):
    with pytest.raises(UserError, match="neither a model folder nor a .svq file"):
        cache(tmp_path / "gone", place.data, tmp_path / "out", "utterance")


def test_a_packed_teacher(place, tmp_path):
    from svq.models import load_model
    from svq.pack.file import save_packed
    from svq.quant import QuantConfig, quantize_

    net, config = load_model(place.teacher)
    config = type(config)(config.arch, config.net, config.embed_dim, config.front_end, QuantConfig(bits=4))
    save_packed(tmp_path / "t.svq", quantize_(net, config.quant), config)
    out = cache(tmp_path / "t.svq", place.data, tmp_path / "out", "narrowBN")
    feats = features(place.data, config)
    packed, _ = load_model(tmp_path / "t.svq")
    key = "spk00-utt00"
    expected = LevelOutputs(packed, [find_level("narrowBN", packed)], MELS)(feats[key][None])["narrowBN"][0]
    torch.testing.assert_close(torch.from_numpy(read(out, "narrowBN")[key]), expected, atol=1e-5, rtol=0)


def test_an_utterance_shorter_than_the_layers_see_is_named():
    net = torch.nn.Sequential(torch.nn.Conv1d(40, 3, 9), torch.nn.Conv1d(3, 2, 5))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = net

        def forward(self, x):
            return self.layers(x.transpose(1, 2)).mean(2)

    outputs = LevelOutputs(Net(), [find_level("layers.1:mean", Net())], 40)
    utterances = [("long", torch.randn(13, 40)), ("short", torch.randn(12, 40))]
    found = dict(cache_writing.level_values(outputs, utterances, 100))
    assert outputs.shortest == 13 and found["long"]["layers.1:mean"].shape == (2,)
    assert str(found["short"]).startswith("12 frames are fewer than the teacher's layers see")
