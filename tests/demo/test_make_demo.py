"""The folder of the page: which models it takes, where the runtime comes from, all or nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import subprocess
import tarfile

import numpy as np
import pytest

from svq import Verifier
from svq.bin import export, make_demo
from svq.demo import runtime
from svq.demo.folder import MARK
from svq.errors import UserError
from tests.conftest import ROOT
from tests.helpers import run_worker

FILES = {runtime.CODE: b"export const nothing = 1;", runtime.WASM: b"\0asm and more"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An archive of a runtime that does nothing, which is taken for the real one."""
    monkeypatch.setattr(runtime, "SHA256", {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()})
    return packed(tmp_path / "package.tgz", FILES)


def packed(path, files, top="package/dist/"):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def made(model, out, package, *options):
    run_worker(make_demo.main, "--model", model, "--out", out, "--ort-web", package, *options)
    return out


def data_of(out, name):
    """What data/NAME.js gives the page."""
    head, _, rest = (out / "data" / f"{name}.js").read_text().partition(" = ")
    assert head.startswith("window.svq") and rest.endswith(";\n")
    return json.loads(rest[:-2])


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_the_folder_holds(place, tmp_path, package, capsys):
    out = made(place / "model.onnx", tmp_path / "a demo", package, "--p-target", 0.2, "--threshold", -1, "--name", "ann")
    assert capsys.readouterr().err == ""
    model, held = data_of(out, "model"), data_of(out, "runtime")
    verifier = Verifier.load(place / "model.onnx")
    assert base64.b64decode(model["onnx"]) == (place / "model.onnx").read_bytes()
    assert model["bytes"] == (place / "model.onnx").stat().st_size and model["name"] == "ann"
    assert model["calibration"] == {"slope": 9.0, "offset": -4.0}
    assert np.frombuffer(base64.b64decode(model["mean"]), "<f4") == pytest.approx(verifier.mean)
    assert model["costs"] == {"pTarget": 0.2, "cMiss": 1, "cFa": 1, "threshold": -1}
    assert (model["rules"]["shortest"], model["rules"]["window"], model["rules"]["block"]) == (400, 960_000, 160)
    samples = np.frombuffer(base64.b64decode(model["check"]["samples"]), "<i2")
    assert np.abs(samples).max() > 5000
    assert np.frombuffer(base64.b64decode(model["check"]["embedding"]), "<f4") == pytest.approx(verifier.embed(samples), abs=1e-5)
    assert held["code"].encode() == FILES[runtime.CODE]
    assert gzip.decompress(base64.b64decode(held["wasm"])) == FILES[runtime.WASM]
    assert {f"{name}.js" for name in ("page", "panel", "wav")} | {"index.html", "style.css"} <= contents(out).keys()


