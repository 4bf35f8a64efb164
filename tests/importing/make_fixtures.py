"""Makes the fixtures: what the toolkits' own code makes of weights, features and a waveform that formula.py gives.

    python tests/importing/make_fixtures.py wespeaker /path/to/wespeaker/checkout
    python tests/importing/make_fixtures.py speechbrain /path/to/speechbrain
    python tests/importing/make_fixtures.py 3dspeaker /path/to/3D-Speaker
    python tests/importing/make_fixtures.py clova /path/to/voxceleb_trainer
    python tests/importing/make_fixtures.py redimnet /path/to/ReDimNet
    python tests/importing/make_fixtures.py redimnet2 /path/to/redimnet2
    python tests/importing/make_fixtures.py resemblyzer /path/to/folder/with/resemblyzer

writes tests/importing/fixtures/<origin>_*.json; names behind the checkout, such as campplus_small, make these alone.
The checkout is only imported from. torchaudio has to be installed beside torch (2.11.0 was; its Python code suffices).
Packages that the checkout imports but needs for no network or front end may be missing: empty modules stand in for
them. A fixture holds, of one network:

- origin, arch: where it is from, and what it must become here;
- layers: its state dict's names and shapes (formula.expand gives them, formula.checkpoint fills them);
- front_end: the settings that the import must record;
- gain, length: of the weights and the features, as formula takes them, where they are not the usual ones;
- model_config: the network's arguments, where published files have them beside the tensors;
- from_features: the first NUMBERS numbers of the embedding of `formula.features`;
- from_waveform: the same of `formula.waveform`, through the toolkit's own front end;
- rows: some rows of that front end's features of the waveform, normalised;
- windows: of Resemblyzer, (samples, gain, numbers of the embedding) of `formula.waveform`, through its own windows.

For resemblyzer, tests/importing/published_resemblyzer.json has the same of the network that its package ships.

The fixtures in the repository were made with wespeaker dfa7419, speechbrain 9c826ef, 3D-Speaker 09e7806, voxceleb_trainer
f51bab8, ReDimNet c994fce and redimnet2 ffe8f27, torch 2.13 and torchaudio 2.11, and resemblyzer 0.1.4 with librosa 0.11,
on a CPU. SpeechBrain's statistics pooling adds random noise
of up to 9e-5 to its means; it is set to zero here, as no parity can be had with it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import types
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
NUMBERS = 32
DENSE = {"gain": 2.0, "length": 290}  # no shortcut keeps values up, and features of several segments are needed
WINDOW = 160  # frames of Resemblyzer's windows
LENGTHS = ((3000, 1.0), (25639, 1.0), (31519, 0.01), (31520, 0.01), (43840, 1.0), (100001, 1.0))  # samples, gain
ROWS = (0, 40, -1)
NOT_NEEDED = {"hyperpyyaml", "huggingface_hub", "joblib", "sentencepiece", "requests", "pandas", "ruamel", "s3prl",
              "silero_vad", "whisper", "peft", "transformers", "umap", "hdbscan", "onnxruntime", "librosa",
              "sklearn", "fire", "tableprint"}
LOUD = {"gain": 1.4}  # some activations reach their ceiling


def wespeaker():
    import torchaudio.compliance.kaldi as kaldi
    from wespeaker.models.campplus import CAMPPlus
    from wespeaker.models.ecapa_tdnn import ECAPA_TDNN, ECAPA_TDNN_GLOB_c512
    from wespeaker.models.eres2net import ERes2Net
    from wespeaker.models.gemini_dfresnet import Gemini_DF_ResNet
    from wespeaker.models.repvgg import RepVGG
    from wespeaker.models.resnet import BasicBlock, Bottleneck, ResNet, ResNet34
    from wespeaker.models.samresnet import SimAM_ResNet34_ASP
    from wespeaker.models.tdnn import XVEC

    def front_end(wave):
        feats = kaldi.fbank(wave * 32768, num_mel_bins=80, frame_length=25, frame_shift=10, dither=0.0,
                            sample_frequency=16000, window_type="hamming", use_energy=False)
        return (feats - feats.mean(dim=0))[None]

    settings = {"window": "hamming"}
    yield "resnet34", "ResNet34", ResNet34(80, 256), front_end, settings
    yield "resnet50_small", "ResNet50", ResNet(Bottleneck, [3, 4, 6, 3], m_channels=8, feat_dim=80, embed_dim=64), \
        front_end, settings
    yield "ecapa_glob_c512", "ECAPA512", ECAPA_TDNN_GLOB_c512(80, 192), front_end, settings
    yield "ecapa_small", "ECAPA512", ECAPA_TDNN(channels=64, embed_dim=48), front_end, settings
    yield "xvec", "XVector", XVEC(80), front_end, settings
    yield "campplus_small", "CAMPPlus", CAMPPlus(80, 64, growth_rate=8, init_channels=24), front_end, settings, DENSE
    yield "eres2net_two_layers", "ERes2NetHuge", ERes2Net(8, [3, 4, 6, 3], 24, 3, 4, feat_dim=80, embed_dim=48,
                                                         two_emb_layer=True), front_end, settings
    for pooling in ("TAP", "TSDP", "ASTP", "MHASTP", "MQMHASTP"):
        net = ResNet(BasicBlock, [2, 2, 2, 2], m_channels=4, feat_dim=80, embed_dim=32, pooling_func=pooling)
        yield f"resnet18_{pooling.lower()}", "ResNet18", net, front_end, settings
    yield "simam_resnet34_small", "SimAMResNet34", SimAM_ResNet34_ASP(in_planes=8, embed_dim=48), front_end, settings
    for suffix, options in (("", {}), ("_mqmhastp", {"pooling_func": "MQMHASTP", "two_emb_layer": True})):
        net = Gemini_DF_ResNet([3, 3, 9, 3], [4, 4, 8, 16, 32], feat_dim=80, embed_dim=32, **options)
        yield f"gemini60_small{suffix}", "GeminiDFResNet60", net, front_end, settings
    for suffix, options in (("", {}), ("_merged", {"deploy": True}), ("_rsbb", {"block": "RepSPK"}),
                            ("_rsbb_merged", {"block": "RepSPK", "deploy": True})):
        net = RepVGG(num_blocks=[2, 4, 14, 1], strides=[1, 1, 2, 2, 2], width_multiplier=[1 / 8, 1 / 8, 1 / 8, 3 / 32],
                     pooling_func="TSTP" if "rsbb" in suffix else "ASTP", feat_dim=80, embed_dim=32, **options)
        yield f"repvgg_small{suffix}", "RepVGGA0", net, front_end, settings
    yield from wespeaker_redimnets(kaldi)


def wespeaker_redimnets(kaldi):
    from wespeaker.frontend.tfmel import TFMelBanks
    from wespeaker.models.redimnet import ReDimNet
    from wespeaker.models.redimnet2 import ReDimNet2Wrap

    def front_end(wave):
        feats = kaldi.fbank(wave * 32768, num_mel_bins=24, frame_length=25, frame_shift=10, dither=0.0,
                            sample_frequency=16000, window_type="hamming", use_energy=False)
        return (feats - feats.mean(dim=0))[None]

    tfmel = TFMelBanks(n_mels=24, hop_length=160, win_length=400, n_fft=512, f_min=20, f_max=7600, do_preemph=True,
                       norm_signal=True, do_spec_aug=False, eps=1e-8)
    first = ReDimNet(24, 4, "conv+att", "basic_resnet_fwse", [(1, 1, 2, K33, 6), (2, 1, 1, K33, 3)], 2, None, 48)
    yield "redimnet_small", "ReDimNetB2", first, front_end, {"window": "hamming"}
    second = ReDimNet2Wrap(24, 4, embed_dim=48, out_channels=6, return_2d_output=True, stages_setup=TWO)
    yield "redimnet2_small", "ReDimNet2B6", Transposed(second), lambda wave: tfmel(wave).transpose(1, 2), \
        {"fbank": "redimnet2", "waveform_normalize": True}


class Transposed(torch.nn.Module):
    """A network of features (B, F, T) as one of features (B, T, F), with the same state dict."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, feats):
        return self.net(feats.transpose(1, 2))

    def state_dict(self):
        return self.net.state_dict()

    def load_state_dict(self, state, strict):
        return self.net.load_state_dict(state, strict)


