"""Writes the demo page as a folder of static files, whole or not at all."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import shutil
import tempfile
from importlib import resources

from svq.demo.runtime import VERSION, Runtime
from svq.errors import UserError, some_of

WORKER = ("resample.js", "sound.js", "engine.js")  # joined in this order into one script
MARK = "demo.json"


def files_of(model: dict, runtime: Runtime) -> dict[str, bytes]:
    """Gives all files of a page: name -> content. model: of svq.demo.model.facts_of.

    A page that was opened from a file may not read the files beside it, but may load scripts. So data are scripts, and
    the code of the workers is text in one.
    """
    source = resources.files("svq.demo")
    found = {entry.name: entry.read_bytes() for entry in source.joinpath("page").iterdir() if entry.is_file()}
    worker = {name: source.joinpath("worker", name).read_text(encoding="utf-8") for name in (*WORKER, "capture.js")}
    sources = {"engine": "\n".join(worker[name] for name in WORKER), "capture": worker["capture.js"]}
    # No time in the archive, so that the same input gives the same bytes.
    wasm = base64.b64encode(gzip.compress(runtime.wasm, mtime=0)).decode()
    found["data/sources.js"] = script("svqSources", sources)
    found["data/runtime.js"] = script("svqRuntime", {"version": VERSION, "code": runtime.code.decode(), "wasm": wasm})
    found["data/model.js"] = script("svqModel", model)
    about = {name: model[name] for name in ("name", "bytes", "digest", "title", "svq")} | {"onnxruntime_web": VERSION}
    found[MARK] = (json.dumps(about, indent=1, sort_keys=True) + "\n").encode()
    return found


def script(name: str, value) -> bytes:
    """Makes a script that hands a value to the page, as window.<name>."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))  # ASCII, all else escaped
    return f"window.{name} = {text};\n".encode()


def require_place(out) -> None:
    """Checks that the page may be written to `out`: a free name, an empty folder, or a page and nothing else.

    UserError where `out` is a file or holds anything else.
    """
    if not os.path.lexists(out):
        return
    if not os.path.isdir(out):
        raise UserError(f"{out}: a file; give a folder for the page")
    held = {os.path.relpath(os.path.join(folder, name), out) for folder, _, names in os.walk(out) for name in names}
    if not held:
        return
    ours = {"data/sources.js", "data/runtime.js", "data/model.js", MARK}
    ours |= {entry.name for entry in resources.files("svq.demo").joinpath("page").iterdir()}
    strange = sorted(held - ours) if MARK in held else sorted(held)
    if strange:
        raise UserError(f"{out}: holds files that are not a page's ({some_of(strange)}); give another folder, or empty it")


def write(out, files: dict[str, bytes]) -> None:
    """Writes the files of a page into the folder `out`, in place of an older page. UserError as `require_place`."""
    require_place(out)
    out = os.path.abspath(out)
    parent, name = os.path.split(out)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=parent)
    try:
        new, old = os.path.join(temporary, "new"), os.path.join(temporary, "old")
        for file, content in files.items():
            path = os.path.join(new, file)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.rename(out, old)
        os.rename(new, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
