import shlex
import struct
import subprocess

import kaldiio
import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from svq.data import audio
from svq.data.rxfilename import speed_command
from svq.data.wavark import wav_bytes
from svq.errors import UserError
from tests.builders import voice

WAVE = voice(1, 0.8, np.random.default_rng(0))


def save(path, wave=WAVE, rate=16000, **more):
    soundfile.write(path, wave, rate, **more)
    return str(path)


@pytest.mark.parametrize(
    "name, subtype, error",
    [
        ("a.wav", "PCM_16", 4e-5), ("a.wav", "PCM_24", 2e-7), ("a.wav", "FLOAT", 0), ("a.wav", "DOUBLE", 0),
        ("a.wav", "PCM_U8", 0.008),
        ("a.wav", "ULAW", 0.02), ("a.flac", "PCM_16", 4e-5), ("a.ogg", "VORBIS", 0.1), ("a b'c.wav", "PCM_16", 4e-5),
    ],
)  # fmt: skip
def test_formats(tmp_path, name, subtype, error):
    path = save(tmp_path / name, subtype=subtype)
    assert np.array_equal(audio.load(path), soundfile.read(path, dtype="float32")[0])
    assert np.abs(audio.load(path) - WAVE).max() <= error
    part = audio.load(path, start=0.25, seconds=0.3)
    assert part.dtype == np.float32 and len(part) == 4800
    assert np.abs(part - audio.load(path)[4000:8800]).max() <= (1e-3 if name.endswith("ogg") else 0)
    assert audio.duration(path) == pytest.approx(0.8, abs=1e-9)


def test_mp3(tmp_path):
    path = save(tmp_path / "a.mp3", format="MP3", subtype="MPEG_LAYER_III")
    assert np.corrcoef(audio.load(path)[:12000], WAVE[:12000])[0, 1] > 0.98


def test_format_that_only_sox_reads(tmp_path):
    """GSM without a header: libsndfile does not know it, SoX does by the extension."""
    source, path = save(tmp_path / "a.wav", rate=8000), tmp_path / "a.gsm"
    subprocess.run(["sox", source, str(path)], check=True)
    expected = subprocess.run(["sox", str(path), "-t", "f32", "-"], check=True, capture_output=True).stdout
    assert np.abs(audio.load(str(path), rate=8000) - np.frombuffer(expected, "<f4")).max() < 2e-5


def test_channels_are_averaged_then_resampled(tmp_path):
    both = np.stack([WAVE, 0.5 * np.roll(WAVE, 40)], axis=1)
    path = save(tmp_path / "a.wav", both, 44100, subtype="FLOAT")
    expected = resample_poly(both.astype(np.float64).mean(axis=1), 160, 441)
    assert np.abs(audio.load(path) - expected).max() < 1e-6


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_part_equals_slice_of_whole_at_any_rate(tmp_path, rate):
    path = save(tmp_path / "a.wav", rate=rate)
    whole = audio.load(path)
    assert len(whole) == -(-len(WAVE) * 16000 // rate)
    for first, count in [(0, 100), (1, 7), (777, 2000), (len(whole) - 50, 50), (len(whole) - 50, 500)]:
        part = audio.load(path, start=first / 16000, seconds=count / 16000)
        assert np.abs(part - whole[first : first + count]).max() < 1e-6
        assert len(part) == min(count, len(whole) - first)


def test_sine_keeps_its_frequency_and_level(tmp_path):
    t = np.arange(48000) / 48000
    path = save(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), 48000, subtype="FLOAT")
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(audio.load(path) - expected)[200:-200].max() < 2e-3