def speechbrain():
    import speechbrain.nnet.pooling
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.lobes.models.ResNet import ResNet
    from speechbrain.lobes.models.Xvector import Xvector
    from speechbrain.processing.features import InputNormalization

    speechbrain.nnet.pooling.StatisticsPooling._get_gauss_noise = lambda pool, shape, device="cpu": torch.zeros(shape)

    def front_end(num_mels):
        fbank, normalize = Fbank(n_mels=num_mels), InputNormalization(norm_type="sentence", std_norm=False)
        return lambda wave: normalize(fbank(wave), torch.ones(len(wave)))

    settings = {"fbank": "speechbrain"}
    yield "ecapa_small", "ECAPASpeechBrain512", ECAPA_TDNN(80, lin_neurons=48, channels=[64] * 4 + [192]), \
        front_end(80), settings
    yield "xvector_small", "XVectorSpeechBrain", \
        Xvector(tdnn_channels=[96, 96, 96, 96, 200], lin_neurons=64, in_channels=24), front_end(24), settings
    yield "resnet_small", "ResNet34SpeechBrain", ResNet(channels=[16, 16, 32, 32], lin_neurons=48), \
        front_end(80), settings


def threedspeaker():
    import torchaudio.compliance.kaldi as kaldi
    from speakerlab.models.campplus.DTDNN import CAMPPlus
    from speakerlab.models.ecapa_tdnn.ECAPA_TDNN import ECAPA_TDNN
    from speakerlab.models.eres2net import ERes2Net_huge
    from speakerlab.models.eres2net.ERes2Net import ERes2Net
    from speakerlab.models.eres2net.ERes2NetV2 import ERes2NetV2
    from speakerlab.models.resnet.ResNet import ResNet
    from speakerlab.models.xvector.TDNN import Xvector

    def front_end(wave):
        feats = kaldi.fbank(wave, num_mel_bins=80, sample_frequency=16000, dither=0)
        return (feats - feats.mean(0, keepdim=True))[None]

    settings = {"full_scale": 1.0}
    yield "resnet34_small", "ResNet34", ResNet(m_channels=8, feat_dim=80, embedding_size=64), front_end, settings
    yield "ecapa_small", "ECAPASpeechBrain512", ECAPA_TDNN(80, lin_neurons=48, channels=[64] * 4 + [192]), front_end, \
        settings
    yield "campplus_small", "CAMPPlus", CAMPPlus(80, embedding_size=64, growth_rate=8, init_channels=24), front_end, \
        settings, DENSE
    yield "eres2net_small", "ERes2NetBase", ERes2Net(m_channels=8, embedding_size=48), front_end, settings
    yield "eres2net_huge", "ERes2NetHuge", ERes2Net_huge.ERes2Net(m_channels=8, embedding_size=48), front_end, settings
    yield "eres2netv2_small", "ERes2NetV2", ERes2NetV2(m_channels=12, embedding_size=48), front_end, settings, LOUD
    yield "eres2netv2_w24s4ep4", "ERes2NetV2w24s4ep4", \
        ERes2NetV2(m_channels=8, embedding_size=48, baseWidth=24, scale=4, expansion=4), front_end, settings
    yield "xvector_small", "XVector", Xvector(80, hid_dim=96, stats_dim=200, embed_dim=64), front_end, settings
    for pooling in ("TSDP", "ASTP"):
        net = ResNet(num_blocks=[2, 2, 2, 2], m_channels=4, feat_dim=80, embedding_size=32, pooling_func=pooling)
        yield f"resnet18_{pooling.lower()}", "ResNet18", net, front_end, settings


