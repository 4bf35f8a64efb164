"""The page in headless Chromium: the scores of svq.bin.verify, from files and from the microphone; refusals; no connection.

Needs Chromium and ONNX Runtime Web: bash utils/setup.sh --with "chromium npm". SVQ_TEST_ORT_WEB=PLACE in place of npm.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import struct
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svq import Verifier
from svq.bin import verify
from svq.data import audio
from svq.demo.runtime import CODE, WASM, find_runtime
from svq.errors import UserError
from tests.conftest import ROOT
from tests.demo.chromium import Browser, program
from tests.helpers import run_worker

CLOSE = 1e-3  # of a score: what the page may differ by from svq.bin.verify


@pytest.fixture(scope="module")
def ort_web(tmp_path_factory) -> Path:
    """A folder with ONNX Runtime Web."""
    if program() is None:
        pytest.skip("there is no Chromium: bash utils/setup.sh --with chromium")
    try:
        found = find_runtime(os.environ.get("SVQ_TEST_ORT_WEB"))
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("ort")
    (folder / CODE).write_bytes(found.code)
    (folder / WASM).write_bytes(found.wasm)
    return folder


def step(place, ort_web, out, *options, model="model.onnx"):
    command = ["bash", str(ROOT / "steps/make_demo.sh"), "--ort-web", str(ort_web), *map(str, options), str(place / model), str(out)]
    done = subprocess.run(command, cwd=place, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def demo(place, ort_web, tmp_path_factory) -> Path:
    """The page of model.onnx; the same work is not done twice."""
    out = tmp_path_factory.mktemp("web") / "a demo"
    assert "made" in step(place, ort_web, out)
    assert "skip" in step(place, ort_web, out)
    return out


@pytest.fixture(scope="module")
def browser(place, ort_web, tmp_path_factory):
    """One whose microphone hears the voice a, again and again."""
    folder = tmp_path_factory.mktemp("browser")
    samples = np.concatenate([soundfile.read(place / f"a{i}.wav", dtype="float32")[0] for i in range(3)])
    soundfile.write(folder / "microphone.wav", samples, 16000, subtype="PCM_16")
    browser = Browser(folder, folder / "microphone.wav")
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def server(demo):
    """The address of a plain web server of the page, and what it was asked for."""
    asked = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, form, *arguments):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(demo)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def tab(browser, demo):
    """The page, opened from its file."""
    yield from opened(browser, (demo / "index.html").as_uri())


@pytest.fixture
def from_file(tab):
    """`tab` without what an earlier test has left."""
    tab.run("""for (const panel of [Page.enrol, Page.check]) {
        [...panel.recordings].forEach((recording) => panel.drop(recording));
        panel.say("");
    }""")
    change(tab, prior="Page.priors.indexOf(0.01)", c_miss=1, c_fa=1, own="''")
    yield tab
    assert tab.troubles() == []


@pytest.fixture(params=["file", "server"])
def page(request, browser):
    """The page, opened from its file, and from a server."""
    if request.param == "file":
        yield request.getfixturevalue("from_file")
        return
    yield from opened(browser, request.getfixturevalue("server")[0])


def opened(browser, url):
    """A page that is ready; in the end it must have run without complaints."""
    page = browser.open(url)
    page.wait("document.querySelector('#trouble:not([hidden])') || document.querySelector('#check .record:not(:disabled)')")
    assert page.run("document.querySelector('#trouble').textContent") == ""
    yield page
    assert page.troubles() == []
    page.close()


def change(page, **values):
    """Sets fields as a user does: name=JavaScript."""
    for name, value in values.items():
        page.run(f"""(() => {{
            const field = document.getElementById("{name.replace("_", "-")}");
            field.value = {value};
            field.dispatchEvent(new Event("input"));
        }})()""")


def add(page, panel, *files):
    """Chooses files for a panel and waits until all are taken or refused."""
    page.upload(f"#{panel} .file", *files)
    idle(page, panel)


def idle(page, panel):
    page.wait(f"!document.querySelector('#{panel}').matches('.computing, .recording') && "
              f"(document.querySelector('#{panel} .recordings li') || !document.querySelector('#{panel} .problem').hidden)")


def said(page, panel):
    return page.run(f"document.querySelector('#{panel} .problem').textContent")


def shown(page) -> dict:
    """What stands in the result, numbers with all their digits."""
    script = """Object.fromEntries(["score", "llr", "threshold", "decision", "time"].map(
        (id) => [id, document.getElementById(id).dataset.value ?? null]))"""
    found = page.run(script)
    return {name: value if name == "decision" or value is None else float(value) for name, value in found.items()}


def verified(capsys, model, enroll, test, *options) -> dict:
    """What svq.bin.verify says."""
    capsys.readouterr()
    run_worker(verify.main, "--model", model, "--json", "true", *options, *enroll, "--", test)
    return json.loads(capsys.readouterr().out)


def agree(page, expected):
    found = shown(page)
    assert found["score"] == pytest.approx(expected["score"], abs=CLOSE)
    assert found["decision"] == expected["decision"]
    assert found["threshold"] == pytest.approx(expected["threshold"], abs=1e-9)
    slope = 9.0
    assert found["llr"] == pytest.approx(expected["llr"], abs=CLOSE * slope)
    assert found["time"] > 0
    return abs(found["score"] - expected["score"])


# ---- the same numbers


def test_files_give_the_scores_of_verify(page, place, capsys):
    """Several enrolments, the same and another speaker, in one page."""
    add(page, "enrol", place / "a0.wav", place / "a1.wav")
    decisions = set()
    for test in ("a2.wav", "b0.wav", "c1.wav"):
        add(page, "check", place / test)
        expected = verified(capsys, place / "model.onnx", [place / "a0.wav", place / "a1.wav"], place / test)
        agree(page, expected)
        decisions.add(expected["decision"])
    assert decisions == {"accept", "reject"}
    size = (place / "model.onnx").stat().st_size
    assert page.run("document.querySelector('.size').title") == f"{size} bytes"
    assert page.run("document.querySelector('.size').textContent") == f"{size / 1e6:.2f} MB"


# Rates, channels and formats of recordings: (name, rate, channels, how soundfile writes it).
FORMATS = [("telephone.wav", 8000, 1, "PCM_16"), ("disc.wav", 44100, 2, "PCM_24"), ("studio.wav", 48000, 2, "FLOAT"),
           ("old.wav", 22050, 1, "PCM_U8"), ("double.wav", 11025, 3, "DOUBLE"), ("law.wav", 8000, 1, "ULAW"),
           ("deep.wav", 32000, 1, "PCM_32"), ("disc.flac", 44100, 2, "PCM_16"), ("small.flac", 8000, 1, "PCM_16"),
           ("music.mp3", 44100, 2, "MPEG_LAYER_III"), ("speech.mp3", 16000, 1, "MPEG_LAYER_III"), ("speech.ogg", 22050, 1, "VORBIS"),
           ("call.ogg", 48000, 1, "OPUS")]


def written(path, source, rate, channels, subtype):
    """The voice of a WAV, resampled and in channels that differ a little."""
    samples, own = soundfile.read(source, dtype="float32")
    samples = audio.at_rate(samples, own, rate)
    shares = 1 + 0.2 * np.arange(channels)
    data = np.outer(samples, shares / shares.max())
    how = {"format": "OGG"} if path.suffix == ".ogg" else {}
    soundfile.write(path, data, rate, subtype=subtype, **how)
    return path


def test_rates_channels_and_formats(from_file, place, tmp_path, capsys):
    """Each against svq.bin.verify of the same file; what the browser decodes is at the file's own rate."""
    apart = {}
    add(from_file, "enrol", place / "a0.wav")
    for name, rate, channels, subtype in FORMATS:
        path = written(tmp_path / name, place / "a1.wav", rate, channels, subtype)
        add(from_file, "check", path)
        assert said(from_file, "check") == "", name
        assert from_file.run("Page.check.recordings[0].rate") == rate, name
        apart[name] = agree(from_file, verified(capsys, place / "model.onnx", [place / "a0.wav"], path))
    print(apart)
    assert max(gap for name, gap in apart.items() if name.endswith(".wav")) < 1e-5


