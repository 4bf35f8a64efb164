"""Texts that users write: configs, tables of bits, ladders, calibrations, maps, mean embeddings."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import yaml

from svq.backend.embeddings import write_vector
from svq.bin import quantize, train, verify
from svq.config import load_config
from svq.models import load_model
from svq.quant import quantized_layers
from svq.train.config import TrainConfig
from tests.helpers import run_worker
from tests.inputs.archive_cases import small_model
from tests.inputs.audio_cases import wav
from tests.inputs.model_cases import made
from tests.inputs.outcome import Case


def configs() -> list[Case]:
    """Read by svq.bin.train, before any data."""
    def case(what, text, words="c.yaml", right=None):
        def run(folder):
            path = folder / "c.yaml"
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            if right is not None:
                return load_config(path, TrainConfig)
            return run_worker(train.main, "--config", path, "--data", folder / "data", "--out", folder / "out")
        return Case("configs", what, run, None if right is not None else words, right)

    values = {"epochs": ("0", "-1", "010", "1_000", "0x10", "1:30", "1.5", "1e2", "'5'", "\u0663", "true", "[1]", "{}",
        "~", "9" * 5000),
              "scale": ("0", "-1", ".inf", "-.inf", ".nan", "\u0663", "'\uff13'", "1_0", "true", "x", "'nan'", "1e999",
                  "0x10"),
              "seed": ("-1", "1.5", "x"), "precision": ("fp8", "true", "3", "~"), "batch_size": ("0", "-8", "x"),
              "checkpoint_minutes": (".nan", ".inf", "x"), "channels_last": ("yes please", "1", "'true'")}
    good = {"scale: 1e-4": 1e-4, "scale: 1E5": 1e5, "scale: .5": 0.5, "scale: +2.5": 2.5, "scale: '3.5'": 3.5,
        "scale: 7": 7.0}
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    return [
        *(case(f"{key}: {value[:12]}", f"{key}: {value}\n") for key, many in values.items() for value in many
            if value != "1e2"),
        *(case(text, text, right=lambda made, value=value: made.scale == value) for text, value in good.items()),
        *(case(what, text) for what, text in {
            "an unknown key": "epoch: 3\n", "a key twice": "epochs: 3\nseed: 1\nepochs: 4\n", "a list": "- epochs\n",
                "a word": "epochs\n",
            "a tab": "model:\n\tarch: x\n", "no end": "model: {arch: x\n", "Latin-1": b"# caf\xe9\nepochs: 3\n",
                "UTF-16": "epochs: 3\n".encode("utf-16")[2:],
            "NUL": "epochs: 3\0\n", "a bomb": bomb, "an alias in itself": "a: &a [*a]\n", "depth": "a: " + "[" * 20000,
                "an object": "a: !!python/name:os.system\n",
            "two documents": "epochs: 3\n---\nepochs: 4\n", "a base that is missing": "base: none.yaml\n",
                "a base that is itself": "base: c.yaml\n",
            "a base with NUL": 'base: "a\\0b"\n', "a base that is a list": "base: [a]\n",
                "rows that are missing": "rows: [none.yaml]\n",
            "a date": "epochs: 2026-01-01\n", "a million keys": "".join(f"k{i}: 1\n" for i in range(100_001))}.items()),
        Case("configs", "nothing there", lambda f: run_worker(train.main, "--config", f / "c.yaml", "--data", f,
            "--out", f), "c.yaml: no such"),
        Case("configs", "a FIFO", lambda f: (os.mkfifo(f / "c.yaml"), run_worker(
            train.main, "--config", f / "c.yaml", "--data", f, "--out", f)), "a pipe (FIFO)"),
        Case("configs", "a device", lambda f: run_worker(train.main, "--config", "/dev/zero", "--data", f, "--out", f),
            "a device"),
        *(Case("configs", f"--set {text[:30]}", lambda f, t=text: ((f / "c.yaml").write_text("epochs: 3\n"), run_worker(
            train.main, "--config", f / "c.yaml", "--set", t, "--data", f / "d", "--out", f / "o")), words) for text,
                words in {
                "epochs": "override 'epochs'", "=3": "override '=3'", "epochs=[": "not valid YAML",
                    "epochs=\u0663": "'epochs'", "epochs.x=3": "override",
                "epochs=010": "'epochs'", "scale=.nan": "'scale'", "a=&a [*a]": "alias"}.items()),
    ]


def bits() -> list[Case]:
    def sound() -> str:
        from svq.bits.table import format_shape
        from svq.quant.api import float_weight, quantizable

        net, _ = load_model(small_model())
        return "layer\tshape\ttrace\tbits\n" + "".join(
            f"{name}\t{format_shape(float_weight(layer).shape)}\t-\t4\n" for name, layer in quantizable(net))

    def case(what, change, words="bits.tsv", right=None):
        def run(folder):
            text = change(sound())
            (folder / "bits.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
            (folder / "c.yaml").write_text("quant: {bits: 2}\n")
            run_worker(quantize.main, "--init", small_model(), "--config", folder / "c.yaml", "--bits",
                folder / "bits.tsv", "--out", folder / "m")
            return {layer.bits for layer in quantized_layers(load_model(folder / "m")[0])}
        return Case("tables of bits", what, run, words if right is None else None, right)

    def each(old, new):
        return lambda text: text.replace(old, new, 1)

    four = (lambda made: made == {4})
    return [
        case("sound", lambda text: text, right=four), case("CR LF", lambda text: text.replace("\n", "\r\n"),
            right=four),
        case("a byte order mark", lambda text: "\ufeff" + text, right=four), case("a comment",
            lambda text: "# x\n\n" + text, right=four),
        *(case(f"{new!r} bits", each("\t4\n", f"\t{new}\n")) for new in ("0", "9", "-4", "4.0", "\u0664", "04", "+4",
            "x", "", "4_0", "33", "9" * 5000)),
        *(case(f"a trace of {new!r}", each("\t-\t", f"\t{new}\t")) for new in ("nan", "inf", "\u0663", "1_0", "x",
            "1e999", "")),
        *(case(f"a shape of {new!r}", lambda text, new=new: text.split("\n")[0] + "\n" + "\n".join(
            "\t".join([f[0], new, *f[2:]]) for f in (line.split("\t") for line in text.splitlines()[1:])) + "\n")
          for new in ("", "0x3", "8x", "x8", "\u0668x8", "8X8", "-8x8", "9" * 30, "8.0x8")),
        case("no header", lambda text: text.partition("\n")[2]), case("a header alone",
            lambda text: text.partition("\n")[0]),
        case("nothing", lambda text: ""), case("blanks for tabs", lambda text: text.replace("\t", " ")),
            case("a layer twice", lambda text: text + text.split("\n")[1] + "\n"),
        case("a layer missing", lambda text: text.rstrip("\n").rpartition("\n")[0] + "\n"), case("an unknown layer",
            lambda text: text + "zz\t8x8\t-\t4\n"),
        case("Latin-1", lambda text: text.encode() + b"\xe9\n"), case("five fields", each("\t4\n", "\t4\t4\n")),
        Case("tables of bits", "a FIFO", lambda f: (os.mkfifo(f / "bits.tsv"),
            (f / "c.yaml").write_text("quant: {bits: 2}\n"), run_worker(
            quantize.main, "--init", small_model(), "--config", f / "c.yaml", "--bits", f / "bits.tsv", "--out",
                f / "m")), "a pipe (FIFO)"),
    ]


def decided(folder: Path, *options) -> dict:
    """What svq.bin.verify says of a recording and itself."""
    import contextlib
    import io

    file_of = folder / "v.wav"
    file_of.write_bytes(wav(data=np.tile(np.frombuffer(wav()[44:], "<i2"), 4).tobytes()))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run_worker(verify.main, "--json", "true", *options, file_of, "--", file_of)
    return json.loads(said.getvalue())


def calibrations() -> list[Case]:
    def case(what, content, words="c.json", right=None, name="c.json", option="--calibration"):
        def run(folder):
            data = content if isinstance(content, (bytes, str)) else json.dumps(content)
            (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
            return decided(folder, "--model", small_model(), option, folder / name)
        return Case("calibrations", what, run, None if right else words, right)

    good = {"slope": 2.0, "offset": -1.0, "prior": 0.5, "score": "cosine_none", "mean": "none"}
    wrong = {"slope": (0, -1, math.nan, math.inf, "2", None, [2], True, 10**400), "offset": (math.nan, -math.inf, "x",
        None, {}),
             "prior": (math.nan, "x", 7, 0, -1), "score": (3, "plda_none", ["x"]), "mean": (3, "no base64", "AAAA",
                 "AADAfw==", [1])}
    return [
        case("sound", good, right=lambda made: made["llr"] == 2 * made["score"] - 1),
        *(case(f"{key}: {value!r}"[:40], {**good, key: value}) for key, many in wrong.items() for value in many),
        case("no slope", {"offset": 1}), case("an unknown key", {**good, "x": 1}), case("a list", [1, 2]),
            case("a number", "3"), case("nothing", ""),
        case("cut short", json.dumps(good)[:20]), case("depth", "[" * 100_000), case("a number of 5,000 digits",
            '{"slope": ' + "9" * 5000 + ', "offset": 0}'),
        case("Latin-1", b'{"slope": 1, "offset": 1, "score": "\xe9"}'), case("UTF-16",
            json.dumps(good).encode("utf-16")[2:]), case("a key twice",
                '{"slope": 1, "slope": 2, "offset": 0, "score": "cosine_none", "mean": "none"}'),
        Case("calibrations", "a FIFO", lambda f: (os.mkfifo(f / "c.json"), decided(f, "--model", small_model(),
            "--calibration", f / "c.json")), "a pipe (FIFO)"),
        Case("calibrations", "nothing there", lambda f: decided(f, "--model", small_model(), "--calibration",
            f / "c.json"), "c.json is missing"),
        *(Case("mean embeddings", what, lambda f, w=write: (w(f / "mean.vec"), decided(f, "--model", small_model(),
            "--mean", f / "mean.vec")), "mean.vec")
          for what, write in {"of 3 values": lambda p: write_vector(p, np.ones(3)), "NaN": lambda p: write_vector(p,
              np.full(4, np.nan)),
                              "nothing": Path.touch, "text": lambda p: p.write_text("x y\n"), "a FIFO": os.mkfifo,
                              "cut short": lambda p: p.write_bytes(b"\0BFV \4\4\0\0\0abcd")}.items()),
    ]


def ladders() -> list[Case]:
    def case(what, change, words="l.yaml", right=None):
        def run(folder):
            shutil.copy(made("svq")[0], folder / "m.svq")
            for name, slope in (("a", 2.0), ("b", 3.0)):
                (folder / f"{name}.json").write_text(json.dumps({"slope": slope, "offset": 0.0, "score": "cosine_none",
                    "mean": "none"}))
            tree = {"score": "cosine_none", "operating": {"p_target": 0.5}, "rungs": [
                {"name": "one", "model": "m.svq", "map": "a.json", "delta": 1.0}, {"name": "two",
                    "model": str(small_model()), "map": "b.json"}]}
            text = change(tree)
            (folder / "l.yaml").write_bytes(text if isinstance(text, bytes) else yaml.safe_dump(tree).encode())
            return decided(folder, "--cascade", folder / "l.yaml")
        return Case("ladders", what, run, None if right else words, right)

    def put(*keys, value):
        def change(tree):
            for key in keys[:-1]:
                tree = tree[key]
            tree[keys[-1]] = value
        return change

    values = {("operating", "p_target"): (0, 1, 7, -0.5, math.nan, math.inf, "x", None), ("operating", "c_miss"): (0,
        -1, math.inf, "\u0663"),
              ("operating", "threshold"): (math.nan, math.inf, "x"), ("rungs",): ([], None, 3, [{}], ["x"]), ("rungs",
                  0, "name"): ("", "a b", "a/b", 3, "two"),
              ("rungs", 0, "delta"): (-1, math.nan, "x", None), ("rungs", 0, "precision"): (0, -1, 1.5, "x"), ("rungs",
                  0, "weight_bits"): (0, -1),
              ("rungs", 0, "bytes"): (0, -5, 1.5), ("rungs", 1, "delta"): (1.0,), ("rungs", 0, "backend"): ("x",),
                  ("rungs", 1, "map"): ("affine",),
              ("rungs", 0, "map"): ("logistic", 3), ("score",): (3,), ("x",): (1,)}
    return [
        case("sound", lambda tree: None,
            right=lambda said: said["decision"] == "accept" and abs(said["score"] - 1) < 1e-6 if "score" in said
                else said["decision"] == "accept"),
        *(case(f"{'.'.join(map(str, keys))}: {value!r}"[:50], put(*keys, value=value), words="")
          for keys, many in values.items() for value in many),
        case("a list", lambda tree: b"- 1\n"), case("noise", lambda tree: bytes(range(128, 256))), case("nothing",
            lambda tree: b""),
        case("a model that is missing", put("rungs", 0, "model", value="none.svq"), "none.svq"),
        case("a map that is missing", put("rungs", 0, "map", value="none.json"), "none.json"),
        case("a map that is a model", put("rungs", 0, "map", value="m.svq"), "m.svq"),
        Case("ladders", "a FIFO", lambda f: (os.mkfifo(f / "l.yaml"), decided(f, "--cascade", f / "l.yaml")),
            "a pipe (FIFO)"),
        *(Case("score maps", f"{content}"[:50], lambda f, c=content: (shutil.copy(made("svq")[0], f / "m.svq"),
            (f / "a.json").write_text(json.dumps(c)),
          (f / "b.json").write_text(json.dumps({"slope": 1.0, "offset": 0.0})), (f / "l.yaml").write_text(
              f"rungs: [{{name: a, model: m.svq, map: a.json, delta: 1.0}}, {{name: b, model: {small_model()}, map: b.json}}]\n"),
          decided(f, "--cascade", f / "l.yaml")), "a.json") for content in (
              {"kind": "affine"}, {"kind": "affine", "slope": -1, "offset": 0}, {"kind": "affine", "slope": math.nan,
                  "offset": 0},
              {"kind": "affine", "slope": "\u0663", "offset": 0}, {"kind": "isotonic", "x": [], "y": []},
                  {"kind": "isotonic", "x": [1, 0], "y": [0, 1]},
              {"kind": "isotonic", "x": [0, 1], "y": [0]}, {"kind": "isotonic", "x": ["a"], "y": [0]},
                  {"kind": "isotonic", "x": {}, "y": 3},
              {"kind": "x"}, {"kind": 3}, [], 3, "x", None)),
    ]


def cases() -> list[Case]:
    return configs() + bits() + calibrations() + ladders()