def clova():
    from models.ResNetSE34L import MainModel as Fast
    from models.ResNetSE34V2 import MainModel as Half

    settings = {"fbank": "clova", "variance_normalize": True}
    yield "resnetse34l", "FastResNet34", Fast(512), None, settings
    yield "resnetse34v2", "ResNetSE34V2", Half(512, encoder_type="ASP", n_mels=64), None, \
        {**settings, "preemphasis": 0.97}


def redimnet():
    from redimnet.model import ReDimNetWrap

    stages = [(1, 1, 1, K33, None), (2, 2, 2, K33, 6), (3, 1, 1, K33, 12)]
    yield published("resnet_small", "ReDimNetB2", ReDimNetWrap, {"fbank": "redimnet", "hop_ms": 15},
                    F=24, C=4, block_1d_type="conv+att", block_2d_type="basic_resnet", stages_setup=stages,
                    group_divisor=1, embed_dim=48, hop_length=240, global_context_att=True)
    yield published("convnext_small", "ReDimNetB2", ReDimNetWrap, {"fbank": "redimnet2", "waveform_normalize": True},
                    F=24, C=4, block_1d_type="conv+att", block_2d_type="convnext_like", stages_setup=stages[:2],
                    group_divisor=4, embed_dim=48, feat_type="tf", spec_params={"norm_signal": True})


