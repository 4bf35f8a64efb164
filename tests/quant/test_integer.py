"""Integer grids: ranges against slow searches, values against torch's own, gradients against differences, files."""

import dataclasses
import json
import os

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.bin import inspect
from svq.bits.allocation import layer_tables
from svq.models import load_model
from svq.network import ModelConfig, save_tensors
from svq.pack.file import load_packed, packed_bytes, save_packed
from svq.pack.format import digest
from svq.pack.reading import read_packed
from svq.quant import QuantConfig, quantize_
from svq.quant.api import quantizers
from svq.quant.integer import fit_grid, grid_size, kl_threshold
from svq.quant.quantizers import make_quantizer
from tests.helpers import run_worker

SCHEMES, RULES = ("symmetric", "affine"), ("minmax", "percentile", "mse", "kl")
both, rules = pytest.mark.parametrize("scheme", SCHEMES), pytest.mark.parametrize("rule", RULES)
some_bits = pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])


def weights(kind, shape=(6, 40, 3), seed=0):
    rng = np.random.default_rng(seed)
    values = {"normal": rng.normal(0.002, 0.03, shape), "heavy": 0.01 * rng.standard_t(2, shape),
              "even": rng.uniform(-0.02, 0.05, shape), "skewed": 0.02 * rng.exponential(size=shape) - 0.005,
              "positive": rng.uniform(0.01, 0.03, shape)}[kind]
    return torch.from_numpy(values).float()


KINDS = ("normal", "heavy", "even", "skewed", "positive")


def integer(weight, bits=8, scheme="symmetric", rule="mse", per_channel=False, **more):
    config = QuantConfig("integer", bits, scheme=scheme, range=rule, per_channel=per_channel, **more)
    return make_quantizer(weight, config, bits)


