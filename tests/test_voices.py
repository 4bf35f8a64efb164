"""Voices that are kept: a name, a vector and what it belongs to, in one file that loses nothing and takes nothing wrong."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.backend.calibration import mean_text
from svq.errors import UserError
from svq.voices import Enrollment, Origin, Voices, changed, checked_name

ROOT = Path(__file__).resolve().parents[1]
MEAN = np.array([3, -4, 12, 0.5], np.float32)


def origin(mean=MEAN, network="ab" * 32, arithmetic="float32", file="m.onnx", dim=4) -> Origin:
    return Origin(file, network, arithmetic, dim, mean_text(mean))


def voice(seed: int = 0, of: Origin | None = None, recordings: int = 1, seconds: float | None = 1.5) -> Enrollment:
    x = np.random.default_rng(seed).standard_normal((of or origin()).dim)
    return Enrollment(of or origin(), (x / np.linalg.norm(x)).astype(np.float32), recordings, seconds)


def content(path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def digest_by_hand(about: dict) -> str:
    rest = {key: value for key, value in about.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# ---- what is in the file


def test_the_format_is_what_it_says(tmp_path):
    """Read by hand, as its documentation tells."""
    ann = voice(1, recordings=2)
    ann.save(tmp_path / "v.svs", "ann")
    about = content(tmp_path / "v.svs")
    assert about["digest"] == digest_by_hand(about) and about["format"] == 1 and about["backend"] == "cosine"
    assert about["model"] == {"file": "m.onnx", "network": "ab" * 32, "arithmetic": "float32"} and about["dim"] == 4
    assert np.array_equal(np.frombuffer(base64.b64decode(about["mean"]), "<f4"), MEAN)
    row = about["voices"]["ann"]
    vector = np.frombuffer(base64.b64decode(row.pop("vector")), "<f4")
    assert row == {"recordings": 2, "seconds": 1.5} and np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert sorted(about) == ["backend", "digest", "dim", "format", "mean", "model", "voices"]
    from_the_mean = ann.embedding.astype(float) - MEAN
    np.testing.assert_allclose(from_the_mean / np.linalg.norm(from_the_mean), vector, atol=1e-6)


def test_a_store_of_format_1_is_read(tmp_path):
    """As one was written on the day of that format."""
    (tmp_path / "v.svs").write_text("""\
{
 "backend": "cosine",
 "digest": "24fc65b4b270737f1e8e1c434feda9aba06e989fdf5436183d9b79359e27cd34",
 "dim": 4,
 "format": 1,
 "mean": "AABAQAAAgMAAAEBBAAAAPw==",
 "model": {
  "arithmetic": "float32",
  "file": "m.onnx",
  "network": "abababababababababababababababababababababababababababababababab"
 },
 "voices": {
  "Zo\\u00eb": {
   "recordings": 2,
   "seconds": 3.25,
   "vector": "AAAAPwAAAL8AAAA/AAAAPw=="
  }
 }
}
""")
    found = Voices.load(tmp_path / "v.svs")
    assert found.origin == origin() and list(found) == ["Zo\u00eb"] and found["Zo\u00eb"].recordings == 2
    np.testing.assert_array_equal(found["Zo\u00eb"]._unit, np.array([0.5, -0.5, 0.5, 0.5], np.float32))


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=40)


def is_name(text: str) -> bool:
    try:
        checked_name(text)
    except UserError:
        return False
    return True


@given(st.dictionaries(TEXT.filter(is_name), st.tuples(st.integers(0, 99), st.integers(1, 9),
                                                       st.none() | st.floats(0, 1e6)), max_size=6), st.booleans())
def test_what_is_kept_comes_back_and_the_order_leaves_no_trace(tmp_path_factory, given_voices, plain):
    folder, of = tmp_path_factory.mktemp("voices"), origin(None if plain else MEAN)
    made = {checked_name(name): voice(seed, of, recordings, seconds)
            for name, (seed, recordings, seconds) in given_voices.items()}
    for number, names in enumerate((made, reversed(made))):
        with changed(folder / f"{number}.svs", of) as voices:
            for name in names:
                voices.add(name, made[name])
    assert (folder / "0.svs").read_bytes() == (folder / "1.svs").read_bytes()
    found = Voices.load(folder / "0.svs")
    assert list(found) == sorted(made) and len(found) == len(made) and found.origin == of
    for name, expected in made.items():
        back = found[name]
        assert np.array_equal(back._unit, expected._unit) and back.origin == of and name in found
        assert (back.recordings, back.seconds) == (expected.recordings, expected.seconds)
    found.save(folder / "2.svs")
    assert (folder / "2.svs").read_bytes() == (folder / "0.svs").read_bytes()
    assert sorted(os.listdir(folder)) == ["0.svs", "1.svs", "2.svs"]


def test_joiners_are_part_of_a_name():
    """Malayalam's chillu, as it was written before Unicode 5.1, Persian's half blank."""
    for name in ("\u0d05\u0d35\u0d28\u0d4d\u200d", "\u0645\u06cc\u200c\u062e"):
        assert checked_name(name) == name


@given(st.text(max_size=60))
def test_names_are_in_one_form_or_refused_in_one_line(text):
    try:
        found = checked_name(text)
    except UserError as error:
        assert "\n" not in str(error) and str(error).isascii()
        return
    assert found == unicodedata.normalize("NFC", text) == checked_name(found) == checked_name(unicodedata.normalize(
        "NFD", found)) and found == found.strip() and len(found.encode()) <= 255 and len(found.splitlines()) == 1


@pytest.mark.parametrize("name, words", [
    ("", "is empty"), (" ", "is empty, or begins or ends with a blank"), ("ann ", "ends with a blank"),
    ("\u00a0ann", "begins or ends"), ("ann\nbob", "a newline or another control"), ("a\tb", "control"),
    ("a\x00b", "control"), ("a\x7fb", "control"), ("a\u2028b", "control"), ("a\u202ebob", "control"),
    ("a\u200bnn", "no width"), ("\ufeffann", "no width"),
    ("\udcff", "control"), ("a" * 256, "has 256 bytes"), ("\u00fc" * 128, "has 256 bytes"),
    (3, "must be text"), (None, "must be text"), (b"ann", "must be text"),
])
def test_names_that_are_refused(tmp_path, name, words):
    with pytest.raises(UserError, match=words) as refusal:
        voice().save(tmp_path / "v.svs", name)
    assert "\n" not in str(refusal.value) and not os.listdir(tmp_path)


def test_two_spellings_of_one_name_are_one(tmp_path):
    path = tmp_path / "v.svs"
    voice(1).save(path, "Zo\u00eb M\u00fcller")
    with pytest.raises(UserError, match="a voice is named 'Zo\u00eb M\u00fcller' already"):
        voice(2).save(path, "Zoe\u0308 Mu\u0308ller")
    assert np.array_equal(Enrollment.load(path, "Zoe\u0308 Mu\u0308ller")._unit, voice(1)._unit)
    assert "Zoe\u0308 Mu\u0308ller" in Voices.load(path) and "zo\u00eb m\u00fcller" not in Voices.load(path)


def test_two_voices_of_one_name_are_one_line_and_replacing_is_asked_for(tmp_path):
    path = tmp_path / "v.svs"
    voice(1).save(path, "ann")
    before = path.read_bytes()
    with pytest.raises(UserError, match="v.svs: a voice is named 'ann' already; --replace true"):
        voice(2).save(path, "ann")
    assert path.read_bytes() == before
    voice(2).save(path, "ann", replace=True)
    voice(3).save(path, "bob", replace=True)  # of which there is none
    assert np.array_equal(Enrollment.load(path, "ann")._unit, voice(2)._unit) and len(Voices.load(path)) == 2
    with changed(path) as voices:
        voices.remove("bob")
    assert list(Voices.load(path)) == ["ann"]
    with pytest.raises(UserError, match="v.svs: no voice is named 'bob'; it has ann"), changed(path) as voices:
        voices.remove("bob")
    with changed(path) as voices:
        voices.remove("ann")
    with pytest.raises(UserError, match="no voice is named 'ann'; it has no voices"):
        Enrollment.load(path, "ann")


# ---- whose it is


@pytest.mark.parametrize("other, words", [
    (origin(network="cd" * 32, file="other.svq"),
     r"made with m.onnx \(network abababab\), and other.svq has another network \(cdcdcdcd\)"),
    (origin(arithmetic="int8:12345678aa", file="m8.onnx"),
     r"made with m.onnx \(float32\), and m8.onnx computes the same network in other arithmetic \(int8 12345678\)"),
    (origin(MEAN + 1), "made with m.onnx and the mean embedding [0-9a-f]{8}, and here m.onnx goes with the mean"),
    (origin(None), "and here m.onnx goes with no mean embedding: another calibration, or --mean"),
    (origin(MEAN[:2], dim=2), "another network"),
])
def test_voices_of_another_origin_are_refused_in_one_line(tmp_path, other, words):
    path = tmp_path / "v.svs"
    voice(1).save(path, "ann")
    before = path.read_bytes()
    with pytest.raises(UserError, match=words) as refusal:
        Voices.load(path).origin.check(other, path)
    assert str(refusal.value).startswith(f"{path}: ") and "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="v.svs: made with m.onnx"):
        voice(2, other).save(path, "bob")
    with pytest.raises(UserError, match="a voice of "):
        voice(1).cosine(voice(2, other))
    assert path.read_bytes() == before


def test_the_name_of_the_models_file_is_no_matter(tmp_path):
    voice(1).save(tmp_path / "v.svs", "ann")
    voice(2, origin(file="renamed.svq")).save(tmp_path / "v.svs", "bob")
    assert Voices.load(tmp_path / "v.svs").origin.file == "m.onnx"
    assert voice(1).cosine(voice(1, origin(file="x"))) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mean", [None, MEAN, 1e4 * MEAN, 1e-4 * MEAN, np.zeros(4)])
def test_an_embedding_of_a_voice_is_centred_to_that_voice(mean):
    made = voice(5, origin(mean))
    x = made.embedding.astype(np.float64) - (0 if mean is None else np.float32(mean))
    np.testing.assert_allclose(x / np.linalg.norm(x), made._unit, atol=1e-6)
    made.embedding[:] = 0  # a copy
    assert np.linalg.norm(made._unit) == pytest.approx(1)


# ---- files that are not what they should be


def altered(path, change, right_digest: bool = True) -> None:
    about = content(path)
    change(about)
    if right_digest:
        about["digest"] = digest_by_hand(about)
    Path(path).write_text(json.dumps(about))


def put(*keys, value):
    def change(about):
        for key in keys[:-1]:
            about = about[key]
        about[keys[-1]] = value
    return change


def vector(*values) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


BAD = [(("format",), value, "format version") for value in (0, 2, 99, "1", 1.0, True, None)]
BAD += [(("voices", "ann", "vector"), value, "not a store of voices that can be used") for value in (
    vector(np.nan, 0, 0, 1), vector(np.inf, 0, 0, 1), vector(1, 0, 0), vector(1, 0, 0, 0, 0), vector(2, 0, 0, 0),
    vector(0, 0, 0, 0), vector(1, 1, 0, 0), "", "&", "AAA", None, 3, ["x"])]
BAD += [(("voices", "ann", "recordings"), value, "recordings of 'ann'") for value in (0, -1, 1.5, "2", True, None)]
BAD += [(("voices", "ann", "seconds"), value, "seconds of 'ann'") for value in (-1, "2", True, 10**400, float("nan"))]
BAD += [(("voices", "ann"), value, "not a store") for value in (None, 3, [], {}, {"vector": vector(1, 0, 0, 0)})]
BAD += [(("voices",), value, "not a store") for value in (None, 3, [], "x")]
BAD += [(("voices", name), {"recordings": 1, "seconds": None, "vector": vector(1, 0, 0, 0)}, "not a store")
        for name in ("", "a\nb", " a", "e\u0301", "x" * 256)]
BAD += [(("mean",), value, "not a store") for value in ("", "&", vector(1, 2), vector(np.nan, 0, 0, 0), None, 3)]
BAD += [(("dim",), value, "not a store") for value in (0, -1, 5, "4", 4.0, True, None, 10**30)]
BAD += [(("model",), value, "not a store") for value in (None, [], "x", {})]
BAD += [(("model", key), value, "not a store") for key in ("file", "network", "arithmetic") for value in (None, 3, "a\nb")]
BAD += [(("backend",), value, "not a store") for value in ("plda", None)]


@pytest.mark.parametrize("keys, value, words", BAD, ids=lambda value: ascii(value)[:40])
def test_content_that_is_wrong_is_one_line(tmp_path, keys, value, words):
    path = tmp_path / "v.svs"
    voice(1).save(path, "ann")
    altered(path, put(*keys, value=value))
    before = path.read_bytes()
    for use in (lambda: Voices.load(path), lambda: Enrollment.load(path, "ann"), lambda: voice(2).save(path, "bob")):
        with pytest.raises(UserError, match=words) as refusal:
            use()
        assert "v.svs: " in str(refusal.value) and "\n" not in str(refusal.value)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["v.svs"]


@pytest.mark.parametrize("key", ["model", "backend", "dim", "mean"])
def test_a_part_that_is_missing_is_one_line(tmp_path, key):
    path = tmp_path / "v.svs"
    voice(1).save(path, "ann")
    altered(path, lambda about: about.pop(key))
    with pytest.raises(UserError, match=f"v.svs: not a store of voices that can be used \\(no '{key}'\\)"):
        Voices.load(path)


def test_a_newer_format_says_update(tmp_path):
    path = tmp_path / "v.svs"
    voice(1).save(path, "ann")
    altered(path, put("format", value=2), right_digest=False)
    with pytest.raises(UserError, match="v.svs: format version 2, this svq reads 1; update svq"):
        Voices.load(path)


def test_a_file_cut_short_or_altered_is_refused_or_says_the_same(tmp_path):
    """Every length and a bit of every byte: never other voices."""
    path = tmp_path / "v.svs"
    voice(1).save(path, "ann")
    voice(2).save(path, "b c")
    whole = path.read_bytes()

    def changes():
        yield from (whole[:length] for length in range(len(whole)))
        for at in range(len(whole)):
            yield whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]
        yield whole + b"x"
        yield whole + whole

    refused = 0
    for data in changes():
        path.write_bytes(data)
        try:
            found = Voices.load(path)
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "Traceback" not in str(error)
            continue
        assert list(found) == ["ann", "b c"] and found.origin == origin()  # a blank for another, say
        assert all(np.array_equal(found[name]._unit, voice(seed)._unit) for name, seed in (("ann", 1), ("b c", 2)))
    assert refused > 1.9 * len(whole) - 60


@pytest.mark.parametrize("data, words", [
    (b"", "not a whole store"), (b"hello", "not a whole store"), (b"RIFF\xff\xff\xff\xffWAVE", "not a whole store"),
    (b"[1]", "JSON, but not a store"), (b"{}", "JSON, but not a store"), (b"3", "JSON, but not a store"),
    (b"[" * 100000, "nested too deeply"), (b'{"a": 1, "a": 2}', "given twice"), (b"\xef\xbb\xbf{}", "not a whole store"),
])
def test_other_files_are_one_line(tmp_path, data, words):
    path = tmp_path / "v.svs"
    path.write_bytes(data)
    for use in (lambda: Voices.load(path), lambda: voice().save(path, "ann", replace=True)):
        with pytest.raises(UserError, match=words):
            use()
    assert path.read_bytes() == data


def test_what_is_no_file(tmp_path):
    with pytest.raises(UserError, match="none.svs: no such file; svq.bin.enroll makes one"):
        Voices.load(tmp_path / "none.svs")
    with pytest.raises(UserError, match="none.svs: no such file"), changed(tmp_path / "none.svs"):
        pass
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="a pipe"):
        voice().save(tmp_path / "fifo", "ann")
    with pytest.raises(IsADirectoryError):
        Voices.load(tmp_path)
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "v.svs").symlink_to("deep/v.svs")
    voice(1).save(tmp_path / "v.svs", "ann")
    voice(2).save(tmp_path / "deep/v.svs", "bob")
    assert (tmp_path / "v.svs").is_symlink() and list(Voices.load(tmp_path / "v.svs")) == ["ann", "bob"]


# ---- many at once

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.test_voices import voice
for number in range(15):
    voice(number).save(sys.argv[2], f"{sys.argv[3]} {number}")
assert "torch" not in sys.modules, "torch"
"""


