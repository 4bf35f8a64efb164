"""The quantizer: the nearest level, straight-through gradients, any network."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svq.errors import UserError
from svq.nets import build
from svq.network import load_state
from svq.quant import QuantConfig, quantize_, quantized_layers
from svq.quant.api import average_bits, float_weight, quantizers
from svq.quant.quantizers import LevelQuantizer, make_quantizer


def quantizer_of(shape=(6, 5, 3, 3), bits=3, dtype=torch.float64, seed=0):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.02
    return weight, make_quantizer(weight, QuantConfig(per_channel=False), bits)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_weight_takes_the_nearest_level(bits, dtype):
    weight, quantizer = quantizer_of((40, 30, 3, 3), bits, dtype)
    with torch.no_grad():
        quantizer.alpha.mul_(0.83)
        out = quantizer(weight).numpy().ravel()
    book = quantizer.codebook().numpy()
    distances = np.abs(weight.numpy().ravel()[:, None].astype(np.float64) - book[None].astype(np.float64))
    chosen = np.abs(weight.numpy().ravel().astype(np.float64) - out.astype(np.float64))
    # In float32 a weight within rounding of the middle between two levels may go to either.
    np.testing.assert_allclose(chosen, distances.min(1), rtol=0, atol=1e-8 if dtype == torch.float32 else 1e-16)
    assert set(out) <= set(book) and len(book) == 2**bits
    np.testing.assert_array_equal(book[quantizer.codes(weight).numpy().ravel()], out)


def test_a_tie_takes_the_lower_level():
    levels = torch.tensor([-1.0, -0.5, 0.5, 1.0])
    w = torch.tensor([-1.5, 0.0, 1.5, 9.0])
    assert LevelQuantizer(w, 2, levels, 2.0).codes(w).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("factor", [0.7, 0.97, 1.6])  # not 1, where a weight may lie on the kink at alpha
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gradient_of_alpha_is_that_of_the_straight_through_surrogate(bits, factor):
    """Rounding in alpha * round(clip(w / alpha)) as an added constant; central differences in float64."""
    weight, quantizer = quantizer_of(bits=bits, seed=bits)
    with torch.no_grad():
        quantizer.alpha.mul_(factor)
    alpha = quantizer.alpha.detach()
    grad = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    quantizer(weight).mul(grad).sum().backward()
    rounding = quantizer(weight).detach() / alpha - (weight / alpha).clamp(-1, 1)

    def surrogate(a):
        return (grad * a * ((weight / a).clamp(-1, 1) + rounding)).sum()

    step = 1e-9
    numeric = (surrogate(alpha + step) - surrogate(alpha - step)) / (2 * step)
    if factor < 1:
        assert (weight.abs() > alpha).any()  # the clipped branch is part of the check
    torch.testing.assert_close(quantizer.alpha.grad, numeric, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_weight_passes_unchanged():
    weight, quantizer = quantizer_of()
    weight.requires_grad_()
    grad = torch.randn(weight.shape, dtype=torch.float64)
    quantizer(weight).backward(grad)
    assert torch.equal(weight.grad, grad)


def test_channels_last_weights_stay_so_and_quantize_the_same():
    weight, quantizer = quantizer_of((8, 4, 3, 3))
    turned = weight.to(memory_format=torch.channels_last)
    out = quantizer(turned)
    assert out.stride() == turned.stride() != weight.stride()
    assert torch.equal(out, quantizer(weight))
    assert torch.equal(quantizer.codes(turned), quantizer.codes(weight))
    factors = torch.randn(weight.shape, dtype=torch.float64)
    grads = [torch.autograd.grad((quantizer(w) * factors).sum(), quantizer.alpha)[0] for w in (turned, weight)]
    torch.testing.assert_close(*grads)
    assert quantizer(weight[:0]).shape == (0, 4, 3, 3)


@pytest.mark.parametrize("weight", [torch.full((3, 4), 0.5), torch.full((3, 4), -0.5), torch.zeros(3, 4), torch.ones(1, 1)])
@pytest.mark.parametrize("bits", [1, 4])
def test_equal_weights_come_out_as_they_are(weight, bits):
    assert torch.equal(make_quantizer(weight, QuantConfig(per_channel=False), bits)(weight), weight)


class Toy(nn.Module):
    """Conv1d, batch norm, linear layers with and without bias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(5, 8, 3)
        self.norm = nn.BatchNorm1d(8)
        self.inner = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x):
        return self.inner(F.relu(self.norm(self.conv(x))).mean(-1))


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy().eval()