def test_long_recordings_in_windows(browser, place, ort_web, tmp_path, capsys):
    step(place, ort_web, tmp_path / "demo", "--window-seconds", 1.5)
    samples = np.concatenate([soundfile.read(place / f"{name}.wav", dtype="float32")[0] for name in ("a1", "b0")])
    soundfile.write(tmp_path / "long.wav", np.concatenate([samples, np.zeros(24000, np.float32), samples[:5000]]), 16000)
    for page in opened(browser, (tmp_path / "demo/index.html").as_uri()):
        add(page, "enrol", place / "a0.wav")
        add(page, "check", tmp_path / "long.wav")
        expected = verified(capsys, place / "model.onnx", [place / "a0.wav"], tmp_path / "long.wav", "--window-seconds", 1.5)
        agree(page, expected)
        whole = verified(capsys, place / "model.onnx", [place / "a0.wav"], tmp_path / "long.wav")
        assert abs(whole["score"] - expected["score"]) > CLOSE  # windows matter here


def test_prior_costs_and_threshold(from_file, place, capsys):
    page = from_file
    add(page, "enrol", place / "a0.wav")
    add(page, "check", place / "a1.wav")
    for prior, c_miss, c_fa, own in [(0.01, 1, 1, ""), (0.5, 1, 1, ""), (0.001, 10, 2.5, ""), (0.1, 1, 1, "-3.5"), (0.99, 1, 1, "")]:
        change(page, prior=f"Page.priors.indexOf({prior})", c_miss=c_miss, c_fa=c_fa, own=f"'{own}'")
        options = ["--p-target", prior, "--c-miss", c_miss, "--c-fa", c_fa, *(["--threshold", own] if own else [])]
        agree(page, verified(capsys, place / "model.onnx", [place / "a0.wav"], place / "a1.wav", *options))
    change(page, c_fa=0)
    assert shown(page)["decision"] is None and "above 0" in page.run("document.getElementById('wrong').textContent")