@both
@some_bits
@pytest.mark.parametrize("per_channel", [False, True])
def test_values_are_those_of_torch(scheme, bits, per_channel):
    weight = weights("heavy")
    quantizer = integer(weight, bits, scheme, "percentile", per_channel, percentile=99.0)
    out, scale = quantizer(weight).detach(), quantizer.scale().detach()
    zero = quantizer.zero() - (grid_size(bits, scheme) // 2 if scheme == "symmetric" else 0)
    ends = (-(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1) if scheme == "symmetric" else (0, 2**bits - 1)
    if per_channel:
        expected = torch.fake_quantize_per_channel_affine(weight, scale, zero.int(), 0, *ends)
    else:
        expected = torch.fake_quantize_per_tensor_affine(weight, float(scale), int(zero), *ends)
    wide = scale.view(-1, 1, 1) if per_channel else scale
    ties = ((weight / wide).frac().abs() - 0.5).abs() < 1e-4  # torch multiplies by the inverse
    torch.testing.assert_close(out[~ties], expected[~ties], rtol=1e-6, atol=1e-9)
    assert ties.float().mean() < 0.01 and (weight.abs() > wide * 2**bits / 2).any()
    assert 0 in quantizer.codebook() and not integer(torch.zeros(3, 4), bits, scheme)(torch.zeros(3, 4)).any()


@both
@pytest.mark.parametrize("kind", KINDS)
def test_ranges_of_all_weights_and_of_most_of_them(scheme, kind):
    weight = weights(kind)
    values = weight.numpy().ravel().astype(np.float64)
    for rule, percent in (("minmax", 100), ("percentile", 98)):
        scale, zero = fit_grid(weight, 8, scheme, rule, percent)
        if scheme == "symmetric":
            assert float(scale) * 127 == pytest.approx(scipy.stats.scoreatpercentile(np.abs(values), percent), rel=1e-5)
            assert int(zero) == 127
        else:
            left = (100 - percent) / 2
            low, high = (scipy.stats.scoreatpercentile(values, p) for p in (left, 100 - left))
            low, high = min(low, 0), max(high, 0)
            assert float(scale) * 255 == pytest.approx(high - low, rel=1e-5)
            assert int(zero) == pytest.approx(-low / float(scale), abs=0.5 + 1e-3)


def squared_error(values, scale, zero, count):
    q = np.clip(np.round(values / scale), -zero, count - 1 - zero)
    return ((values - scale * q) ** 2).sum()


@both
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_least_squared_error_comes_near_to_that_of_trying_everything(scheme, bits, kind):
    weight = weights(kind, (300,))
    values, count = weight.double().numpy(), grid_size(bits, scheme)
    zeros = [count // 2] if scheme == "symmetric" else np.unique(np.linspace(0, count - 1, 17).round())
    widest = 2 * np.abs(values).max() / (count - 1 if scheme == "affine" else count // 2 * 2)
    scales = widest * np.geomspace(0.03, 2 if bits == 2 else 1.02, 150)
    best = min(squared_error(values, s, z, count) for s in scales for z in zeros)
    scale, zero = fit_grid(weight, bits, scheme, "mse")
    found = squared_error(values, float(scale), float(zero), count)
    minmax = squared_error(values, *map(float, fit_grid(weight, bits, scheme, "minmax")), count)
    assert found < 1.06 * best and found <= minmax * 1.001


def slow_kl(magnitudes, levels, bins, tries):
    """As the talk describes it, one threshold and one group at a time."""
    largest = magnitudes.max()
    counts, _ = np.histogram(magnitudes, bins, (0, largest))
    found = []
    for i in np.unique(np.linspace(levels, bins, tries).round().astype(int)):
        p = counts[:i].astype(float)
        p[-1] += counts[i:].sum()
        q = np.zeros(i)
        for group in np.array_split(np.arange(i), [levels_edge * i // levels for levels_edge in range(1, levels)]):
            filled = group[p[group] > 0]
            if len(filled):
                q[filled] = counts[group].sum() / len(filled)
        found.append((scipy.stats.entropy(p, q) if q.any() else np.inf, -i))
    return -min(found)[1] / bins * largest


@pytest.mark.parametrize("levels, bins", [(8, 128), (2, 64), (16, 256)])
@pytest.mark.parametrize("kind", KINDS)
def test_kl_threshold_is_that_of_the_slow_rendering(kind, levels, bins):
    rows = weights(kind, (3, 4000), seed=levels).abs()
    found = kl_threshold(rows, levels, bins, tries=20)
    assert found.tolist() == pytest.approx([slow_kl(row.numpy(), levels, bins, 20) for row in rows.double()], rel=1e-6)


@both
@rules
def test_a_channel_has_the_range_of_its_own_weights(scheme, rule):
    weight = weights("heavy")
    together = fit_grid(weight, 4, scheme, rule, per_channel=True)
    for i, channel in enumerate(weight):
        for value, alone in zip(together, fit_grid(channel, 4, scheme, rule)):
            torch.testing.assert_close(value[i], alone)


@both
@rules
@pytest.mark.parametrize("factor", [0.0, 1e-42, 1e-30, 1e30])
def test_weights_of_any_size_stay_finite(scheme, rule, factor):
    weight = (weights("normal") * factor).requires_grad_()
    for per_channel in (False, True):
        quantizer = integer(weight, 4, scheme, rule, per_channel)
        quantizer(weight).sum().backward()
        assert quantizer(weight).isfinite().all() and quantizer.alpha.grad.isfinite().all()
        assert quantizer.codebook().isfinite().all() and (quantizer.scale() > 0).all()


@both
@pytest.mark.parametrize("per_channel", [False, True])
def test_gradient_of_the_scale_is_that_of_learned_step_sizes(scheme, per_channel):
    weight = weights("heavy", (4, 50)).double().requires_grad_()
    quantizer = integer(weight, 4, scheme, "percentile", per_channel, percentile=90.0)
    grad = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    quantizer(weight).backward(grad)
    assert torch.equal(weight.grad, grad)
    scale, zero = quantizer.scale().detach(), quantizer.zero()
    w, low = weight.detach().numpy(), -zero.numpy()
    s, low = (x.reshape(-1, 1) if per_channel else x for x in (scale.numpy(), low))
    v = w / s
    high = low + quantizer.count - 1
    slope = np.where(v <= low, low, np.where(v >= high, high, np.round(v) - v))
    by_scale = (grad.numpy() * slope).sum(1 if per_channel else None)
    np.testing.assert_allclose(quantizer.alpha.grad.numpy() * (quantizer.count - 1) / 2, by_scale, rtol=1e-9)
    assert ((v < low) | (v > high)).any()


def trained(bits=4, width=4, per_channel=False, **quant):
    torch.manual_seed(0)
    config = ModelConfig("ResNet18", {"width": width}, 16, quant=QuantConfig("integer", bits, per_channel=per_channel, **quant))
    net = quantize_(config.build().eval(), config.quant)
    with torch.no_grad():
        for _, _, quantizer in quantizers(net):
            quantizer.alpha.mul_(-0.9)  # a scale that training took below zero
    return net, config


@pytest.mark.parametrize("per_channel", [False, True])
@both
@pytest.mark.parametrize("bits, entropy", [(2, False), (3, True), (8, False), (8, True)])
def test_packed_weights_are_the_quantized_ones_to_the_bit(tmp_path, bits, scheme, per_channel, entropy):
    net, config = trained(bits, scheme=scheme, per_channel=per_channel)
    size = save_packed(tmp_path / "a.svq", net, config, None, entropy)
    expected = packed_bytes(net, config.quant, config)
    assert size <= expected + 100 if entropy else size == expected
    other, read = load_model(tmp_path / "a.svq")
    assert read == config
    for name, module, _ in quantizers(net):
        assert torch.equal(other.get_submodule(name).weight, module.weight), name
    tensors = read_packed(tmp_path / "a.svq")[1]
    channels = sum(module.weight.shape[0] if per_channel else 1 for _, module, _ in quantizers(net))
    assert tensors["scales"].shape == (channels,) and ("zeros" in tensors) == (scheme == "affine")
    assert "codebooks" not in tensors and "scheme" in read_packed(tmp_path / "a.svq")[0]["model"]["quant"]


@settings(max_examples=15)
@given(st.dictionaries(st.integers(0, 20), st.sampled_from([1, 2, 5, 8, 32])), st.sampled_from(SCHEMES), st.booleans())
def test_size_is_told_beforehand_for_any_mixture(tmp_path_factory, widths, scheme, per_channel):
    config = ModelConfig("ResNet18", {"width": 3}, 8)
    net = config.build()
    names = [name for name, module in net.named_modules() if hasattr(module, "weight") and module.weight.dim() > 1]
    quant = QuantConfig("integer", 4, scheme=scheme, per_channel=per_channel, range="minmax", binary="adaptive",
                        layers={names[i]: bits for i, bits in widths.items()})
    config = dataclasses.replace(config, quant=quant)
    path = tmp_path_factory.mktemp("sizes") / "a.svq"
    expected = packed_bytes(net, quant, config)
    assert save_packed(path, quantize_(net, quant), config) == expected == os.path.getsize(path)
    load_packed(path)


def test_grids_take_less_room_than_levels_and_allocation_knows(tmp_path):
    weight = weights("normal", (32, 16, 3))
    for scheme, own in (("symmetric", 4), ("affine", 5)):
        for per_channel, grids in ((False, 1), (True, 32)):
            quant = QuantConfig("integer", scheme=scheme, per_channel=per_channel)
            errors, sizes = layer_tables(weight, quant, (2, 8, 32))
            assert sizes == [weight.numel() * bits // 8 + own * grids for bits in (2, 8)] + [weight.numel() * 4]
            assert errors[0] > errors[1] > errors[2] == 0


def test_files_of_version_2_are_read(tmp_path):
    torch.manual_seed(0)
    config = ModelConfig("ResNet18", {"width": 4}, 16, quant=QuantConfig("kmqat", 3, per_channel=True))
    net = quantize_(config.build().eval(), config.quant)
    save_packed(tmp_path / "new.svq", net, config)
    about, tensors = read_packed(tmp_path / "new.svq")
    assert about["format"] == 3 and all(len(row) == 5 for row in about["layers"])
    about["format"] = 2
    about["model"]["quant"] |= {"rho": 0.01}  # version 2 names the settings of other quantizers, too
    about["digest"] = digest(about, tensors)
    save_tensors(tmp_path / "old.svq", tensors, {"svq": json.dumps(about)})
    (new, one), (old, other) = load_packed(tmp_path / "new.svq"), load_packed(tmp_path / "old.svq")
    assert one == other and all(torch.equal(a, b) for a, b in zip(new.state_dict().values(), old.state_dict().values()))


def test_inspect_shows_grids(tmp_path, capsys):
    net, config = trained(8, scheme="affine")
    save_packed(tmp_path / "a.svq", net, config)
    run_worker(inspect.main, tmp_path / "a.svq")
    out = capsys.readouterr().out
    grid = net.conv1.parametrizations.weight[0]
    scale, zero = grid.scale().item(), int(grid.zero())
    line = next(line for line in out.splitlines() if line.startswith("conv1"))
    assert line.endswith(f"integer grid of 256 levels, scale {scale:.4g}, zero {zero}")
    assert sum(int(part.split()[-1]) for part in out.splitlines()[-1].removeprefix("bytes: ").split(",")) \
        == os.path.getsize(tmp_path / "a.svq")
    net, config = trained(4, per_channel=True)
    save_packed(tmp_path / "b.svq", net, config)
    run_worker(inspect.main, tmp_path / "b.svq")
    assert "4 integer grids of 15 levels, scale " in capsys.readouterr().out