def test_two_writers_at_once_lose_nothing_and_need_no_torch(tmp_path):
    store = tmp_path / "v.svs"
    (tmp_path / ".v.svs.lock").write_text("")  # of one that was killed
    (tmp_path / ".v.xyz.tmp.svs").write_text("half")
    running = [subprocess.Popen([sys.executable, "-c", WRITER, ROOT, store, who]) for who in ("ann", "bob", "cy")]
    assert [process.wait() for process in running] == [0, 0, 0]
    found = Voices.load(store)
    assert list(found) == sorted(f"{who} {number}" for who in ("ann", "bob", "cy") for number in range(15))
    assert all(np.array_equal(found[name]._unit, voice(int(name.split()[1]))._unit) for name in found)
    assert os.listdir(tmp_path) == ["v.svs"]


def test_an_error_within_leaves_the_store_and_frees_the_lock(tmp_path):
    voice(1).save(tmp_path / "v.svs", "ann")
    before = (tmp_path / "v.svs").read_bytes()
    with pytest.raises(ZeroDivisionError), changed(tmp_path / "v.svs") as voices:
        voices.remove("ann")
        1 / 0
    assert (tmp_path / "v.svs").read_bytes() == before and os.listdir(tmp_path) == ["v.svs"]
    voice(2).save(tmp_path / "v.svs", "bob")
    assert len(Voices.load(tmp_path / "v.svs")) == 2
