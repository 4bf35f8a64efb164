"""Kaldi archives, trial lists, scores, .npz: what svq.bin.score, calibrate and extract make of them."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from svq.backend.plda import FORMAT, Plda
from svq.bin import calibrate, extract, score, train_plda
from svq.data.features import read_vector
from svq.data.frontend import FrontEndConfig
from svq.data.table import Table
from svq.models import save_model
from svq.network import ModelConfig
from tests.helpers import run_worker
from tests.inputs.outcome import Case

IDS = ("a-1", "a-2", "b-1")
VECTORS = np.float32([[1, 2, 3, 4], [2, 1, 4, 3], [-1, 5, 0, 2]])
TRIALS = "a-1 a-2 target\na-1 b-1 nontarget\na-2 b-1 nontarget\n"
FEATS = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
MELS = 8


def vector(values, kind: bytes = b"FV ", size: int | None = None, width: bytes = b"\4") -> bytes:
    values = np.asarray(values, "<f4")
    return b"\0B" + kind + width + struct.pack("<i", len(values) if size is None else size) + values.tobytes()


def matrix(values, kind: bytes = b"FM ", rows: int | None = None, cols: int | None = None) -> bytes:
    rows, cols = (own if given is None else given for own, given in zip(values.shape, (rows, cols)))
    return b"\0B" + kind + b"\4" + struct.pack("<i", rows) + b"\4" + struct.pack("<i",
        cols) + values.astype("<f4").tobytes()


def cosines() -> np.ndarray:
    x = VECTORS / np.linalg.norm(VECTORS.astype(float), axis=1)[:, None]
    return np.array([x[0] @ x[1], x[0] @ x[2], x[1] @ x[2]])


def scored(folder: Path, embeddings, trials: str | bytes = TRIALS, *options) -> np.ndarray:
    (folder / "trials").write_bytes(trials if isinstance(trials, bytes) else trials.encode())
    run_worker(score.main, "--threads", 1, *options, folder / "trials", embeddings, folder / "scores")
    return np.array([float(line.split()[2]) for line in (folder / "scores/cosine_none.score").read_text().splitlines()])


def archived(entries: list[bytes], suffix: str = "", name: str = "x.ark"):
    """A run that scores with an archive of these entries."""
    def run(folder: Path) -> np.ndarray:
        with open(folder / name, "wb") as ark, open(folder / "e.scp", "w") as scp:
            for utt, entry in zip(IDS, entries):
                ark.write(f"{utt} ".encode())
                scp.write(f"{utt} {folder / name}:{ark.tell()}{suffix}\n")
                ark.write(entry)
        return scored(folder, folder / "e.scp")
    return run


def right(made) -> bool:
    return np.allclose(made, cosines(), atol=2e-6)


def embeddings() -> list[Case]:
    good = [vector(row) for row in VECTORS]
    kind = "archives of embeddings"

    def case(what, entry, words=None, is_right=None, place=1):
        return Case(kind, what, archived([*good[:place], entry, *good[place + 1:]]), words, is_right)

    cut = [case(f"cut to {n} bytes", good[2][:n], "e.scp:3", place=2) for n in (0, 1, 2, 4, 5, 6, 9, 10, 13, 25)]
    sizes = [case(f"{size} values", vector(VECTORS[1], size=size), "e.scp:2") for size in (-1, 0, 3, 5, 10**6,
        2**31 - 1)]
    types = [case(f"type {name!r}", vector(VECTORS[1], kind=name), "e.scp:2") for name in (b"XV ", b"fv", b"    ",
        b"CM9 ", b"\0\0\0 ")]
    texts = {b" [ 2 1 4 3 ]\n": None, b" [\n  2 1 4 3 ]\n": None, b" [ 2 1 4 ]\n": "has 3 values",
        b" [ 2 1 4 x ]\n": "not a Kaldi",
             b" [ 2 1 4 3\n": "e.scp:2", b"2 1 4 3\n": None, b" [ ]\n": "e.scp:2", b"[" * 3000: "e.scp:2",
                 b" [ \xd9\xa3 1 4 3 ]\n": "e.scp:2",
             b" [ 2_0 1 4 3 ]\n": "e.scp:2", b" [ nan 1 4 3 ]\n": "e.scp:2"}
    return cut + sizes + types + [
        *(case(f"text {text[:30]!r}", text, words, None if words else right) for text, words in texts.items()),
        case("a matrix of one row", matrix(VECTORS[1:2]), is_right=right),
        case("a matrix of two rows", matrix(VECTORS[:2]), "expected a vector"),
        case("doubles", b"\0BDV \4" + struct.pack("<i", 4) + VECTORS[1].astype("<f8").tobytes(), is_right=right),
        *(case(str(value), vector([value, 1, 4, 3]), "finite embedding for 1 id: a-2") for value in (np.nan, np.inf,
            -np.inf)),
        case("all zero", vector([0, 0, 0, 0]), "embedding of non-zero length"),
        case("a pickle", pickle.dumps(VECTORS[1]), "e.scp:2"), case("NPY", b"NPY " + pickle.dumps(VECTORS[1]),
            "e.scp:2"),
        case("PKL", b"PKL " + pickle.dumps(os.getcwd), "e.scp:2"), case("noise", bytes(range(256)), "e.scp:2"),
        Case(kind, "rows of it", archived([matrix(np.stack([row, row + 1])) for row in VECTORS], "[0:0]"), right=right),
        *(Case(kind, f"rows {text} of it", archived([matrix(np.stack([row, row])) for row in VECTORS], text), "e.scp:1")
          for text in ("[0:7]", "[1:0]", "[\u0660:\u0660]", "[-1:0]", "[0:0,0:1]", "[", "[]", "[" + "9" * 5000 + "]")),
        Case(kind, "an offset in other digits", archived(good, "\u0663"), "e.scp:1"),
        Case(kind, "an offset beyond all", archived(good, "9" * 17), "e.scp:1"),
        Case(kind, "an offset of 5,000 digits", archived(good, "9" * 5000), "e.scp:1"),
        Case(kind, "a command", lambda folder: ((folder / "e.scp").write_text("".join(
            f"{utt} touch {folder}/made |\n" for utt in IDS)), scored(folder, folder / "e.scp"))[1], "e.scp:1: a-1"),
    ]


def lists_of_embeddings() -> list[Case]:
    kind = "lists of embeddings"

    def case(what, change, words, is_right=None):
        def run(folder):
            archived([vector(row) for row in VECTORS])(folder)
            text = (folder / "e.scp").read_bytes()
            (folder / "e.scp").write_bytes(change(text))
            os.mkfifo(folder / "pipe")
            return scored(folder, folder / "e.scp")
        return Case(kind, what, run, words, is_right)

    def fifo(folder):
        os.mkfifo(folder / "e.scp")
        return scored(folder, folder / "e.scp")

    return [case("nothing", lambda text: b"", "e.scp: empty"), case("an id alone", lambda text: b"a-1\n" + text,
        "e.scp:1: nothing after"),
            case("a blank line", lambda text: b"\n" + text, "e.scp:1: an empty line"),
            case("an id twice", lambda text: text.split(b"\n")[0] + b"\n" + text, "e.scp:2: `a-1` is already on line 1"),
            case("1 MB of id", lambda text: text + b"z" * (1 << 20) + b" x:1\n", "e.scp:4: a word of 1048576 bytes"),
            case("1 MB of name", lambda text: b"a-1 " + b"y" * (1 << 20) + b":1\n" + text.partition(b"\n")[2],
                "File name too long"),
            case("1 MB of name, not needed", lambda text: text + b"z " + b"y" * (1 << 20) + b":1\n", None, right),
            case("a FIFO in an archive's place", lambda text: text.replace(b"x.ark", b"pipe"),
                "e.scp:1: a-1 cannot be read"),
            case("an id missing", lambda text: text.partition(b"\n")[2], "no embedding for 1 id: a-1"),
            case("NUL", lambda text: text.replace(b"x.ark", b"x\0ark"), "e.scp:1"),
            Case(kind, "a FIFO", fifo, "a pipe (FIFO), not a file"),
            Case(kind, "a folder without one", lambda folder: scored(folder, folder), "embedding.scp"),
            Case(kind, "nothing there", lambda folder: scored(folder, folder / "e.scp"), "e.scp: no such file")]


def trial_lists() -> list[Case]:
    kind = "trial lists"

    def case(what, trials, words=None, is_right=None, *options):
        def run(folder):
            np.savez(folder / "e.npz", ids=np.array(IDS), embeddings=VECTORS)
            (folder / "models").write_text("m a-1 a-2\n")
            return scored(folder, folder / "e.npz", trials, *(str(folder / o[1:]) if o[:1] == "@" else o
                for o in options))
        return Case(kind, what, run, words, is_right)

    def groups(what, text, words, is_right=None):
        def run(folder):
            np.savez(folder / "e.npz", ids=np.array(IDS), embeddings=VECTORS)
            (folder / "g").write_bytes(text)
            return scored(folder, folder / "e.npz", "m b-1\n", "--enroll-spk2utt", folder / "g")
        return Case("models of several utterances", what, run, words, is_right)

    first = TRIALS.split("\n")[0] + "\n"
    return [
        case("sound", TRIALS, is_right=right), case("CR LF", TRIALS.replace("\n", "\r\n"), is_right=right),
        case("no last newline", TRIALS[:-1], is_right=right), case("tabs", TRIALS.replace(" ", "\t"), is_right=right),
        case("without labels", TRIALS.replace(" target", "").replace(" nontarget", ""), is_right=right),
        case("nothing", "", "trials: empty"), case("blanks alone", " \n\n", "trials: empty"),
        case("a blank line", "\n" + TRIALS, "trials:1: 0 fields"), case("one field", TRIALS + "a-1\n",
            "trials:4: 1 fields"),
        case("four fields", TRIALS + "a-1 a-2 target x\n", "trials:4: 4 fields"),
        case("another label", TRIALS + "a-1 a-2 Target\n", "'Target' where target or nontarget"),
        case("labels in some lines", TRIALS + "a-1 a-2\n", "trials:4: 2 fields"),
        case("an unknown id", TRIALS + "a-1 zz target\n", "no embedding for 1 id: zz"),
        case("1 MB of id", TRIALS + "z" * (1 << 20) + " a-1 target\n", "trials:4: a word of 1048576 bytes"),
        case("256 bytes of id", TRIALS + "z" * 256 + " a-1 target\n", "trials:4: a word of 256 bytes"),
        case("a byte order mark", "\ufeff" + TRIALS, "begins with a byte order mark"),
        case("UTF-16", TRIALS.encode("utf-16"), ""), case("Latin-1", b"a-1 \xe4 target\n", ""),
        case("noise", bytes(range(33, 256)) * 9, "trials:1: "),
        case("a model", first.replace("a-1", "m"), None, lambda made: len(made) == 1, "--enroll-spk2utt", "@models"),
        Case(kind, "a FIFO", lambda folder: run_worker(score.main, (os.mkfifo(folder / "t"), folder / "t")[1], folder,
            folder / "s"),
             "a pipe (FIFO), not a file"),
        Case(kind, "a device", lambda folder: run_worker(score.main, "/dev/zero", folder, folder / "s"),
            "a device, not a file"),
        Case(kind, "a folder", lambda folder: run_worker(score.main, folder, folder, folder / "s"), "is a directory"),
        groups("nothing", b"", "g: empty"), groups("a name alone", b"m\n", "g:1: nothing after m"),
        groups("a name twice", b"m a-1\nm a-2\n", "g:2: `m` is already on line 1"), groups("an unknown id", b"m a-1 zz\n", "zz"),
        groups("1 MB of id", b"m a-1 " + b"z" * (1 << 20) + b"\n", "g:1: a word of 1048576 bytes"),
        groups("1 MB of name", b"m a-1\n" + b"z" * (1 << 20) + b" a-1\n", "g:2: a word of 1048576 bytes"),
        groups("a blank line", b"m a-1\n\nn a-2\n", "g:2: an empty line"),
        groups("a blank line at the end", b"m a-1\n\n", None, lambda made: np.allclose(made, cosines()[1], atol=2e-6)),
    ]


def scores() -> list[Case]:
    kind = "score files"

    def case(what, lines, words=None, is_right=None, trials=TRIALS):
        def run(folder):
            (folder / "trials").write_text(trials)
            (folder / "s").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
            run_worker(calibrate.main, folder / "trials", folder / "s", folder / "c.json")
            return (folder / "c.json").read_text()
        return Case(kind, what, run, words, is_right)

    def of(*values):
        return "".join(f"{line.rpartition(' ')[0]} {value}\n" for line, value in zip(TRIALS.splitlines(), values))

    numbers = ("\u0663.5", "\uff11", "1_0", "nan", "0x1", "1,5", "--1", "1e", ".", "1.2.3", "\u2212" + "1")
    return [
        *(case(f"{text}", of(text, 0, 1), "s:1: ") for text in numbers),
        *(case(f"{text}", of(text, 0.25, 0.5), is_right=lambda made: '"slope"' in made) for text in ("+0.75", ".75",
            "75e-2", "00.75", "0.7500000000000000000001")),
        case("infinite", of("inf", 0, 1), "finite"), case("1e999", of("1e999", 0, 1), "s:1: "),
        case("all equal", of(1, 1, 1), "not all equal"), case("fewer", of(1, 2), "2 scores for the 3 trials"),
        case("another order", "".join(reversed(of(1, 2, 3).splitlines(True))), "s:1: "),
        case("no labels", of(1, 2, 3), "trials:1: 2 fields", trials="a-1 a-2\na-1 b-1\na-2 b-1\n"),
        case("targets alone", of(1, 2, 3), "", trials=TRIALS.replace("nontarget", "target")),
        case("nothing", "", "s: empty"), case("two fields", "a-1 a-2\n", "s:1: 2 fields"),
        case("1 MB of number", of("0" * (1 << 20), 1, 2), "s:1: a word of 1048576 bytes"),
    ]


def npz() -> list[Case]:
    kind = "embeddings in .npz"

    def case(what, make, words=None, is_right=None):
        def run(folder):
            make(folder / "e.npz")
            return scored(folder, folder / "e.npz")
        return Case(kind, what, run, words, is_right)

    def saved(**arrays):
        return lambda path: np.savez(path, **arrays)

    def raw(content):
        return lambda path: path.write_bytes(content)

    held = io.BytesIO()
    np.savez(held, ids=np.array(IDS), embeddings=VECTORS)
    whole, ids = held.getvalue(), np.array(IDS)
    plain = io.BytesIO()
    np.save(plain, VECTORS)

    def boast(path):
        """An array that its header calls a million times as large."""
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (3, 10**12)})
        with zipfile.ZipFile(path, "w") as archive, zipfile.ZipFile(io.BytesIO(whole)) as good:
            archive.writestr("ids.npy", good.read("ids.npy"))
            archive.writestr("embeddings.npy", head.getvalue() + b"1234")

    return [
        case("sound", saved(ids=ids, embeddings=VECTORS), is_right=right),
        case("compressed", lambda path: np.savez_compressed(path, ids=ids, embeddings=VECTORS), is_right=right),
        case("an array for each id", saved(**dict(zip(IDS, VECTORS))), is_right=right),
        case("a row for each id", saved(**dict(zip(IDS, VECTORS[:, None]))), is_right=right),
        case("an array for each id, one of integers", saved(**dict(zip(IDS, [*VECTORS[:2], VECTORS[2].astype(int)]))),
            "nor one vector of floats for each id: 'b-1' is int64"),
        case("an array for each id, one a matrix", saved(**dict(zip(IDS, [*VECTORS[:2], VECTORS]))), "nor one vector of floats"),
        case("an array for each id, one shorter", saved(**dict(zip(IDS, [*VECTORS[:2], VECTORS[2][:-1]]))), "'b-1' has "),
        case("no arrays", saved(), ""),
        case("of doubles", saved(ids=ids, embeddings=VECTORS.astype(float)), is_right=right),
        case("another order", saved(ids=ids[::-1], embeddings=VECTORS[::-1]), is_right=right),
        *(case(f"cut to {n} bytes", raw(whole[:n]), "e.npz: not an archive of embeddings") for n in (0, 1, 4, 30,
            100, len(whole) - 30)),
        case("no ids", saved(embeddings=VECTORS), "e.npz: not an archive of embeddings"), case("no embeddings", saved(ids=ids),
            "e.npz: not an archive of embeddings"),
        case("ids that are objects", saved(ids=np.array(IDS, object), embeddings=VECTORS), "e.npz: not an archive of embeddings"),
        case("ids that are numbers", saved(ids=np.arange(3), embeddings=VECTORS), "not a list of texts"),
        case("fewer ids", saved(ids=ids[:2], embeddings=VECTORS), "not floats (2, D)"),
        case("vectors of vectors", saved(ids=ids, embeddings=VECTORS[None]), "not floats (3, D)"),
        case("embeddings that are integers", saved(ids=ids, embeddings=VECTORS.astype(int)), "not floats (3, D)"),
        case("of no values", saved(ids=ids, embeddings=VECTORS[:, :0]), "not floats (3, D)"),
        case("none", saved(ids=ids[:0], embeddings=VECTORS[:0]), "not a list of texts"),
        case("an id twice", saved(ids=np.array(["a-1"] * 3), embeddings=VECTORS), "is there twice"),
        case("an id with a blank", saved(ids=np.array(["a-1", "a 2", "b-1"]), embeddings=VECTORS),
            "'a 2' is empty, holds blanks"),
        case("1 MB of id", saved(ids=np.array(["a-1", "a-2", "z" * (1 << 20)]), embeddings=VECTORS),
            "more than 255 bytes"),
        case("NaN", saved(ids=ids, embeddings=np.where(VECTORS == 5, np.nan, VECTORS)),
            "no finite embedding for 1 id: b-1"),
        case("larger than it is", boast, ""),
        case("a pickle", raw(pickle.dumps({"ids": IDS})), "e.npz: not an archive of embeddings"), case("one array",
            raw(plain.getvalue()), "e.npz: not an archive of embeddings"),
        case("text", raw(b"a-1 [ 1 2 ]\n"), "e.npz: not an archive of embeddings"), case("a FIFO", os.mkfifo,
            "a pipe (FIFO), not a file"),
        Case(kind, "nothing there", lambda folder: scored(folder, folder / "e.npz"), "e.npz: no such file"),
        Case(kind, "an unknown id for PLDA", lambda folder: (saved(ids=ids, embeddings=VECTORS)(folder / "e.npz"), (
            folder / "g").write_text("a a-1 zz\nb b-1\n"), run_worker(train_plda.main, folder / "g", folder / "e.npz",
                folder / "p")),
            "e.npz: no embedding for 1 id: zz"),
    ]


def plda_models() -> list[Case]:
    kind = "PLDA models"
    sound = {"centre": np.zeros(4), "lda": np.eye(4)[:, :2], "mean": np.zeros(2), "transform": np.eye(2),
        "psi": np.ones(2)}

    def case(what, change, words="p.safetensors", right=None):
        def run(folder):
            np.savez(folder / "e.npz", ids=np.array(IDS), embeddings=VECTORS)
            (folder / "t").write_text(TRIALS)
            Plda(**sound).save(folder / "p.safetensors")
            change(folder / "p.safetensors")
            run_worker(score.main, "--backend", "plda", "--plda", folder / "p.safetensors", folder / "t",
                folder / "e.npz", folder / "s")
            return np.array([float(line.split()[2])
                for line in (folder / "s/plda_none.score").read_text().splitlines()])
        return Case(kind, what, run, None if right else words, right)

    def arrays(metadata=json.dumps({"format": FORMAT}), **new):
        held = {name: value for name, value in {**sound, **new}.items() if value is not None}
        return lambda path: save_file(held, path, {"svq": metadata})

    def expected():
        """log N(t | m, v) - log N(t | 0, 2) of each dimension, m and v the posterior of a speaker seen once."""
        x = VECTORS[:, :2] / np.linalg.norm(VECTORS[:, :2].astype(float), axis=1)[:, None] * np.sqrt(2)

        def log(t, mean, variance):
            return -0.5 * (np.log(2 * np.pi * variance) + (t - mean) ** 2 / variance)
        return [float((log(x[b], x[a] / 2, 1.5) - log(x[b], 0, 2)).sum()) for a, b in ((0, 1), (0, 2), (1, 2))]

    return [
        case("sound", lambda path: None, right=lambda made: np.allclose(made, expected(), atol=2e-6)),
        *(case(f"without {name}", arrays(**{name: None})) for name in sound),
        *(case(f"{name} with a NaN", arrays(**{name: value + np.nan})) for name, value in sound.items()),
        *(case(f"{name} of another shape", arrays(**{name: value[:1]})) for name, value in sound.items()),
        case("psi below 0", arrays(psi=-np.ones(2)), "a variance"), case("one more", arrays(more=np.ones(3))),
            case("of integers", arrays(psi=np.ones(2, int))),
        case("metadata that are a list", arrays("[1]")), case("metadata that are none", arrays("x")),
            case("another format", arrays('{"format": 9}')),
        *(case(f"cut to {n} bytes", lambda path, n=n: path.write_bytes(path.read_bytes()[:n])) for n in (0, 7, 50,
            300)),
        case("a pickle", lambda path: path.write_bytes(pickle.dumps(sound))), case("a FIFO",
            lambda path: (path.unlink(), os.mkfifo(path)), "a pipe (FIFO)"),
        case("nothing there", lambda path: path.unlink(), "p.safetensors is missing"), case("a folder",
            lambda path: (path.unlink(), path.mkdir())),
    ]


@functools.cache
def small_model() -> Path:
    """A folder with a network of a few hundred numbers; gone with the process."""
    held = tempfile.TemporaryDirectory()
    small_model.held = held
    torch.manual_seed(0)
    config = ModelConfig("FCStudent", {"width": 8, "layers": 2, "splice": 3}, 4, FrontEndConfig(num_mels=MELS))
    save_model(held.name, config.build().eval(), config)
    return Path(held.name)


def features() -> list[Case]:
    kind = "archives of features"

    def embedded(entry, suffix="", scp=None):
        def run(folder):
            data = folder / "data"
            data.mkdir()
            (folder / "f.ark").write_bytes(b"a " + entry)
            (data / "feats.scp").write_text((scp or f"a {folder}/f.ark:2{suffix}\n").replace("FOLDER", str(folder)))
            (data / "utt2spk").write_text("a s\n")
            run_worker(extract.main, "--input", "feats", data, small_model(), folder / "e")
            return read_vector(Table.read(folder / "e.scp")["a"])
        return run

    @functools.cache
    def expected():
        with tempfile.TemporaryDirectory() as folder:
            return embedded(matrix(FEATS))(Path(folder))

    def is_right(made):
        return np.array_equal(made, expected())

    def case(what, entry, words=None, good=None, suffix="", scp=None):
        return Case(kind, what, embedded(entry, suffix, scp), words, good)

    whole = matrix(FEATS)
    packed = b"\0BCM2 " + struct.pack("<ffii", np.nan, 1, 30, 8) + bytes(480)
    text = b" [\n" + b"\n".join(b" ".join(b"%.9g" % v for v in row) for row in FEATS.astype(float)) + b" ]\n"
    return [
        *(case(f"cut to {n} bytes", whole[:n], "f.ark") for n in (0, 1, 2, 4, 5, 6, 9, 10, 14, 15, 16, 500,
            len(whole) - 1)),
        *(case(f"{rows} x {cols}", matrix(FEATS, rows=rows, cols=cols), "f.ark") for rows, cols in (
            (-1, 8), (30, -1), (0, 8), (30, 0), (0, 0), (30, 9), (2**31 - 1, 8), (2**31 - 1, 2**31 - 1), (240, 1), (1,
                240))),
        *(case(f"type {name!r}", matrix(FEATS, kind=name), "f.ark") for name in (b"XM ", b"MF ", b"CM4 ", b"FMFM",
            b"\xff\xff ")),
        *(case(f"{value} in it", matrix(np.where(FEATS == FEATS[3, 3], value, FEATS)), "") for value in (np.nan,
            np.inf)),
        case("all alike", matrix(np.ones((30, 8))), "silence"), case("compressed NaN", packed, ""),
        case("text", text, good=is_right), case("text of words", b" [ a b ]\n", "f.ark"),
        case("text of uneven rows", b" [ 1 2\n 3 ]\n", "f.ark"), case("text without end", text[:-3], "f.ark"),
        case("a pickle", pickle.dumps(FEATS), "f.ark"), case("all rows", whole, good=is_right, suffix="[0:29]"),
        *(case(f"rows {rows}", whole, "f.ark", suffix=rows) for rows in ("[0:30]", "[9:3]", "[\u0660:\u0663]",
            "[0:9,0:7]", "[x]")),
        case("a command", whole, "feats.scp:1: `a` runs a command (cat", scp="a cat FOLDER/f.ark |\n"),
        case("a device", whole, "a device, not a file", scp="a /dev/zero\n"),
    ]


def cases() -> list[Case]:
    return embeddings() + lists_of_embeddings() + npz() + plda_models() + trial_lists() + scores() + features()