def test_every_file_that_the_page_names_is_there(place, tmp_path, package):
    import re

    out = made(place / "model.onnx", tmp_path / "demo", package)
    page = (out / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([\w./]+)"', page)
    assert len(named) > 10 and all((out / name).is_file() for name in named)
    scripts = {name for name in contents(out) if name.endswith(".js")}
    assert scripts <= set(named)
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")  # nothing from elsewhere


def test_the_same_bytes_again_and_nothing_of_before(place, tmp_path, package):
    out = made(place / "model.onnx", tmp_path / "demo", package)
    first = contents(out)
    made(place / "model.onnx", out, package)
    assert contents(out) == first
    made(place / "plain.onnx", out, package)
    assert data_of(out, "model")["calibration"] is None and json.loads((out / MARK).read_text())["name"] == "plain.onnx"
    assert {path.name for path in tmp_path.iterdir()} == {"demo", "package.tgz"}  # nothing beside it


def test_a_model_without_calibration_is_said(place, tmp_path, package, capsys):
    made(place / "plain.onnx", tmp_path / "demo", package)
    assert "has no calibration" in capsys.readouterr().err
    made(place / "plain.onnx", tmp_path / "demo", package, "--calibration", place / "calibration.json")
    assert data_of(tmp_path / "demo", "model")["calibration"] == {"slope": 9.0, "offset": -4.0}


@pytest.fixture(scope="session")
def others(place, tmp_path_factory):
    """Models that a page cannot take."""
    import onnx

    folder = tmp_path_factory.mktemp("others")
    run_worker(export.main, "--model", place / "m", "--out", folder / "features.onnx")
    run_worker(export.main, "--model", place / "m", "--out", folder / "fixed.onnx", "--front-end", "true", "--seconds", 1)
    (folder / "cut.onnx").write_bytes((place / "model.onnx").read_bytes()[:5000])
    (folder / "text.onnx").write_text("no network")
    foreign = onnx.load(place / "model.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, folder / "foreign.onnx")
    return folder


@pytest.mark.parametrize("name, said", [
    ("features.onnx", "takes features, and a page has waveforms; export it again: steps/export.sh --front-end true"),
    ("fixed.onnx", "takes 16000 samples and no other number; export it without --seconds"),
    ("cut.onnx", "not an ONNX model that can be read"),
    ("text.onnx", "not an ONNX model that can be read"),
    ("foreign.onnx", "not one that svq.bin.export made"),
    ("none.onnx", "no such file"),
    ("model.svq", "not an .onnx file, which is what a browser runs; make one: steps/export.sh --front-end true"),
    ("m", "not an .onnx file"),
])
def test_other_models_are_refused(others, tmp_path, package, name, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")) as error:
        made(others / name, tmp_path / "demo", package)
    assert str(error.value).startswith(str(others / name)) and not (tmp_path / "demo").exists()


def test_a_folder_with_other_things_is_left_alone(place, tmp_path, package):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear ann")
    out = made(place / "model.onnx", tmp_path / "demo", package)
    (out / "added.html").write_text("mine")
    (tmp_path / "file").write_text("")
    for folder, said in [("mine", "letter.txt"), ("demo", "added.html"), ("file", "a file; give a folder")]:
        with pytest.raises(UserError, match=said):
            made(place / "model.onnx", tmp_path / folder, package)
    assert (tmp_path / "mine/letter.txt").read_text() == "dear ann" and (out / "added.html").exists()


def test_a_failure_leaves_the_page_of_before(place, tmp_path, package, monkeypatch):
    out = made(place / "model.onnx", tmp_path / "demo", package)
    before = contents(out)
    monkeypatch.setattr("svq.demo.folder.os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError):
        made(place / "plain.onnx", out, package)
    assert contents(out) == before and {path.name for path in tmp_path.iterdir()} == {"demo", "package.tgz"}


def test_a_runtime_from_a_folder(place, tmp_path, package):
    with tarfile.open(package) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for folder in ("unpacked", "unpacked/package", "unpacked/package/dist"):
        assert runtime.find_runtime(tmp_path / folder) == runtime.Runtime(*FILES.values())


def test_runtimes_that_are_none(tmp_path, package):
    whole = package.read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tgz").write_text("not an archive")
    (tmp_path / "empty").mkdir()
    packed(tmp_path / "older.tgz", FILES | {runtime.WASM: b"\0asm of another version"})
    packed(tmp_path / "half.tgz", {runtime.CODE: FILES[runtime.CODE]})
    for name, said in [("cut.tgz", "not an archive of onnxruntime-web"), ("text.tgz", "not an archive of onnxruntime-web"),
                       ("empty", "is not in it"), ("half.tgz", "is not in it"), ("older.tgz", "is not that of onnxruntime-web")]:
        with pytest.raises(UserError, match=said) as error:
            runtime.find_runtime(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name)) and "npm pack onnxruntime-web@" in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def npm(tmp_path, monkeypatch, script):
    """A program npm of that script, and no other."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/npm"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_npm_brings_it(tmp_path, package, monkeypatch):
    npm(tmp_path, monkeypatch, f'[[ $1 == pack && $2 == onnxruntime-web@* && $3 == --pack-destination ]] && cp "{package}" "$4/{runtime.ARCHIVE}"')
    assert runtime.find_runtime() == runtime.Runtime(*FILES.values())


def test_npm_that_fails_or_is_not_there(tmp_path, package, monkeypatch):
    npm(tmp_path, monkeypatch, "echo 'npm error ENOTFOUND' >&2; exit 1")
    with pytest.raises(UserError, match=r"npm did not bring .*ENOTFOUND.*--ort-web"):
        runtime.find_runtime()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm, which brings ONNX Runtime Web, is not installed.*--ort-web"):
        runtime.find_runtime()


def test_the_step_fails_with_its_worker(place, tmp_path):
    step = ["bash", str(ROOT / "steps/make_demo.sh"), "--ort-web", str(tmp_path / "none.tgz"), str(place / "model.onnx"),
            str(tmp_path / "demo")]
    done = subprocess.run(step, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 1 and "none.tgz" in done.stderr + done.stdout and not (tmp_path / "demo").exists()