def test_without_calibration_only_a_threshold_decides(browser, place, ort_web, tmp_path, capsys):
    step(place, ort_web, tmp_path / "demo", model="plain.onnx")
    for page in opened(browser, (tmp_path / "demo/index.html").as_uri()):
        add(page, "enrol", place / "a0.wav")
        add(page, "check", place / "a1.wav")
        expected = verified(capsys, place / "plain.onnx", [place / "a0.wav"], place / "a1.wav")
        found = shown(page)
        assert found["score"] == pytest.approx(expected["score"], abs=CLOSE)
        assert (found["llr"], found["threshold"], found["decision"]) == (None, None, "open")
        change(page, own=0.99999)
        assert shown(page)["decision"] == ("accept" if expected["score"] >= 0.99999 else "reject")


# ---- the microphone


def record(page, panel, seconds):
    page.click(f"#{panel} .record")
    page.wait(f"document.querySelector('#{panel} .status').textContent.match(/Recording … ({seconds}|[{seconds}-9])\\./)")
    page.click(f"#{panel} .record")
    idle(page, panel)
    assert said(page, panel) == ""


def saved(page, browser, panel):
    """The recording of a panel as its Save button writes it."""
    name = page.run(f"document.querySelector('#{panel} .save').download")
    path = browser.folder / "downloads" / name
    path.unlink(missing_ok=True)
    page.click(f"#{panel} .save")
    size = page.run(f"Page.{panel}.recordings[0].mono.length") * 4 + 44
    for _ in range(200):
        if path.exists() and path.stat().st_size == size:
            return path
        threading.Event().wait(0.05)
    raise AssertionError(f"{path} was not saved")


def test_the_microphone(page, browser, place, capsys):
    """The score of svq.bin.verify from the very samples that the page heard, and these are what the microphone played."""
    record(page, "enrol", 3)
    record(page, "check", 2)
    heard, asked = saved(page, browser, "enrol"), saved(page, browser, "check")
    expected = verified(capsys, place / "model.onnx", [heard], asked)
    agree(page, expected)
    played = soundfile.read(browser.folder / "microphone.wav", dtype="float32")[0]
    for path in (heard, asked):
        assert likeness(audio.load(str(path)), played) > 0.98
    # Microphone against file, as a customer does it: the same voice in both.
    add(page, "enrol", place / "a0.wav")
    agree(page, verified(capsys, place / "model.onnx", [heard, place / "a0.wav"], asked))


