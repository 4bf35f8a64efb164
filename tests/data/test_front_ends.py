"""Front ends of published networks against kaldi-native-fbank and plain renderings; which features go with which."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svq.config import from_dict, to_dict
from svq.data.extraction import Utterances
from svq.data.fbank import Fbank, mean_normalize
from svq.data.frontend import FrontEnd, FrontEndConfig, check_stored, takes_stored
from svq.data.numpy_front_end import NumpyFrontEnd
from svq.errors import UserError
from svq.network import ModelConfig
from svq.pack.file import load_packed, save_packed
from svq.pack.reading import read_packed
from svq.quant import QuantConfig, quantize_
from tests import renderings
from tests.builders import data_dir
from tests.importing.formula import waveform

KINDS = {
    "here": FrontEndConfig(),
    "wespeaker": FrontEndConfig(window="hamming"),
    "3dspeaker": FrontEndConfig(full_scale=1.0),
    "speechbrain": FrontEndConfig(fbank="speechbrain"),
    "fast": FrontEndConfig(fbank="clova", num_mels=40, variance_normalize=True),
    "half": FrontEndConfig(fbank="clova", num_mels=64, variance_normalize=True, preemphasis=0.97),
    "redimnet": FrontEndConfig(fbank="redimnet", num_mels=72, hop_ms=15),
    "redimnet2": FrontEndConfig(fbank="redimnet2", num_mels=72, waveform_normalize=True),
    "resemblyzer": FrontEndConfig(fbank="resemblyzer", num_mels=40, mean_normalize=False, least_dbfs=-30.0),
}


def signals():
    time, random = np.arange(16077) / 16000, np.random.RandomState(3)
    noise = random.standard_normal(16077)
    loud_then_soft = np.where(time < 0.5, 0.3 * np.sin(2 * np.pi * 300 * time), 0) + 1e-4 * noise
    waves = {"glide": waveform()[0].numpy(), "noise": 0.1 * noise, "soft": loud_then_soft, "odd": 0.1 * noise[:15999],
             "offset": 0.01 + 0.01 * noise, "silence": np.zeros(8000)}
    return {name: wave.astype(np.float32) for name, wave in waves.items()}


def bank(config, wave):
    return FrontEnd(config).bank(torch.from_numpy(wave)[None])[0].numpy()


def native(wave, window, scale):
    """kaldi-native-fbank's log-mels (frames, 80)."""
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = 80
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(16000, (wave * scale).tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


@pytest.mark.parametrize("name", signals())
@pytest.mark.parametrize("window, scale", [("povey", 32768.0), ("hamming", 32768.0), ("povey", 1.0), ("hamming", 1.0)])
def test_kaldis(name, window, scale):
    wave = signals()[name]
    found = bank(FrontEndConfig(window=window, full_scale=scale), wave)
    np.testing.assert_allclose(found, native(wave, window, scale), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", signals())
@pytest.mark.parametrize("num_mels", [80, 24])
def test_speechbrains(name, num_mels):
    """Within 1e-3 dB."""
    wave = signals()[name]
    found = bank(FrontEndConfig(fbank="speechbrain", num_mels=num_mels), wave)
    np.testing.assert_allclose(found, renderings.speechbrain(wave, num_mels), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", signals())
@pytest.mark.parametrize("num_mels, preemphasis", [(40, 0.0), (64, 0.97)])
def test_clovas(name, num_mels, preemphasis):
    wave = signals()[name]
    config = FrontEndConfig(fbank="clova", num_mels=num_mels, preemphasis=preemphasis, variance_normalize=True)
    expected = renderings.clova(wave, num_mels, preemphasis)
    np.testing.assert_allclose(bank(config, wave), expected, rtol=0, atol=1e-3)
    normalised = (expected - expected.mean(0)) / np.sqrt(expected.var(0) + 1e-5)
    found = FrontEnd(config)(torch.from_numpy(wave)[None])[0]
    np.testing.assert_allclose(found, normalised, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", signals())
@pytest.mark.parametrize("kind", ["redimnet", "redimnet2"])
@pytest.mark.parametrize("num_mels, hop_ms, level", [(72, 15, False), (60, 10, True)])
def test_redimnets(name, kind, num_mels, hop_ms, level):
    """A constant offset, far above the signal, is taken off in float32 where the waveform is normalised."""
    wave = signals()[name]
    config = FrontEndConfig(fbank=kind, num_mels=num_mels, hop_ms=hop_ms, waveform_normalize=level)
    expected = getattr(renderings, kind)(wave, num_mels, 16 * hop_ms, level)
    np.testing.assert_allclose(bank(config, wave), expected, rtol=0, atol=5e-3)
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("name", signals())
@pytest.mark.parametrize("num_mels", [40, 24])
def test_resemblyzers(name, num_mels):
    """Powers, of which the least are told apart by their own size."""
    wave = signals()[name]
    config = FrontEndConfig(fbank="resemblyzer", num_mels=num_mels, mean_normalize=False)
    expected = renderings.resemblyzer(wave, num_mels)
    np.testing.assert_allclose(bank(config, wave), expected, rtol=1e-4, atol=1e-7 * max(1e-3, expected.max()))
    level = np.sqrt(np.mean(wave.astype(np.float64) ** 2))
    louder = expected * max(1.0, 10 ** (-20 / 20) / max(level, 1e-12)) ** 2
    found = FrontEnd(replace(config, least_dbfs=-20.0))(torch.from_numpy(wave)[None])[0]
    np.testing.assert_allclose(found, louder, rtol=2e-4, atol=1e-7 * max(1e-3, louder.max()))
    assert name in ("silence",) or (louder.max() > expected.max()) == (level < 0.1)


@pytest.mark.parametrize("samples, frames", [(400, 160), (160 * 196 + 159, 160), (160 * 197, 237), (160 * 273, 237),
                                             (160 * 274, 314), (160 * 274 + 159, 314)])
def test_resemblyzers_features_end_with_the_last_window(samples, frames):
    """A window begins every 77 frames, and the last one is dropped where less than three quarters of it are there."""
    front_end = FrontEnd(KINDS["resemblyzer"])
    assert front_end.bank.num_frames(samples) == frames
    assert front_end(torch.full((1, samples), 0.1)).shape == (1, frames, 40)


def test_a_click_raises_speechbrains_floor():
    """80 dB under the loudest value of the utterance: of each utterance its own, whatever shares its batch."""
    soft = 1e-4 * np.random.RandomState(0).standard_normal(16000).astype(np.float32)
    click = soft.copy()
    click[8000] = 1
    both = FrontEnd(KINDS["speechbrain"]).bank(torch.from_numpy(np.stack([soft, click])))
    np.testing.assert_allclose(both[0], bank(KINDS["speechbrain"], soft), rtol=0, atol=1e-4)
    assert both[1].min() == both[1].max() - 80 and both[0].min() < both[1].min()


def test_the_default_is_as_it_was():
    wave = waveform()
    assert torch.equal(FrontEnd(FrontEndConfig())(wave), mean_normalize(Fbank()(wave)))
    assert torch.equal(FrontEnd(FrontEndConfig(mean_normalize=False))(wave), Fbank()(wave))


@pytest.mark.parametrize("fbank, shortest", [("kaldi", 200), ("speechbrain", 200), ("clova", 257),
                                             ("redimnet", 257), ("redimnet2", 200),
                                             ("resemblyzer", 200)])
def test_the_shortest_recording_at_8_khz(fbank, shortest):
    """clova's edges are mirrored: half a transform of samples must be there for that."""
    config = FrontEndConfig(fbank=fbank, rate=8000, num_mels=40)
    wave = np.random.default_rng(0).standard_normal((1, shortest), np.float32)
    theirs, ours = FrontEnd(config), NumpyFrontEnd(config)
    np.testing.assert_allclose(theirs(torch.from_numpy(wave)).numpy(), ours(wave), atol=1e-2)
    for front_end, short in ((theirs, torch.from_numpy(wave[:, 1:])), (ours, wave[:, 1:])):
        with pytest.raises(ValueError, match=f"{shortest - 1} samples are too few; the shortest recording has {shortest}"):
            front_end(short)


@pytest.mark.parametrize("kind", KINDS)
@given(samples=st.integers(300, 4000))
def test_frame_counts(kind, samples):
    front_end = FrontEnd(KINDS[kind]).bank
    wave = torch.full((1, samples), 0.1)
    if front_end.num_frames(samples) == 0:
        assert samples < front_end.shortest
        with pytest.raises(ValueError, match=f"{samples} samples are too few; the shortest recording has 400"):
            front_end(wave)
    else:
        assert front_end(wave).shape == (1, front_end.num_frames(samples), KINDS[kind].num_mels)


@pytest.mark.parametrize("kind", KINDS)
def test_other_rates_and_rows_of_a_batch(kind):
    config = from_dict({**to_dict(KINDS[kind]), "rate": 8000, "num_mels": 24}, FrontEndConfig)
    waves = 0.1 * torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    feats = FrontEnd(config)(waves)
    assert feats.shape == (3, FrontEnd(config).bank.num_frames(4000), 24) and feats.isfinite().all()
    torch.testing.assert_close(feats[1:2], FrontEnd(config)(waves[1:2]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_normalization(kind):
    config = KINDS[kind]
    feats = FrontEnd(config)(waveform())
    assert (feats.mean(dim=1).abs().max() < 1e-3) == config.mean_normalize
    deviation = feats.std(dim=1, correction=0)
    assert ((deviation - 1).abs().max() < 0.01) == config.variance_normalize


def test_only_our_own_features_are_taken_from_the_archive(tmp_path):
    data = data_dir(tmp_path, speakers=1, utts=2, seconds=0.3)
    (data / "feats.scp").write_text("spk00-utt00 nowhere.ark:5\nspk00-utt01 nowhere.ark:9\n")
    for kind, config in KINDS.items():
        ours = kind == "here"
        assert takes_stored(config, data) == ours and Utterances(data, config).feats == ours
        if not ours:
            with pytest.raises(UserError, match="feats.scp: holds Kaldi's log-mels, .*: read the waveforms"):
                Utterances(data, config, input="feats")
            (_, feats), *_ = Utterances(data, config)
            assert feats.shape[1] == config.num_mels
    check_stored(FrontEndConfig(num_mels=30, mean_normalize=False), data)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_files_say_it_shortly(kind, tmp_path):
    """A file of our own front end is as long as before there were others; the others' come back whole."""
    torch.manual_seed(0)
    model = ModelConfig("ResNet18", {"width": 4}, 8, KINDS[kind], QuantConfig(bits=2))
    net = quantize_(model.build().eval(), model.quant)
    save_packed(tmp_path / "x.svq", net, model)
    told = read_packed(tmp_path / "x.svq")[0]["model"]["front_end"]
    assert load_packed(tmp_path / "x.svq")[1].front_end == model.front_end
    if kind == "here":
        assert json.dumps(told) == '{"mean_normalize": true, "num_mels": 80, "rate": 16000}'


@pytest.mark.parametrize("tree, words", [
    ({"fbank": "htk"}, "'fbank' is 'htk'"), ({"fbank": "clova", "window": "povey"}, "takes hamming only"),
    ({"full_scale": 0}, "full_scale is 0"), ({"preemphasis": 1.5}, "preemphasis is 1.5"),
    ({"window": "hann"}, "fbank kaldi takes povey or hamming only"), ({"window": "sine"}, "'window' is 'sine'"),
    ({"least_dbfs": 3}, "least_dbfs is 3.0; it must be"), ({"fbank": "resemblyzer", "window": "hamming"}, "takes hann"),
    ({"high_hz": -8000}, "high_hz is -8000"), ({"high_hz": 8001}, "at most"),
    ({"high_hz": float("nan")}, "not nan"), ({"high_hz": 15}, "high_hz is 15"),
    ({"fbank": "clova", "high_hz": -400}, "takes 0.0 only"), ({"fbank": "speechbrain", "snip_edges": False}, "takes True"),
    ({"hop_ms": 15}, "hop_ms is 15; fbank kaldi takes 10 only"), ({"fbank": "redimnet", "hop_ms": 0}, "hop_ms is 0"),
    ({"fbank": "clova", "waveform_normalize": True}, "takes False only"),
    ({"fbank": "redimnet2", "high_hz": -400}, "takes 0.0 only")])
def test_settings_out_of_range(tree, words):
    with pytest.raises(UserError, match=words):
        from_dict(tree, FrontEndConfig)


def test_what_a_definition_brings_with_it():
    assert to_dict(FrontEndConfig(fbank="speechbrain")) == {
        "rate": 16000, "num_mels": 80, "mean_normalize": True, "variance_normalize": False, "fbank": "speechbrain",
        "window": "hamming", "full_scale": 1.0, "preemphasis": 0.0, "high_hz": 0.0, "snip_edges": True, "hop_ms": 10,
        "waveform_normalize": False, "least_dbfs": None}
    assert FrontEndConfig(fbank="redimnet2").preemphasis == FrontEndConfig(fbank="redimnet").preemphasis == 0.97
    assert from_dict({"rate": 16000, "num_mels": 80, "mean_normalize": True}, FrontEndConfig) == FrontEndConfig()
