"""Model files: folders, packed and exported ones, whose numbers ask for what is not there; used by svq.bin.embed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import yaml
from safetensors import safe_open

from svq.bin import embed, export, inspect
from svq.data.features import read_vector
from svq.data.table import Table
from svq.models import load_model
from svq.network import load_tensors, save_tensors
from svq.pack.file import save_packed
from svq.pack.format import as_json, digest
from svq.quant import QuantConfig, quantize_
from tests.helpers import run_worker
from tests.inputs.archive_cases import small_model
from tests.inputs.audio_cases import SAMPLES
from tests.inputs.outcome import Case

HUGE = 10**9


def embedded(folder: Path, model) -> np.ndarray:
    soundfile.write(folder / "x.wav", np.tile(SAMPLES, 4), 16000, subtype="PCM_16")
    run_worker(embed.main, "--model", model, "--out", folder / "e", folder / "x.wav")
    return read_vector(Table.read(folder / "e.scp")["x"])


@functools.cache
def made(kind: str) -> tuple[Path, np.ndarray]:
    """The sound model of a kind (folder, svq, onnx), and the embedding that it gives."""
    held = tempfile.TemporaryDirectory()
    made.held = getattr(made, "held", []) + [held]  # gone with the process
    folder = Path(held.name)
    path = {"folder": folder / "m", "svq": folder / "m.svq", "onnx": folder / "m.onnx"}[kind]
    if kind == "folder":
        shutil.copytree(small_model(), path)
    elif kind == "svq":
        net, config = load_model(small_model())
        quant = QuantConfig(bits=4)
        save_packed(path, quantize_(net, quant).eval(), config.__class__(**{**vars(config), "quant": quant}))
    else:
        run_worker(export.main, "--model", small_model(), "--out", path)
    return path, embedded(folder, path)


def is_right(kind: str):
    return lambda vector: np.allclose(vector, made(kind)[1], atol=1e-5)


def folders() -> list[Case]:
    def case(what, words, is_right=None, config=None, tensors=None, text=None):
        def run(folder):
            model = folder / "m"
            shutil.copytree(made("folder")[0], model)
            if text is not None:
                (model / "config.yaml").write_bytes(text)
            elif config:
                tree = yaml.safe_load((model / "config.yaml").read_text())
                config(tree)
                (model / "config.yaml").write_text(yaml.safe_dump(tree))
            if tensors:
                tensors(model / "model.safetensors")
            return embedded(folder, model)
        return Case("model folders", what, run, words, is_right)

    def put(*keys, value):
        def change(tree):
            for key in keys[:-1]:
                tree = tree[key]
            tree[keys[-1]] = value
        return change

    numbers = {("embed_dim",): (0, -1, 1 << 21, HUGE, 10**30, 1.5, "4", True, None, [4]),
               ("net", "width"): (0, -1, 9, 65536, 65537, HUGE, 10**30, 1.5, "8", True, None),
               ("net", "layers"): (0, 1, 3, 1000, 1001, HUGE), ("net", "splice"): (2, 5, 65535, HUGE),
               ("front_end", "rate"): (0, -1, 999, 768001, HUGE, 1e9, "16000"), ("front_end", "num_mels"): (0, 9, 1025,
                   10**6),
               ("front_end", "full_scale"): (0, -1, float("inf"), float("nan"), "x", "\u0663"),
               ("front_end", "preemphasis"): (-0.1, 1.1, float("nan")), ("arch",): ("None", "", 3, ["ResNet34"], None),
               ("net", "depth"): (1,), ("net", "feat_dim"): (8,), ("net", "embed_dim"): (4,), ("net", "most"): (1,),
                   ("net", 1): (2,),
               ("net",): ([1], "x", 3), ("front_end",): ([1], 3), ("quant",): ({"bits": 0}, {"bits": 9}, {"bits": HUGE},
                   {"method": "x"}, 4),
               ("folded",): ({"x": "y"}, [1]), ("front_end", "window"): ("hann", 3), ("extra",): (1,)}
    found = [case(f"{'.'.join(map(str, keys))}: {value!r}"[:60], "m", config=put(*keys, value=value))
             for keys, values in numbers.items() for value in values]

    def cut(size):
        return lambda path: path.write_bytes(path.read_bytes()[:size])

    def long_header(path):
        path.write_bytes(struct.pack("<Q", 2**63 - 1) + path.read_bytes()[8:])

    def fifo(path):
        path.unlink()
        os.mkfifo(path)

    def tensor(change):
        def work(path):
            tensors = load_tensors(path)
            name = next(iter(sorted(tensors)))
            save_tensors(path, change(tensors, name))
        return work

    weights = "model.safetensors"
    found += [case(f"weights cut to {size} bytes", weights, tensors=cut(size)) for size in (0, 1, 8, 20, 200, 1000)]
    return found + [
        case("a header of 2^63 bytes", weights, tensors=long_header), case("weights that are a FIFO", "a pipe (FIFO)",
            tensors=fifo),
        case("no weights", weights, tensors=os.unlink), case("weights that are a folder", weights,
            tensors=lambda p: (p.unlink(), p.mkdir())),
        case("a tensor missing", "missing [", tensors=tensor(lambda t, name: {k: v for k, v in t.items()
            if k != name})),
        case("a tensor too many", "unexpected ['more']", tensors=tensor(lambda t, name: {**t,
            "more": t[name].clone()})),
        case("a tensor of another shape", "has shape", tensors=tensor(lambda t, name: {**t,
            name: t[name][None].clone()})),
        case("a weight that is no number", "not finite", tensors=tensor(lambda t, name: {**t, name: t[name] * np.nan})),
        case("weights in double precision", None, is_right("folder"), tensors=tensor(lambda t, _: {k: v.double() for k,
            v in t.items()})),
        *(case(f"a config of {what}", "m/config.yaml", text=text) for what, text in {
            "a list": b"- 1\n", "words": b"hello\n", "no YAML": b"a: [\n", "noise": bytes(range(128, 256)),
                "tags": b"!!python/object/apply:os.getcwd []\n",
            "aliases": b"a: &a [x]\nb: &b [*a, *a]\n" + b"".join(b"%c: &%c [%s]\n" % (c, c,
                b", ".join([b"*%c" % (c - 1)] * 10)) for c in range(99, 108)),
            "depth": b"[" * 5000, "a key twice": b"arch: a\narch: b\n"}.items()),
        case("a config of nothing", "do not fit", text=b""),
        Case("model folders", "no config", lambda folder: ((folder / "m").mkdir(), embedded(folder, folder / "m"))[1],
            "no such config file"),
        Case("model folders", "nothing there", lambda folder: embedded(folder, folder / "m"),
            "neither a model folder nor"),
        Case("model folders", "a config that is a FIFO", lambda folder: ((folder / "m").mkdir(),
            os.mkfifo(folder / "m/config.yaml"),
             embedded(folder, folder / "m"))[2], "a pipe (FIFO)"),
        Case("model folders", "a FIFO", lambda folder: (os.mkfifo(folder / "m"), embedded(folder, folder / "m"))[1],
            "neither a model folder nor"),
    ]


def packed() -> list[Case]:
    kind = "packed models"

    def raw(what, change, words="m.svq", good=None):
        def run(folder):
            (folder / "m.svq").write_bytes(change(made("svq")[0].read_bytes()))
            return embedded(folder, folder / "m.svq")
        return Case(kind, what, run, words, good)

    def told(what, change, words="m.svq", worker=embed):
        """about and tensors changed, with a digest that is right again."""
        def run(folder):
            path = folder / "m.svq"
            with safe_open(made("svq")[0], framework="pt") as file:
                about = json.loads(file.metadata()["svq"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            change(about, tensors)
            if isinstance(about.get("digest"), str):
                about["digest"] = digest(about, tensors)
            save_tensors(path, tensors, {"svq": as_json(about)})
            return run_worker(inspect.main, path) if worker is inspect else embedded(folder, path)
        return Case(kind, what, run, words)

    def put(*keys, value):
        def change(about, _):
            for key in keys[:-1]:
                about = about[key]
            about[keys[-1]] = value
        return change

    def flip(place):
        def change(data):
            at = place * 7919 % len(data)
            return data[:at] + bytes([data[at] ^ (1 << place % 8)]) + data[at + 1:]
        return change

    values = {("format",): (0, 1, 99, "3", None, [3]), ("model", "embed_dim"): (0, 5, 1 << 21, HUGE, "x"),
              ("model", "net", "width"): (0, 9, 65535, HUGE), ("model", "net", "layers"): (1, 3, 900, HUGE),
              ("model", "front_end", "rate"): (0, HUGE), ("model", "front_end", "num_mels"): (0, 7, 10**6),
              ("model", "quant"): (3, {"bits": 99}), ("model",): (None, [], "x"), ("layers",): (None, [], 3, [[1]],
                  ["x"]),
              ("layers", 0): (["x", 4, 16, 1], [], [1, 2]), ("layers", 0, 1): (0, 9, -1, HUGE, "4", 3),
              ("layers", 0, 2): (0, 17, HUGE, -1, 1.5), ("layers", 0, 3): (0, 3, -1, HUGE, 2**62), ("norms",): (3,
                  [["x", 3]], [["x", -1]], [1]),
              ("digest",): (None, 3, {"4": "x"})}
    found = [told(f"{'.'.join(map(str, keys))}: {value!r}", put(*keys, value=value), worker=worker)
             for keys, many in values.items() for value in many
             for worker in ((embed, inspect) if keys[0] == "layers" else (embed,))]
    compressed = [told(f"{n} bytes of Huffman codes", lambda about, _, n=n: about["layers"][0].append(n)) for n in (-1,
        1, 7, HUGE, 2**62)]
    calibrations = [told(f"calibration {value!r}", put("calibration", value=value), "m.svq: not a calibration")
                    for value in ({"slope": float("nan"), "offset": 0}, {"slope": -1, "offset": 0}, {"slope": "1",
                        "offset": 0}, {"a": 1}, {"slope": 1})]

    def tensor(name, change):
        return lambda about, tensors: tensors.update({name: change(tensors[name])})

    return found + compressed + calibrations + [
        *(raw(f"cut to {n} bytes", lambda data, n=n: data[:n]) for n in (0, 1, 7, 8, 9, 100, 700, 1500)),
        *(raw(f"bit {place} turned", flip(place)) for place in range(1, 41)),
        raw("a byte more", lambda data: data + b"x"), raw("a header of 2^63 bytes", lambda data: struct.pack("<Q",
            2**63 - 1) + data[8:]),
        raw("sound", lambda data: data, None, is_right("svq")),
        told("codes cut", tensor("codes", lambda t: t[:-1].clone())), told("codes too many", tensor("codes",
            lambda t: t.repeat(2))),
        told("codes that are floats", tensor("codes", lambda t: t.float())), told("levels that are NaN",
            tensor("codebooks", lambda t: t * np.nan)),
        told("levels cut", tensor("codebooks", lambda t: t[:-1].clone())), told("no codes", lambda about,
            tensors: tensors.pop("codes")),
        told("a tensor too many", lambda about, tensors: tensors.update(more=tensors["codes"].clone())),
        Case(kind, "a FIFO", lambda folder: (os.mkfifo(folder / "m.svq"), embedded(folder, folder / "m.svq"))[1],
            "a pipe (FIFO)"),
        Case(kind, "a folder", lambda folder: ((folder / "m.svq").mkdir(), embedded(folder, folder / "m.svq"))[1],
            "m.svq"),
        Case(kind, "nothing there", lambda folder: embedded(folder, folder / "m.svq"), "m.svq: no such file"),
    ]


def exported() -> list[Case]:
    kind = "exported models"

    def raw(what, change, words="m.onnx", good=None):
        def run(folder):
            (folder / "m.onnx").write_bytes(change(made("onnx")[0].read_bytes()))
            return embedded(folder, folder / "m.onnx")
        return Case(kind, what, run, words, good)

    def told(what, *keys, value, words="m.onnx"):
        def run(folder):
            import onnx

            model = onnx.load(made("onnx")[0])
            about = tree = json.loads(model.metadata_props[0].value)
            for key in keys[:-1]:
                tree = tree[key]
            if keys:
                tree[keys[-1]] = value
            model.metadata_props[0].value = json.dumps(about) if keys else value
            del model.metadata_props[1:]  # the digest, which would not let any of this pass
            onnx.save(model, folder / "m.onnx")
            return embedded(folder, folder / "m.onnx")
        return Case(kind, f"{what} {value!r}"[:60], run, words)

    def other(inputs):
        """A network of one's own under our metadata."""
        def run(folder):
            import onnx
            from onnx import TensorProto, helper

            ours = onnx.load(made("onnx")[0])
            ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", inputs),
                ("y", inputs))]
            graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
            model.metadata_props.extend(ours.metadata_props[:1])
            onnx.save(model, folder / "m.onnx")
            return embedded(folder, folder / "m.onnx")
        return Case(kind, f"another network {inputs}", run, "m.onnx")

    return [
        raw("sound", lambda data: data, None, is_right("onnx")),
        *(raw(f"cut to {n} bytes", lambda data, n=n: data[:n]) for n in (0, 1, 50, 1000)),
        raw("one bit", lambda data: data[:500] + bytes([data[500] ^ 4]) + data[501:], "does not match its digest"),
        raw("noise", lambda data: bytes(range(256)) * 20), raw("text", lambda data: b"<html>\n"),
        told("metadata", value=""), told("metadata", value="x"), told("metadata", value="[1]"), told("metadata",
            value="{}"),
        *(told("format", "format", value=value) for value in (0, 3, "1", None)),
        *(told("embed_dim", "config", "embed_dim", value=value) for value in (0, 5, HUGE, "x")),
        *(told("rate", "config", "front_end", "rate", value=value) for value in (0, HUGE, "x")),
        *(told("num_mels", "config", "front_end", "num_mels", value=value) for value in (0, 7, 10**6)),
        *(told("input", "input", value=value) for value in ("x", None)), *(told("frames", "frames", value=value)
            for value in (-1, 0, 7, "x")),
        told("input", "input", value="waveform"), told("calibration", "calibration", value="x"), told("calibration",
            "calibration", value={"slope": 1}),
        other([1, 3]), other(["b", "t", "f"]), other([1, 1, 1, 1]),
        Case(kind, "a FIFO", lambda folder: (os.mkfifo(folder / "m.onnx"), embedded(folder, folder / "m.onnx"))[1],
            "m.onnx"),
        Case(kind, "nothing there", lambda folder: embedded(folder, folder / "m.onnx"), "m.onnx: no such file"),
        Case(kind, "an .xml without its .bin", lambda folder: ((folder / "m.xml").write_text("<net/>"), embedded(folder,
            folder / "m.xml"))[1], "m.xml"),
    ]


def cases() -> list[Case]:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:  # not installed by default
        return folders() + packed()
    return folders() + packed() + exported()