def likeness(part, whole):
    """The largest correlation of half a second in the middle of `part` with a piece of `whole`, which goes round."""
    piece = part[len(part) // 2 : len(part) // 2 + 8000].astype(np.float64)
    turned = np.concatenate([whole, whole[:8000]]).astype(np.float64)
    size = 1 << (len(turned) + len(piece)).bit_length()
    products = np.fft.irfft(np.fft.rfft(turned, size) * np.conj(np.fft.rfft(piece, size)), size)[: len(whole)]
    energy = np.convolve(turned**2, np.ones(len(piece)), "valid")[: len(products)]
    return float((products[: len(energy)] / np.sqrt(energy * (piece @ piece))).max())


@pytest.mark.parametrize("name, word", [("NotAllowedError", "the microphone is blocked; allow it"),
                                        ("NotFoundError", "no microphone was found; connect one"),
                                        ("OddError", "the microphone does not start (no); choose a recording")])
def test_a_microphone_that_is_refused(from_file, name, word):
    """One line with a mend, and the page goes on."""
    from_file.run(f"""navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("no", "{name}"))""")
    from_file.click("#check .record")
    from_file.wait("!document.querySelector('#check .problem').hidden")
    from_file.run("delete navigator.mediaDevices.getUserMedia")  # the browser's own is its prototype's
    assert said(from_file, "check").startswith(f"Microphone: {word}")
    assert from_file.run("document.querySelector('#check .record').disabled") is False


def test_sound_that_never_starts(from_file):
    """As where there is no sound device at all."""
    from_file.run("(() => { const own = AudioContext.prototype.resume; AudioContext.prototype.resume = () => {"
                  " AudioContext.prototype.resume = own; return new Promise(() => {}); }; })()")
    from_file.click("#check .record")
    from_file.wait("!document.querySelector('#check .problem').hidden")
    assert said(from_file, "check").startswith("Microphone: the browser's sound does not start; check that there is")
    assert from_file.run("document.querySelector('#check .record').disabled") is False


# ---- what is refused


def bad_recordings(folder, place):
    voice = soundfile.read(place / "a0.wav", dtype="float32")[0]
    write = functools.partial(soundfile.write, samplerate=16000)
    write(folder / "silent.wav", np.full(16000, 0.25, np.float32))
    write(folder / "faint.wav", (2e-5 * voice).astype(np.float32), subtype="FLOAT")
    write(folder / "short.wav", voice[:3200])
    write(folder / "shorter than a frame.wav", voice[:300])
    write(folder / "against.wav", np.stack([voice, -voice], 1))
    write(folder / "loud.wav", voice * 32768, subtype="FLOAT")
    write(folder / "nan.wav", np.where(np.arange(len(voice)) == 9, np.nan, voice), subtype="FLOAT")
    write(folder / "none.wav", voice[:0])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "cut.wav").write_bytes((place / "a0.wav").read_bytes()[:9000])
    (folder / "text.wav").write_text("no recording at all")
    (folder / "text.mp3").write_text("no recording at all")
    block = bytearray((place / "a0.wav").read_bytes())
    block[32:34] = struct.pack("<H", 4)
    (folder / "block.wav").write_bytes(block)
    slow = bytearray((place / "a0.wav").read_bytes())
    slow[24:28] = struct.pack("<I", 500)
    (folder / "slow.wav").write_bytes(slow)
    return sorted(folder.iterdir())


# The words of svq.bin.verify that both begin with; where the page has its own there is None.
WORDS = {"silent.wav": "silence: nothing in its 1 s is above -80 dBFS", "faint.wav": "silence: nothing in its 2 s",
         "short.wav": "0.2 s of sound are too short to tell a voice; record 0.3 s or more",
         "shorter than a frame.wav": "0.0187 s of sound are too short", "against.wav": "its 2 channels cancel each other",
         "loud.wav": "holds samples beyond 100, and full scale is 1", "nan.wav": "holds NaN or infinite samples",
         "none.wav": "no samples in it", "empty.wav": "the file is empty", "cut.wav": "cut short: the WAV header promises more",
         "block.wav": "its WAV header contradicts itself", "slow.wav": "500 samples a second, outside 1000 to 768000",
         "text.wav": None, "text.mp3": None}


def test_what_verify_refuses_the_page_refuses(from_file, place, tmp_path):
    """In the same words, with the name, in one line; and the recordings of before stay."""
    verifier = Verifier.load(place / "model.onnx")
    add(from_file, "check", place / "a0.wav")
    for path in bad_recordings(tmp_path, place):
        with pytest.raises(UserError) as error:
            verifier.embed(path)
        add(from_file, "check", path)
        line = said(from_file, "check")
        assert line.startswith(f"{path.name}: ") and "\n" not in line and ";" in line, line
        if WORDS[path.name]:
            assert WORDS[path.name] in str(error.value) and WORDS[path.name] in line, (line, str(error.value))
    assert from_file.run("Page.check.recordings.map((one) => one.name)") == ["a0.wav"]
    add(from_file, "check", place / "a1.wav")
    assert said(from_file, "check") == ""


