"""An odd recording gives the same samples, or the same refusal, wherever one is read."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from svq.bin.embed import recordings_of
from svq.data import audio
from svq.data.audio import windows_of
from svq.data.augment import Augment
from svq.data.datadir import DataDir, create
from svq.data.dataset import TrainSet
from svq.data.extraction import Utterances
from svq.data.fbank import num_samples
from svq.data.frontend import FrontEnd, FrontEndConfig
from svq.data.table import Table
from svq.data.validate import validate
from svq.data.wavark import copy_part
from svq.errors import UserError
from svq.evaluation.identification import Segment, embed_segments
from svq.verifier import Verifier
from tests.builders import voice

FRAMES = 60
WAVE = voice(1, num_samples(FRAMES) / 16000, np.random.default_rng(0))
WHOLE = np.float32(np.rint(20000 * WAVE) / 32768)


def file(samples, name="a.wav", **more):
    """A maker of the wav.scp value: the path of a file of these samples."""
    def make(folder):
        soundfile.write(folder / name, samples, 16000, **more)
        return str(folder / name)
    return make


def pipe(make):
    return lambda folder: f"cat {make(folder)} |"


def archive(make):
    def put(folder):
        (folder / "a.ark").write_bytes(b"a " + open(make(folder), "rb").read() + b"b ")
        return f"{folder}/a.ark:2"
    return put


def decoded(name, subtype):
    """What libsndfile itself decodes of a lossy file."""
    held = io.BytesIO()
    soundfile.write(held, WAVE, 16000, format=name.rpartition(".")[2].upper(), subtype=subtype)
    return soundfile.read(io.BytesIO(held.getvalue()), dtype="float32")[0]


def with_block_align(size):
    def make(folder):
        data = bytearray(open(file(WHOLE)(folder), "rb").read())
        data[32:34] = size.to_bytes(2, "little")
        (folder / "a.wav").write_bytes(data)
        return str(folder / "a.wav")
    return make


FLOAT = {"subtype": "FLOAT"}
OTHER = np.float32(np.rint(20000 * voice(3, len(WAVE) / 16000, np.random.default_rng(1))) / 32768)
CALL = np.stack([WHOLE, OTHER], axis=1)
CANCEL = "its 2 channels cancel each other: their average keeps 0 % of their power; take one"
KINDS = {
    "16 bits": (file(WHOLE), WHOLE),
    "24 bits": (file(np.rint(WAVE * 2**23) / 2**23, subtype="PCM_24"), np.float32(np.rint(WAVE * 2**23) / 2**23)),
    "float": (file(WAVE, **FLOAT), WAVE),
    "float beyond 1": (file(4 * WAVE, **FLOAT), 4 * WAVE),
    "soft float": (file(np.float32(1e-3) * WAVE, **FLOAT), np.float32(1e-3) * WAVE),
    "float beyond 1 in an archive": (archive(file(4 * WAVE, **FLOAT)), 4 * WAVE),
    "float beyond 1 in a pipe": (pipe(file(4 * WAVE, **FLOAT)), 4 * WAVE),
    "16-bit scale": (file(32768 * WAVE, **FLOAT), "holds samples beyond 100, and full scale is 1; scale it to"),
    "16-bit scale in a pipe": (pipe(file(32768 * WAVE, **FLOAT)), "holds samples beyond 100"),
    "16-bit scale through SoX": (lambda folder: f"sox {file(32768 * WAVE, **FLOAT)(folder)} -t wav - |", "SoX cut off"),
    "FLAC": (file(WHOLE, "a.flac"), WHOLE),
    "Ogg": (file(WAVE, "a.ogg"), decoded("a.ogg", "VORBIS")),
    "stereo": (file(np.stack([WHOLE, WHOLE / 2], axis=1), **FLOAT), WHOLE * np.float32(0.75)),
    "anti-phase": (file(np.stack([WHOLE, -WHOLE], axis=1)), CANCEL),
    "anti-phase FLAC": (file(np.stack([WHOLE, -WHOLE], axis=1), "a.flac"), CANCEL),
    "anti-phase in an archive": (archive(file(np.stack([WHOLE, -WHOLE], axis=1))), CANCEL),
    "anti-phase in a pipe": (pipe(file(np.stack([WHOLE, -WHOLE], axis=1))), CANCEL),
    "channel A of a call": (file(CALL), WHOLE, "A"),
    "channel B of a call": (file(CALL), OTHER, "B"),
    "channel 2 of a call in a pipe": (pipe(file(CALL)), OTHER, "2"),
    "channel 1 of a call in an archive": (archive(file(CALL, **FLOAT)), WHOLE, "1"),
    "channel 2 of a call in FLAC": (file(CALL, "a.flac"), OTHER, "2"),
    "channel B that is alone": (file(WHOLE), WHOLE, "B"),
    "channel 3 of a call": (file(CALL), "has only 2 channels; mend reco2file_and_channel", "3"),
    "channel x of a call": (file(CALL), "reco2file_and_channel:1: `x` is no channel", "x"),
    "silence": (file(0 * WAVE), "silence: nothing in its 0.615 s is above -80 dBFS; record it again or leave it out"),
    "an offset": (file(np.full(len(WAVE), 0.25)), "silence: nothing in its 0.615 s"),
    "hiss": (file(1e-5 * np.random.default_rng(0).standard_normal(len(WAVE)), **FLOAT), "silence: nothing in its"),
    "silence in a pipe": (pipe(file(0 * WAVE, **FLOAT)), "silence: nothing in its"),
    "the silent side of a call": (file(np.stack([WHOLE, 0 * WHOLE], axis=1)), "silence: nothing in its", "B"),
    "block align of 4": (with_block_align(4), "1 x 16 bits take 2 bytes, and it says 4 (block align)"),
    "block align of 1 in a pipe": (pipe(with_block_align(1)), "1 x 16 bits take 2 bytes, and it says 1 (block align)"),
    "block align of 4 in an archive": (archive(with_block_align(4)), "and it says 4 (block align)"),
    "no block align": (with_block_align(0), WHOLE),
    "NaN": (file(np.where(np.arange(len(WAVE)) == 100, np.nan, WAVE), **FLOAT), "holds NaN or infinite samples"),
}  # fmt: skip


def test_segments_of_channels_that_differ_need_a_name(tmp_path, capsys):
    """Kaldi refuses every recording of several channels there; here only the average of a call is refused."""
    data = place(tmp_path / "data", file(CALL)(tmp_path))
    with pytest.raises(UserError):
        cut(data, tmp_path)
    line = "its 2 channels differ, as those of a call: their average keeps"
    assert line in capsys.readouterr().err
    assert any(line in found for found in validate(tmp_path / "cut", "decode").lines())
    assert len(copied(data, tmp_path)) == len(WAVE)


def place(folder, value, **tables):
    return create(folder, wav={"a": value}, utt2spk={"a": "s"}, utt2dur={"a": len(WAVE) / 16000}, **tables)


def copied(data, folder):
    copy_part(data, folder / "copy.ark", 16000)
    return audio.load(Table.read(folder / "copy.scp")["a"])


def cut(data, folder):
    """As a segment that is all of its recording."""
    for name in ("utt2spk", "spk2utt"):
        (folder / "cut").mkdir(exist_ok=True)
        (folder / "cut" / name).write_bytes((data / name).read_bytes())
    for name in filter(DataDir(data).has, ("wav.scp", "reco2file_and_channel")):
        (folder / "cut" / name).write_text((data / name).read_text().replace("a ", "r ", 1))
    (folder / "cut" / "segments").write_text("a r 0 -1\n")
    return copied(folder / "cut", folder)


def features(data, _):
    (_, samples), = Utterances(data, FrontEndConfig(), "wav", waveforms=True)
    if isinstance(samples, UserError):
        raise samples
    return samples.numpy()


def probe(data, _):
    """As identification takes parts of utterances; its network is the identity."""
    return embed_segments(data, [Segment("a", 0, len(WAVE))], lambda waveforms: waveforms)[0]


class Heard:
    """In the place of a network: keeps what it is given."""
    path, network, arithmetic = "heard", "", "float32"
    config = SimpleNamespace(embed_dim=2, front_end=FrontEndConfig())
    front_end = FrontEnd(config.front_end)

    def waveforms(self, samples):
        self.samples = samples[0]
        return np.ones((1, 2), np.float32)


def windows(data, _):
    """As embed reads a long recording, in pieces."""
    return np.concatenate(list(windows_of(recordings_of([str(data)])["a"], 16000, 0.25)))


def embedded(data, _):
    """As embed and verify hear a recording."""
    embedder = Heard()
    Verifier(embedder, min_seconds=0, warn=lambda line: None).embed(recordings_of([str(data)])["a"])
    return embedder.samples


def checked(data, _):
    problems = validate(data, "decode")
    if problems.total:
        raise UserError(" ".join(problems.lines()))
    return None


ROADS = {
    "copy": copied, "segment": cut, "features": features, "probe": probe, "windows": windows, "embed": embedded,
    "validation": checked,
    "training": lambda data, _: TrainSet(data, crop_seconds=FRAMES / 100).item(0, 0)[0],
    "noise": lambda data, _: Augment(data).noise.whole(0),
    "noise that is not kept": lambda data, _: Augment(data, cache_mb=0).noise.crop(0, len(WAVE), 0.0),
}  # fmt: skip
NOISE = {"noise", "noise that is not kept"}  # rooms and noise are scaled by themselves
PARTS = {"windows", "training", "probe"} | NOISE  # a part of a recording may be silent


@pytest.mark.parametrize("kind", KINDS)
def test_same_samples_on_every_road(tmp_path, capsys, kind):
    make, expected, *channel = KINDS[kind]
    named = {"reco2file_and_channel": {"a": f"call {channel[0]}"}} if channel else {}
    data = place(tmp_path / "data", make(tmp_path), **named)
    for name, road in ROADS.items():
        if isinstance(expected, str):
            if expected[:20] == "holds samples beyond" and name in NOISE or expected[:7] == "silence" and name in PARTS:
                continue
            with pytest.raises(UserError) as error:
                road(data, tmp_path)
            assert expected in f"{error.value} {capsys.readouterr().err}", name
        elif (found := road(data, tmp_path)) is not None:
            np.testing.assert_array_equal(found, expected.astype(np.float32), err_msg=name)
            assert found.dtype == np.float32
