"""Model folders: what was saved comes back, and what does not fit is named."""

import pytest
import torch

from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.network import ModelConfig, load_tensors, save_tensors
from svq.quant import QuantConfig, quantize_


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    config = ModelConfig("ResNet18", {"width": 4}, 16, FrontEndConfig(num_mels=40))
    net = config.build().eval()
    save_model(tmp_path / "a model", net, config)
    return tmp_path / "a model", net, config


def test_float_model_round_trip(saved):
    folder, net, config = saved
    other, read = load_model(folder)
    feats = torch.randn(2, 50, 40)
    assert read == config and not other.training
    assert torch.equal(net(feats), other(feats))


def test_quantized_model_round_trip(tmp_path, saved):
    _, net, config = saved
    quant = QuantConfig(bits=2, retention=0.8)
    config = ModelConfig(config.arch, config.net, config.embed_dim, config.front_end, quant)
    save_model(tmp_path / "q", quantize_(net, quant), config)
    other, read = load_model(tmp_path / "q")
    feats = torch.randn(2, 50, 40)
    assert read == config and torch.equal(net(feats), other(feats))


def test_same_model_same_bytes(tmp_path, saved):
    folder, net, config = saved
    save_model(tmp_path / "again", net, config)
    for name in ("model.safetensors", "config.yaml"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def wrong(folder, words):
    with pytest.raises(UserError) as error:
        load_model(folder)
    assert words in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def test_what_does_not_fit_is_named(tmp_path, saved):
    folder, net, config = saved
    wrong(tmp_path / "none", "neither a model folder nor a .svq file")
    tensors = load_tensors(folder / "model.safetensors")
    weights = folder / "model.safetensors"
    save_tensors(weights, {name: t for name, t in tensors.items() if name != "embedding.bias"})
    wrong(folder, "missing ['embedding.bias']")
    save_tensors(weights, {**tensors, "extra": torch.zeros(1)})
    wrong(folder, "unexpected ['extra']")
    save_tensors(weights, {**tensors, "embedding.bias": torch.zeros(17)})
    wrong(folder, "embedding.bias has shape [17], the config asks for [16]")
    weights.write_bytes(weights.read_bytes()[:5000])
    wrong(folder, "not a complete safetensors file")
    weights.unlink()
    wrong(folder, "no such file")
    (folder / "config.yaml").write_text("archh: ResNet18")
    wrong(folder, "unknown key 'archh'; did you mean 'arch'?")
    (folder / "config.yaml").unlink()
    wrong(folder, "no such config file")