def test_little_sound_is_warned_of(from_file, place, tmp_path):
    samples = soundfile.read(place / "a0.wav", dtype="float32")[0][:9600]
    soundfile.write(tmp_path / "little.wav", samples, 16000)
    lines = []
    Verifier.load(place / "model.onnx", warn=lines.append).embed(tmp_path / "little.wav")
    add(from_file, "enrol", tmp_path / "little.wav")
    little = from_file.run("document.querySelector('#enrol .little').textContent")
    assert little and lines == [f"{tmp_path / 'little.wav'}: {little}"]


@pytest.mark.parametrize("name, word", [("model", "data/model.js"), ("runtime", "data/runtime.js"), ("sources", "data/sources.js")])
def test_a_folder_that_was_copied_half(browser, demo, tmp_path, name, word):
    copy = shutil.copytree(demo, tmp_path / "copy")
    script = (copy / "data" / f"{name}.js").read_bytes()
    (copy / "data" / f"{name}.js").write_bytes(script[: len(script) // 2])
    page = browser.open((copy / "index.html").as_uri())
    page.wait("document.querySelector('#trouble:not([hidden])')")
    assert page.run("document.querySelector('#trouble').textContent").startswith(f"{word} is missing or cut short: copy the whole")
    page.close()


def test_a_browser_that_computes_otherwise_says_so(browser, demo, tmp_path):
    copy = shutil.copytree(demo, tmp_path / "copy")
    script = (copy / "data/model.js").read_text()
    head, _, rest = script.partition(" = ")
    model = json.loads(rest[:-2])
    embedding = np.frombuffer(base64.b64decode(model["check"]["embedding"]), "<f4")
    model["check"]["embedding"] = base64.b64encode(np.roll(embedding, 1).tobytes()).decode()
    (copy / "data/model.js").write_text(f"{head} = {json.dumps(model)};\n")
    page = browser.open((copy / "index.html").as_uri())
    page.wait("document.querySelector('#trouble:not([hidden])')")
    assert "computes other embeddings" in page.run("document.querySelector('#trouble').textContent")
    assert page.run("document.querySelector('#enrol .record').disabled") is True
    page.close()


# ---- the page itself


def test_no_connection_but_for_its_own_files(server, browser, place):
    address, asked = server
    for page in opened(browser, address):
        own = list(page.requests())
        before = len(asked)
        add(page, "enrol", place / "a0.wav")
        add(page, "check", place / "a1.wav")
        later = page.requests()[len(own):]
        assert all(url.startswith((address, "data:", "blob:")) for url in own)
        assert [url for url in later if not url.startswith(("blob:", "data:"))] == [] and len(asked) == before
        with pytest.raises(AssertionError):  # the browser itself refuses
            page.run("fetch(location.href)")
        page.browser.events.clear()  # its complaint is expected


def test_names_and_keyboard(from_file, place):
    """Every control has a name, can be reached by the keyboard, and works by it."""
    page = from_file
    add(page, "enrol", place / "a0.wav")
    add(page, "check", place / "a1.wav")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if node.get("role", {}).get("value") in ("button", "link", "slider", "spinbutton", "image")
                and not node.get("ignored")]
    assert len(controls) > 12 and all(node["name"]["value"] for node in controls)
    names = {node["name"]["value"] for node in controls}
    assert {"Play a0.wav", "Remove a1.wav", "Waveform of a0.wav, 2.0 seconds"} <= names
    page.run("document.querySelector('#check .remove').focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    page.wait("document.querySelectorAll('#check li').length === 0")
    assert shown(page) == dict.fromkeys(("score", "llr", "threshold", "decision", "time"))
    assert page.run("document.activeElement === document.querySelector('#check .record')")


@pytest.mark.parametrize("width", [1100, 390])
def test_a_picture_of_it(from_file, place, tmp_path, width):
    """Nothing runs out of the page, wide or narrow; the waveform and the gauge are drawn."""
    page = from_file
    add(page, "enrol", place / "a0.wav", place / "a1.wav")
    add(page, "check", place / "a2.wav")
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    page.run("new Promise((done) => setTimeout(done, 300))")
    assert page.run("document.documentElement.scrollWidth") <= width
    drawn = page.run("""(() => { const canvas = document.querySelector('#check canvas:not(.live)');
        return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((x) => x > 0); })()""")
    assert drawn and page.run("document.querySelectorAll('#gauge .dot').length") == 1
    page.picture(tmp_path / "light.png", width, 800)
    page.picture(tmp_path / "dark.png", width, 800, dark=True)
    assert (tmp_path / "light.png").read_bytes() != (tmp_path / "dark.png").read_bytes()