def test_any_network_computes_with_the_nearest_levels(toy):
    reference, x = copy.deepcopy(toy), torch.randn(2, 5, 20)
    assert quantize_(toy, QuantConfig(bits=2, per_channel=False)) is toy
    layers = quantized_layers(toy)
    assert [layer.name for layer in layers] == ["conv", "inner.0", "inner.2"]
    for layer in layers:
        module = reference.get_submodule(layer.name)
        np.testing.assert_array_equal(layer.weight, module.weight.detach().numpy())
        assert layer.levels.shape == (4,) and (np.diff(layer.levels) > 0).all() and layer.bits == 2
        nearest = np.abs(layer.weight[..., None] - layer.levels).argmin(-1)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(layer.levels[nearest]))
    torch.testing.assert_close(toy(x), reference(x))


def test_biases_and_norms_stay_in_float_and_all_is_trained(toy):
    quantize_(toy, QuantConfig(bits=4, per_channel=False)).train()
    toy(torch.randn(4, 5, 20)).square().sum().backward()
    names = {name for name, p in toy.named_parameters() if p.grad is not None and p.grad.isfinite().all()}
    assert names == {f"{m}.parametrizations.weight.{p}" for m in ("conv", "inner.0", "inner.2")
                     for p in ("original", "0.alpha")} | {"conv.bias", "norm.weight", "norm.bias", "inner.2.bias"}


def test_quantizing_twice_is_refused_and_changes_nothing(toy):
    quantize_(toy, QuantConfig(bits=2, per_channel=False))
    before = copy.deepcopy(toy.state_dict())
    with pytest.raises(UserError, match="layer conv is quantized already"):
        quantize_(toy, QuantConfig(bits=4, per_channel=False))
    assert before.keys() == toy.state_dict().keys() and average_bits(toy) == 2


def test_state_dict_round_trip(toy):
    quantize_(toy, QuantConfig(bits=3, per_channel=False))
    with torch.no_grad():
        for _, module, quantizer in quantizers(toy):
            quantizer.alpha.mul_(1.1)
            float_weight(module).add_(0.01)
    torch.manual_seed(5)
    other = quantize_(Toy().eval(), QuantConfig(bits=3, per_channel=False))
    x = torch.randn(2, 5, 20)
    assert not torch.allclose(toy(x), other(x))
    load_state(other, toy.state_dict(), "here")
    assert torch.equal(toy(x), other(x))


def test_state_of_other_bits_does_not_load(toy):
    state = quantize_(copy.deepcopy(toy), QuantConfig(bits=3, per_channel=False)).state_dict()
    with pytest.raises(UserError, match=r"here: conv.parametrizations.weight.0.levels has shape \[8\].*\[4\]"):
        load_state(quantize_(toy, QuantConfig(bits=2, per_channel=False)), state, "here")


def test_average_bits_counts_weights():
    net = nn.Sequential(nn.Linear(10, 30), nn.Linear(10, 10))
    assert average_bits(net) == 32
    quantize_(net[0], QuantConfig(bits=4, per_channel=False))
    assert average_bits(net) == (300 * 4 + 100 * 32) / 400
    assert average_bits(nn.ReLU()) == 32


@pytest.mark.parametrize("bits", [2, 4])
def test_more_bits_fewer_errors_on_a_resnet(bits):
    torch.manual_seed(0)
    net = build("ResNet18", 80, 16, width=4).eval()
    feats = torch.randn(2, 40, 80)
    before = net(feats)
    errors = [1 - F.cosine_similarity(quantize_(copy.deepcopy(net), QuantConfig(bits=b, per_channel=False))(feats), before).min()
              for b in (bits, bits + 3)]
    assert errors[1] < errors[0]