@pytest.mark.parametrize("scale", [1, 1.4, 20, 1e-5])
@pytest.mark.parametrize("form", [{"subtype": "FLOAT"}, {"subtype": "DOUBLE"}, {"format": "AU", "subtype": "FLOAT"}])
def test_floats_stay_as_they_are(tmp_path, scale, form):
    path, expected = save(tmp_path / "a.wav", scale * WAVE, **form), np.float32(scale * WAVE)
    assert np.array_equal(audio.load(path), expected)
    assert np.array_equal(audio.load(path, start=0.25, seconds=0.3), expected[4000:8800])
    assert np.array_equal(audio.load(f"cat {path} |"), expected)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 4_294_967_291])
def test_rates_that_no_recording_has(tmp_path, rate):
    data = wav_bytes(WAVE, 16000)
    path = tmp_path / "a.wav"
    path.write_bytes(data[:24] + struct.pack("<I", rate) + data[28:])
    for how in (audio.load, audio.duration, lambda name: audio.check(name, True), lambda name: audio.load(f"cat {name} |")):
        with pytest.raises(UserError, match=f"{rate} samples a second, outside 1000 to 768000: mend its header"):
            how(str(path))


@pytest.mark.parametrize("scale", [500, 32768, 8_388_608])
def test_integers_written_as_floats_are_refused(tmp_path, scale):
    """Also through SoX, which cuts them off to a square wave and ends with status 0."""
    path = save(tmp_path / "a.wav", scale * WAVE, subtype="FLOAT")
    line = "holds samples beyond 100, and full scale is 1; scale it"
    for how in (audio.load, lambda name: list(audio.windows(name, 16000, 0.3)), lambda name: audio.check(name, True)):
        with pytest.raises(UserError) as error:
            how(path)
        assert str(error.value).startswith(f"{path}: {line}")
        with pytest.raises(UserError, match=r"speed 0.9 \|: SoX cut off \d+ of the samples .*; scale it"):
            how(speed_command(path, "0.9"))
    with pytest.raises(UserError, match=f"^the samples: {line}"):
        audio.at_rate(np.float32(scale * WAVE), 16000, 8000)
    assert np.array_equal(audio.load(path, any_scale=True), np.float32(scale * WAVE))


@pytest.mark.parametrize("samples, bits", [
    (np.rint(WAVE * 20000) / 32768, 16), (np.array([-1, 32767 / 32768, 0]), 16), (np.array([1.0, 0]), 32), (WAVE, 32),
    (WAVE * 1.5, 32), (np.array([2.0**-16]), 32), (np.zeros(0), 16),
])  # fmt: skip
def test_copies_lose_nothing(tmp_path, samples, bits):
    samples = np.float32(samples)
    (tmp_path / "a.wav").write_bytes(wav_bytes(samples, 8000))
    found, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert np.array_equal(found, samples) and rate == 8000
    assert soundfile.info(tmp_path / "a.wav").subtype == {16: "PCM_16", 32: "FLOAT"}[bits]
    assert len(wav_bytes(samples, 8000)) == {16: 44, 32: 58}[bits] + bits // 8 * len(samples)


def test_archive_offsets_of_our_own_and_of_kaldiio(tmp_path):
    whole = np.float32(np.rint(WAVE * 32768) / 32768)
    raw = b"utt1 " + wav_bytes(WAVE, 16000) + b"utt2 " + wav_bytes(whole[::-1], 16000)
    (tmp_path / "own.ark").write_bytes(raw)
    second = f"{tmp_path}/own.ark:{raw.index(b'utt2 ') + 5}"
    assert np.array_equal(audio.load(f"{tmp_path}/own.ark:5"), WAVE)
    assert np.array_equal(audio.load(second, start=0.1, seconds=0.2), whole[::-1][1600:4800])
    rate, samples = kaldiio.load_mat(second)
    assert rate == 16000 and np.array_equal(samples, 32768 * whole[::-1])
    pcm = np.rint(WAVE * 32767).astype(np.int16)
    for form in ({}, {"write_function": "soundfile"}):
        kaldiio.save_ark(f"{tmp_path}/k.ark", {"u": (16000, pcm)}, scp=f"{tmp_path}/k.scp", **form)
        rx = open(f"{tmp_path}/k.scp").read().split()[1]
        assert np.abs(audio.load(rx) - pcm / np.float32(32768)).max() < 1e-6
    with pytest.raises(UserError, match="no WAV begins at this offset"):
        audio.load(f"{tmp_path}/own.ark:7")
    with pytest.raises(UserError, match="the archive ends at byte"):
        audio.load(f"{tmp_path}/own.ark:9999999")


