"""Recordings that two data directories have in common, under whatever names."""

from __future__ import annotations

import os
import shutil

import pytest

from svq.data.datadir import create
from svq.data.shared import recordings_shared, require_disjoint
from svq.errors import UserError


@pytest.fixture
def directories(tmp_path):
    """Two directories of two files each, all of one size and alike but for one byte; the files by name."""
    files = {}
    for number, name in enumerate("abcd"):
        files[name] = tmp_path / f"{name}.wav"
        files[name].write_bytes(b"\0" * 9000 + bytes([number]) + b"\0" * 999)

    def made(first: dict, second: dict):
        return [create(tmp_path / f"{place}", wav={f"{key}-1": value for key, value in wav.items()},
                       utt2spk={f"{key}-1": key for key in wav}) for place, wav in enumerate((first, second))]

    made.files = files
    return made


def test_other_recordings_are_not_shared(directories):
    a, b, c, d = directories.files.values()
    sources = directories({"s1": a, "s2": b}, {"s3": c, "s4": d})
    assert list(recordings_shared(sources)) == []
    require_disjoint(sources)


@pytest.mark.parametrize("kind", ["the same file", "another way to it", "a link", "a hard link", "a copy"])
def test_one_recording_under_two_names(directories, tmp_path, kind):
    a, b, c, _ = directories.files.values()
    other = {"the same file": a, "another way to it": tmp_path / "x" / ".." / "a.wav"}.get(kind, tmp_path / "other.wav")
    (tmp_path / "x").mkdir()
    if kind in ("a link", "a hard link", "a copy"):
        {"a link": os.symlink, "a hard link": os.link, "a copy": shutil.copy}[kind](a, other)
    sources = directories({"s1": a, "s2": b}, {"s3": other, "s4": c})
    assert len(list(recordings_shared(sources))) == 1
    with pytest.raises(UserError, match="nobody may be trained on and tested"):
        require_disjoint(sources)


def test_a_directory_may_hold_a_recording_twice(directories, tmp_path):
    a, b, c, _ = directories.files.values()
    shutil.copy(a, tmp_path / "other.wav")
    assert list(recordings_shared(directories({"s1": a, "s2": tmp_path / "other.wav"}, {"s3": b, "s4": c}))) == []


def test_commands_are_compared_as_text(directories):
    same, other = "sox x.wav -t wav - |", "sox y.wav -t wav - |"
    assert list(recordings_shared(directories({"s1": same}, {"s2": other}))) == []
    assert list(recordings_shared(directories({"s1": same}, {"s2": same}))) == [(same.rstrip(), same.rstrip())]


def test_a_directory_of_features_has_no_recordings(directories):
    a, b, _, _ = directories.files.values()
    sources = directories({"s1": a}, {"s2": b})
    (sources[0] / "wav.scp").rename(sources[0] / "feats.scp")
    require_disjoint(sources)