def redimnet2():
    from redimnet2.redimnet2 import ReDimNet2Wrap

    settings = {"fbank": "redimnet2", "waveform_normalize": True}
    given = dict(F=24, C=4, causal="none", return_2d_output=True, embed_dim=48, feat_type="tf",
                 spec_params={"do_preemph": True, "norm_signal": True})
    yield published("two_small", "ReDimNet2B6", ReDimNet2Wrap, settings, **given, stages_setup=TWO, out_channels=6,
                    dual_agg=True, agg_gnorm=True)
    yield published("two_without_head", "ReDimNet2B3", ReDimNet2Wrap, {"fbank": "redimnet", "waveform_normalize": True},
                    **{**given, "feat_type": "pt"}, stages_setup=TWO)


K33 = [(3, 3)]
TWO = [((2, 1), 1, 3, K33, None), ((1, 2), 1, 1, K33, 6), ((2, 2), 1, 0.75, K33, 12)]


def published(name, arch, kind, settings, **arguments):
    net = kind(**arguments)
    net.model_config = arguments
    return name, arch, net, None, settings


def resemblyzer():
    import tempfile

    import resemblyzer.voice_encoder as code

    code.model_hidden_size, code.model_embedding_size, code.model_num_layers = 48, 40, 2
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save({"model_state": {}}, file.name)
        net = code.VoiceEncoder("cpu", verbose=False, weights_fpath=file.name)

    def front_end(wave):
        padded = torch.nn.functional.pad(wave, (0, WINDOW * 160 - wave.shape[1]))
        return torch.from_numpy(code.audio.wav_to_mel_spectrogram(padded[0].numpy())[:WINDOW])[None]

    settings = {"fbank": "resemblyzer", "mean_normalize": False, "least_dbfs": -30.0}
    yield "small", "GE2ELSTM", net, front_end, settings, {"length": WINDOW}


def in_windows(net) -> list:
    """What Resemblyzer's own preparation (without the detection of speech) and windows make of waveforms."""
    import formula
    from resemblyzer.audio import normalize_volume

    found = []
    for samples, gain in LENGTHS:
        wave = gain * formula.waveform(samples)[0].numpy()
        wave = normalize_volume(wave, -30, increase_only=True).astype("float32")
        found.append([samples, gain, numbers(torch.from_numpy(net.embed_utterance(wave))[:NUMBERS])])
    return found