def test_pipes(tmp_path):
    path = save(tmp_path / "it's a.wav", subtype="PCM_16")
    quoted = shlex.quote(path)
    assert np.array_equal(audio.load(f"cat {quoted} |"), audio.load(path))
    assert np.array_equal(audio.load(f"sox {quoted} -t wav - |"), audio.load(path))
    assert np.abs(audio.load(f"sox {quoted} -b 24 -t wav - speed 1.0 |") - audio.load(path)).max() < 2e-5
    assert np.array_equal(audio.load(f"cat {quoted} | head -c 1000000 |"), audio.load(path))
    # A writer stopped by its reader, which then ends well, is no error.
    (tmp_path / "a.ark").write_bytes(open(path, "rb").read() + bytes(10_000_000))
    assert audio.duration(speed_command(f"{tmp_path}/a.ark:0", "0.5")) == pytest.approx(1.6, abs=1e-3)


@pytest.mark.parametrize(
    "command, text",
    [
        ("false |", "status 1"),
        ("echo lost >&2; exit 3 |", "status 3: lost"),
        ("cat {wav}; exit 4 |", "status 4"),
        ("false | cat {wav} |", "status 1"),
        ("true |", "gave no audio"),
        ("no-such-program-here |", "not found"),
        ("echo hello |", "Format not recognised|no audio"),
    ],
)
@pytest.mark.parametrize("how", [audio.load, audio.check, audio.duration])
def test_pipe_that_fails_is_named(tmp_path, command, text, how):
    command = command.format(wav=save(tmp_path / "a.wav"))
    with pytest.raises(UserError, match=text) as error:
        how(command)
    assert str(error.value).startswith(command) and "\n" not in str(error.value)


def test_check_stops_an_endless_pipe():
    audio.check("sox -n -r 16000 -b 16 -c 1 -t wav - synth 100000 sine 300 |")


def test_unreadable_and_empty(tmp_path):
    good = open(save(tmp_path / "good.wav"), "rb").read()
    cases = {
        "none.wav": (None, "no such file"),
        "empty.wav": (b"", "the file is empty"),
        "nothing.wav": (wav_bytes(np.zeros(0), 16000), "no samples"),
        "short.wav": (good[:-100], "cut short"),
        "text.wav": (b"not audio at all", "libsndfile: .*sox: "),
        "header.wav": (good[:20], "libsndfile: .*sox: "),
        "folder": ("dir", "directory"),
    }
    for name, (data, text) in cases.items():
        path = tmp_path / name
        path.mkdir() if data == "dir" else data is not None and path.write_bytes(data)
        for how in (audio.load, audio.check, audio.info):
            with pytest.raises(UserError, match=text) as error:
                how(str(path))
            assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="NaN"):
        audio.load(save(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), subtype="FLOAT"))
    with pytest.raises(UserError, match="no sample at 5 s"):
        audio.load(str(tmp_path / "good.wav"), start=5)


def test_flac_cut_short_is_found_by_decoding(tmp_path):
    path = save(tmp_path / "a.flac")
    data = open(path, "rb").read()
    open(path, "wb").write(data[: len(data) // 2])
    with pytest.raises(UserError):
        audio.check(path, decode=True)


def test_odd_headers(tmp_path):
    """Chunks before the data, an odd-sized one among them; WAVE_FORMAT_EXTENSIBLE; a length left open."""
    pcm = np.arange(-50, 50, dtype="<i2").tobytes()
    fmt = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    ext = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 32000, 2, 16, 22, 16, 4) + struct.pack("<H", 1) + bytes(14)
    expected = np.arange(-50, 50) / 32768
    for layout in (fmt, ext):
        for size in (len(pcm), 0xFFFFFFFF, 0x7FFFF000, 0):
            chunks = b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", len(layout)) + layout
            body = b"WAVE" + chunks + b"data" + struct.pack("<I", size) + pcm
            (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
            assert np.array_equal(audio.load(str(tmp_path / "a.wav")), expected.astype(np.float32))


def wav_of(data, channels=1, bits=16, block=2, kind=1, more=b""):
    layout = struct.pack("<HHIIHH", kind, channels, 16000, 16000 * block, block, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + layout + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body + more


@pytest.mark.parametrize("channels, bits, block, kind", [
    (1, 16, 4, 1), (1, 16, 8, 1), (1, 16, 1, 1), (2, 16, 2, 1), (1, 24, 4, 1), (1, 8, 2, 1), (1, 32, 2, 3), (1, 64, 4, 3),
    (1, 8, 2, 7), (2, 8, 1, 6),
])  # fmt: skip
def test_header_that_contradicts_itself(tmp_path, channels, bits, block, kind):
    data = wav_of(bytes(range(128)) * 1000, channels, bits, block, kind, more=b"b ")
    (tmp_path / "a.wav").write_bytes(data)
    (tmp_path / "a.ark").write_bytes(b"a " + data)
    (tmp_path / "k.ark").write_bytes(b"a AUDIO\3" + len(data).to_bytes(3, "little") + data)
    line = rf"{channels} x {bits} bits take {channels * bits // 8} bytes, and it says {block} \(block align\)"
    endless = f"cat {tmp_path}/a.wav /dev/zero |"
    for name in ("a.wav", "a.ark:2", "k.ark:2", f"cat {tmp_path}/a.wav |"):
        for how in (audio.load, audio.check, audio.info, lambda rx: list(audio.windows(rx, 8000, 1))):
            with pytest.raises(UserError, match=line):
                how(name if name.endswith("|") else f"{tmp_path}/{name}")
    with pytest.raises(UserError, match=line):
        audio.check(endless)


@pytest.mark.parametrize("bits, block", [(16, 0), (16, 2), (24, 3), (24, 0), (12, 2)])
def test_header_that_is_vague_or_unusual(tmp_path, bits, block):
    """A block align that nobody filled in; 12 bits, which stand in two bytes."""
    pcm = np.rint(WAVE * 20000).astype("<i2")
    data = pcm.tobytes() if bits != 24 else (pcm.astype("<i4") << 8).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    (tmp_path / "a.wav").write_bytes(wav_of(data, 1, bits, block))
    assert np.array_equal(audio.load(str(tmp_path / "a.wav")), pcm / np.float32(32768))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "it's a [1]*?.wav", "-a.wav", "with:colon.wav"])
def test_speed_pipe_from_any_source(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save(name)
    for factor, seconds in (("0.9", 0.8 / 0.9), ("1.1", 0.8 / 1.1)):
        command = speed_command(name, factor)
        assert audio.duration(command) == pytest.approx(seconds, abs=2e-3)
        assert audio.duration(speed_command(command, "2")) == pytest.approx(seconds / 2, abs=2e-3)


def test_speed_copies_are_the_same_on_every_run(tmp_path):
    """SoX dithers what it rounds to 16 bits."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.05, 8000), 16000, subtype="PCM_16")
    first, second = (audio.load(speed_command(str(path), "0.9")) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_no_torch():
    """Workers that handle data directories must start in a moment: torch takes seconds to import."""
    code = "import sys, svq.bin.data_dir, svq.bin.copy_wav; sys.exit('torch' in sys.modules)"
    assert subprocess.run(["python3", "-c", code]).returncode == 0