def published_resemblyzer() -> dict:
    """The embeddings of the network that the package ships, and the SHA-256 of its file."""
    import hashlib

    import resemblyzer

    file = Path(resemblyzer.__file__).with_name("pretrained.pt")
    return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "windows": in_windows(resemblyzer.VoiceEncoder("cpu", verbose=False))}


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for the packages NOT_NEEDED."""

    class Anything:
        def __init__(self, *args, **options):
            pass

        def __call__(self, *args, **options):
            return self

        def __getattr__(self, name):
            return StandIns.Anything()

    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in NOT_NEEDED else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = self._attribute
        return module

    def exec_module(self, module):
        pass

    @staticmethod
    def _attribute(name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {}) if name.endswith("Error") else StandIns.Anything()


def begins(net):
    """The module of a network that takes waveforms to which features (B, 1, F, T) are given."""
    return net.backbone if hasattr(net, "backbone") else net.conv1


def inside(net, wave):
    """What a network that takes waveforms makes of them first, as features (1, T, F)."""
    seen = []
    handle = begins(net).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(wave)
    handle.remove()
    return seen[0][:, 0].transpose(1, 2)


def embedding(net, feats, takes_waveforms):
    """(D,) of features; of a network that takes waveforms, by putting the features in place of its own."""
    if not takes_waveforms:
        out = net(feats)
        return (out[-1] if isinstance(out, tuple) else out).reshape(-1)
    handle = begins(net).register_forward_pre_hook(lambda module, inputs: feats.transpose(1, 2)[:, None])
    out = net(torch.zeros(1, 16000))
    handle.remove()
    return out.reshape(-1)


@torch.no_grad()
def fixture(origin, arch, net, front_end, settings, inputs=types.MappingProxyType({})) -> dict:
    import formula

    state = {name: tensor for name, tensor in net.eval().state_dict().items() if not name.startswith(("torchfb", "spec."))}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert formula.expand(formula.compact(shapes)) == shapes
    net.load_state_dict(formula.checkpoint(shapes, inputs.get("gain", 1.0)), strict=False)
    wave = formula.waveform()
    rows = front_end(wave) if front_end else inside(net, wave)
    num_mels = rows.shape[-1]
    feats = formula.features(num_mels, inputs.get("length", formula.FRAMES))
    told = {"model_config": net.model_config} if hasattr(net, "model_config") else {}
    return {
        "origin": origin, "arch": arch, **told, "front_end": {"num_mels": num_mels, **settings}, **inputs,
        "from_features": numbers(embedding(net, feats, not front_end)[:NUMBERS]),
        "from_waveform": numbers((embedding(net, rows, False) if front_end else net(wave).reshape(-1))[:NUMBERS]),
        "frames": rows.shape[1], "rows": {str(row): numbers(rows[0, row], 5) for row in ROWS},
        "layers": formula.compact(shapes),
        **({"windows": in_windows(net)} if origin == "resemblyzer" else {}),
    }


def numbers(tensor, digits: int = 7) -> list[float]:
    return [round(float(value), digits) for value in tensor]


def main() -> None:
    origin, checkout, *only = sys.argv[1:]
    sys.path.insert(0, checkout)
    sys.meta_path.append(StandIns())
    makers = {"wespeaker": wespeaker, "speechbrain": speechbrain, "3dspeaker": threedspeaker, "clova": clova,
              "redimnet": redimnet, "redimnet2": redimnet2, "resemblyzer": resemblyzer}
    toolkit = origin.replace("redimnet2", "redimnet")  # one toolkit here, two checkouts
    if origin == "resemblyzer":  # first, as the networks of its fixture change its sizes
        write(HERE / "published_resemblyzer.json", published_resemblyzer())
    for name, *parts in makers[origin]():
        if not only or name in only:
            write(HERE / "fixtures" / f"{toolkit}_{name}.json", fixture(toolkit, *parts))


def write(path: Path, found: dict) -> None:
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    path.write_text(f"{{\n{lines}\n}}\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
