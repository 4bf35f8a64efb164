"""All quantization methods: what each computes, against slow renderings of its equations in float64."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.network import ModelConfig
from svq.quant import QuantConfig, quantize_
from svq.quant.api import float_weight, outer_update_, quantizers
from svq.quant.levels import apot_levels, kmeans_levels, pot_levels, uniform_levels
from svq.quant.quantizers import make_quantizer
from tests.quant.clusters import error

CONFIGS = [
    *(QuantConfig(method, bits) for method in ("kmqat", "uniform", "pot", "apot", "admm") for bits in (1, 2, 4, 7)),
    *(QuantConfig("kmqat", bits, rescaling="asymmetric") for bits in (1, 3)),
    QuantConfig("twn", 2), QuantConfig("static", 1), QuantConfig("adaptive", 1),
    *(QuantConfig("integer", bits, scheme=scheme) for bits in (2, 4, 7) for scheme in ("symmetric", "affine")),
]
CONFIGS = [dataclasses.replace(c, per_channel=per_channel) for per_channel in (False, True) for c in CONFIGS]


def name(config):
    return f"{config.method}{config.bits}{'a' * ('a' in config.rescaling[:1] + config.scheme[:1])}{'-channels' * config.per_channel}"


def configs(chosen):
    return pytest.mark.parametrize("config", [config for config in CONFIGS if chosen(config)], ids=name)


every = configs(lambda config: True)
LEARNED = ("kmqat", "uniform", "pot", "apot")


def random_weight(shape=(6, 5, 3, 3), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype) * 0.02 + 0.003


def of_codes(codebook, codes):
    """codebook[codes], or codebook[c, codes[c]]."""
    codes = codes.long()
    if codebook.dim() == 1:
        return codebook[codes]
    return codebook.gather(1, codes.flatten(1)).view_as(codes)


@given(st.sampled_from(CONFIGS), st.lists(st.integers(1, 7), min_size=2, max_size=4), st.integers(0, 2**20),
       st.sampled_from([torch.float32, torch.float64]), st.floats(-1.5, 1.5))
def test_eval_forward_is_the_codebook_at_the_codes(config, shape, seed, dtype, factor):
    weight = random_weight(shape, seed, dtype)
    quantizer = make_quantizer(weight, config, config.bits).eval()
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.mul_(factor)  # negative and zero scales too
        weight = weight + random_weight(shape, seed + 1, dtype)
        codebook, codes, out = quantizer.codebook(), quantizer.codes(weight), quantizer(weight)
    assert codes.dtype == torch.uint8 and codes.shape == weight.shape and out.dtype == dtype
    assert codebook.dim() == 1 + config.per_channel and codebook.shape[-1] <= 2**config.bits
    assert (codebook.diff(dim=-1) >= 0).all() and int(codes.max()) < codebook.shape[-1]
    assert torch.equal(of_codes(codebook, codes), out)
    nearest = (weight[..., None] - codebook.view(-1, *[1] * (weight.dim() - 1), codebook.shape[-1])).abs().amin(-1)
    if config.method != "twn":  # whose threshold is not halfway
        torch.testing.assert_close((weight - out).abs(), nearest, rtol=1e-5, atol=1e-8)


@every
def test_number_of_levels(config):
    quantizer = make_quantizer(random_weight(), config, config.bits)
    full = config.method == "kmqat" or config.bits == 1 or config.scheme == "affine"
    assert quantizer.codebook().shape[-1] == 2**config.bits - (not full) and quantizer.bits == config.bits
    assert (quantizer.codebook().diff(dim=-1) > 0).all()


@configs(lambda config: config.per_channel)
def test_a_channel_is_quantized_as_if_alone(config):
    # So few weights that the best k-means levels are found both for one row and for many.
    weight, alone = random_weight((6, 2, 3, 3)), dataclasses.replace(config, per_channel=False)
    together = make_quantizer(weight, config, config.bits).eval()(weight)
    for channel, out in zip(weight, together):
        torch.testing.assert_close(make_quantizer(channel[None], alone, config.bits).eval()(channel[None])[0], out)


@configs(lambda config: config.method not in ("static", "admm"))  # tested on their own
def test_gradient_of_the_weight_passes_straight_through(config):
    weight = random_weight().requires_grad_()
    grad = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    quantizer = make_quantizer(weight, config, config.bits)
    quantizer(weight).backward(grad)
    assert torch.equal(weight.grad, grad)
    assert all(p.grad is not None and p.grad.shape == p.shape for p in quantizer.parameters())


def numeric_gradient(function, parameter, step):
    """Central differences of a scalar function over each element of a parameter."""
    result = torch.zeros_like(parameter)
    for index in np.ndindex(*parameter.shape):
        ends = []
        for sign in (1, -1):
            moved = parameter.detach().clone()
            moved[index] += sign * step
            ends.append(function(moved))
        result[index] = (ends[0] - ends[1]) / (2 * step)
    return result


def broadcast(values, weight):
    return values.view(-1, *[1] * (weight.dim() - 1)) if values.dim() else values


@configs(lambda config: config.method in LEARNED)
def test_gradients_of_alpha_and_centre_are_those_of_the_surrogate(config):
    """alpha * (clip((w - centre) / alpha) + rounding) + centre with a frozen rounding."""
    weight = random_weight()
    quantizer = make_quantizer(weight, config, config.bits)
    with torch.no_grad():
        quantizer.alpha.mul_(0.7)  # away from the kinks, and with weights that are clipped
    grad = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    quantizer(weight).mul(grad).sum().backward()
    alpha = quantizer.alpha.detach()
    centre = torch.zeros_like(alpha) if quantizer.centre is None else quantizer.centre.detach()

    def soft(a, c):
        return ((weight - broadcast(c, weight)) / broadcast(a, weight)).clamp(-1, 1)

    code = (quantizer(weight).detach() - broadcast(centre, weight)) / broadcast(alpha, weight)
    rounding = code - soft(alpha, centre)
    assert (soft(alpha, centre).abs() == 1).any()

    def surrogate(a, c):
        return (grad * (broadcast(a, weight) * (soft(a, c) + rounding) + broadcast(c, weight))).sum()

    numeric = numeric_gradient(lambda a: surrogate(a, centre), alpha, 1e-9)
    torch.testing.assert_close(quantizer.alpha.grad, numeric, rtol=1e-4, atol=1e-5)
    if quantizer.centre is not None:
        numeric = numeric_gradient(lambda c: surrogate(alpha, c), centre, 1e-9)
        torch.testing.assert_close(quantizer.centre.grad, numeric, rtol=1e-4, atol=1e-5)


@configs(lambda config: config.method in LEARNED)
def test_a_negative_alpha_counts_by_its_magnitude_and_is_trained_on(config):
    weight = random_weight()
    ahead = make_quantizer(weight, config, config.bits)
    behind = copy.deepcopy(ahead)
    with torch.no_grad():
        behind.alpha.neg_()
    for quantizer in (ahead, behind):
        quantizer(weight).square().sum().backward()
    assert torch.equal(ahead.codebook(), behind.codebook()) and torch.equal(ahead(weight), behind(weight))
    assert torch.equal(ahead.alpha.grad, -behind.alpha.grad)
    with torch.no_grad():
        ahead.alpha.zero_()
    assert ahead(weight).isfinite().all()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("method, levels", [("uniform", uniform_levels), ("pot", pot_levels), ("apot", apot_levels)])
def test_fixed_levels_times_alpha(method, levels, bits, per_channel):
    config = QuantConfig(method, bits, per_channel=per_channel)
    quantizer = make_quantizer(random_weight(), config, bits)
    alpha = quantizer.alpha.detach()
    torch.testing.assert_close(quantizer.codebook(), alpha[..., None] * torch.from_numpy(levels(bits)))
    assert alpha.shape == ((6,) if per_channel else ())


KMQAT_STARTS = [*itertools.product(["lloyd", "width", "count"], [None, 0.8], range(1, 9), [False, True],
                                   ["symmetric", "asymmetric"])]


def kmqat_start(partition, retention, bits, per_channel, rescaling):
    """Weights, KMQAT's quantizer for them, and its levels and centre by the paper."""
    weight = random_weight((6, 32, 3, 3))
    config = QuantConfig("kmqat", bits, partition, retention, rescaling, per_channel)
    levels = kmeans_levels(weight.numpy(), bits, partition, retention, per_channel)
    middle = (levels[..., -1:] + levels[..., :1]) / 2
    centre = middle if rescaling == "asymmetric" else np.zeros_like(middle)
    return weight, make_quantizer(weight, config, bits), levels, centre


@pytest.mark.parametrize("partition, retention, bits, per_channel, rescaling", KMQAT_STARTS)
def test_kmqat_starts_from_the_levels_of_its_weights(partition, retention, bits, per_channel, rescaling):
    """About their centre, they differ from these levels by a factor: 1 where these are the means of all weights."""
    start = partition, retention, bits, per_channel, rescaling
    _, quantizer, levels, centre = kmqat_start(*start)
    found = quantizer.codebook().numpy() - centre
    factor = np.abs(found).max(-1, keepdims=True) / np.abs(levels - centre).max(-1, keepdims=True)
    np.testing.assert_allclose(found, factor * (levels - centre), rtol=1e-9, atol=1e-12)
    if start[:2] == ("lloyd", None):
        np.testing.assert_allclose(factor, 1, rtol=1e-12)
    assert (quantizer.levels.abs().amax(-1) == 1).all()
    if rescaling == "asymmetric":
        np.testing.assert_allclose(quantizer.centre.detach().numpy(), centre[..., 0], rtol=1e-12)
        assert (quantizer.levels[..., 0] == -1).all() and (quantizer.levels[..., -1] == 1).all()


@pytest.mark.parametrize("partition, retention, bits, per_channel, rescaling", KMQAT_STARTS)
def test_no_other_scale_of_these_levels_is_better(partition, retention, bits, per_channel, rescaling):
    """Not that of the paper, and with few levels none of 300 by much; for its codes it is that of least squares."""
    weight, quantizer, levels, centre = kmqat_start(partition, retention, bits, per_channel, rescaling)
    rows, books = len(levels) if per_channel else 1, quantizer.codebook().numpy()
    weights, shapes, books = (x.reshape(rows, -1) for x in (weight.numpy(), levels - centre, books))
    for w, shape, middle, book in zip(weights, shapes, centre.ravel(), books):
        w = w - middle
        values = (book - middle)[np.abs(w[:, None] - (book - middle)).argmin(1)]
        assert (w * values).sum() == pytest.approx((values**2).sum(), rel=1e-2)
        by_paper, *tried = (error(w, scale * shape) for scale in [1.0, *np.geomspace(0.3, 3, 300 if bits <= 4 else 1)])
        assert error(w, book - middle) <= by_paper * (1 + 1e-9) + 1e-12
        assert bits > 4 or error(w, book - middle) <= 1.03 * min(tried)


def test_ternary_weights_are_those_of_the_paper_at_every_step_of_training():
    quantizer = make_quantizer(random_weight(), QuantConfig("twn", 2, per_channel=False), 2)
    for seed in (1, 2):
        weight = random_weight(seed=seed) * seed
        w = weight.numpy().ravel()
        threshold = 0.7 * sum(abs(x) for x in w) / w.size
        above = [abs(x) for x in w if abs(x) > threshold]
        alpha = sum(above) / len(above)
        expected = [alpha if x > threshold else -alpha if x < -threshold else 0.0 for x in w]
        quantizer.train()
        np.testing.assert_allclose(quantizer(weight).numpy().ravel(), expected, rtol=1e-12)
        quantizer.eval()
        kept = quantizer.codebook()
        quantizer(weight * 2)
        assert torch.equal(quantizer.codebook(), kept)  # as after the last step of training
        np.testing.assert_allclose(kept.numpy(), [-alpha, 0, alpha], rtol=1e-12)
    assert not list(quantizer.parameters())


def test_a_ternary_weight_at_the_threshold_is_zero():
    weight = torch.tensor([[-7.0, 7.0, -20.0, 6.0]])  # 0.7 times the mean magnitude, 10, is 7
    quantizer = make_quantizer(weight, QuantConfig("twn", 2, per_channel=False), 2)
    assert quantizer(weight).tolist() == [[0, 0, -20, 0]]


def static_chain(weight, alpha, rounding):
    """Eqs. 10 to 12 with `rounding` added in place of the rounding."""
    regular = weight.numel() / weight.abs().sum() * weight
    return alpha * (((regular.clamp(-1, 1) + 1) * 0.5 + rounding) * 2 - 1)


def test_static_quantizer_computes_and_differentiates_equations_10_to_12():
    weight = random_weight((3, 2, 2, 2)).requires_grad_()
    quantizer = make_quantizer(weight, QuantConfig("static", 1, per_channel=False), 1)
    alpha = quantizer.alpha.detach().clone()
    assert float(alpha) == pytest.approx(float(weight.detach().abs().mean()))
    with torch.no_grad():
        unit = (weight / weight.abs().mean()).clamp(-1, 1)
        rounding = ((unit + 1) * 0.5).round() - (unit + 1) * 0.5
        expected = static_chain(weight, alpha, rounding)
    grad = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    out = quantizer(weight)
    torch.testing.assert_close(out, expected)
    out.backward(grad)
    with torch.no_grad():
        by_weight = numeric_gradient(lambda w: (grad * static_chain(w, alpha, rounding)).sum(), weight, 1e-9)
        by_alpha = numeric_gradient(lambda a: (grad * static_chain(weight, a, rounding)).sum(), alpha, 1e-6)
    torch.testing.assert_close(weight.grad, by_weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(quantizer.alpha.grad, by_alpha, rtol=1e-6, atol=1e-8)
    clipped = unit.abs() == 1
    assert clipped.any() and not torch.equal(weight.grad, grad)


def test_static_quantizer_of_weights_that_are_all_zero_is_finite():
    weight = torch.zeros(2, 3, requires_grad=True)
    quantizer = make_quantizer(weight, QuantConfig("static", 1, per_channel=False), 1)
    quantizer(weight).sum().backward()
    assert quantizer(weight).isfinite().all() and weight.grad.isfinite().all()


@pytest.mark.parametrize("per_channel", [False, True])
def test_adaptive_quantizer_computes_and_differentiates_equations_13_to_16(per_channel):
    weight = random_weight()
    quantizer = make_quantizer(weight, QuantConfig("adaptive", 1, per_channel=per_channel), 1)
    axis = (1, 2, 3) if per_channel else None
    np.testing.assert_allclose(quantizer.beta.detach().numpy(), weight.numpy().mean(axis), rtol=1e-12)
    np.testing.assert_allclose(quantizer.alpha.detach().numpy(), weight.numpy().std(axis), rtol=1e-12)
    with torch.no_grad():
        quantizer.beta.add_(0.004)
    grad = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss(alpha, beta):
        a, b = broadcast(alpha, weight), broadcast(beta, weight)
        return (grad * torch.where(weight > b, b + a, b - a)).sum()

    quantizer(weight).backward(grad)
    alpha, beta = quantizer.alpha.detach(), quantizer.beta.detach()
    torch.testing.assert_close((quantizer(weight) * grad).sum(), loss(alpha, beta))
    by_alpha = numeric_gradient(lambda a: loss(a, beta), alpha, 1e-6)
    by_beta = numeric_gradient(lambda b: loss(alpha, b), beta, 1e-8)
    torch.testing.assert_close(quantizer.alpha.grad, by_alpha, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(quantizer.beta.grad, by_beta, rtol=1e-4, atol=1e-6)


@every
def test_equal_weights_and_zeros_are_finite(config):
    for value in (0.0, 0.5, -0.5):
        weight = torch.full((3, 4), value, requires_grad=True)
        quantizer = make_quantizer(weight, config, config.bits)
        for mode in (True, False):
            out = quantizer.train(mode)(weight)
            assert out.isfinite().all()
            out.sum().backward()
        if config.method in ("kmqat", "adaptive", "twn"):
            torch.testing.assert_close(out, weight)
        assert all(p.grad.isfinite().all() for p in [weight, *quantizer.parameters()])


@configs(lambda config: config.bits <= 2 and (config.bits == 2 or config.method not in LEARNED) or config.bits == 3)
def test_a_saved_model_comes_back(config, tmp_path):
    torch.manual_seed(0)
    model = ModelConfig("ResNet18", {"width": 4}, 16, FrontEndConfig(num_mels=24), config)
    net = quantize_(model.build(), config)
    with torch.no_grad():
        for _, module, quantizer in quantizers(net):
            float_weight(module).mul_(1.3)
            for parameter in quantizer.parameters():
                parameter.mul_(1.1)
    feats = torch.randn(2, 40, 24)
    net(feats)
    outer_update_(net)
    net.eval()
    save_model(tmp_path, net, model)
    other, read = load_model(tmp_path)
    assert read == model and torch.equal(net(feats), other(feats))
    save_model(tmp_path / "again", other, read)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@every
def test_the_same_weights_give_the_same_quantizer_in_any_layout(config):
    weight = random_weight((8, 4, 3, 3), dtype=torch.float32)
    turned = weight.to(memory_format=torch.channels_last)
    quantizer, other = (make_quantizer(w, config, config.bits) for w in (weight, turned))
    for mode in (True, False):
        out, same = quantizer.train(mode)(weight), other.train(mode)(turned)
        assert same.stride() == turned.stride() and torch.allclose(out, same, rtol=1e-5)
    again = make_quantizer(weight, config, config.bits).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in quantizer.state_dict().items())


@pytest.mark.parametrize("binary", ["static", "adaptive"])
def test_layers_of_one_bit_may_have_a_binary_quantizer(binary):
    config = QuantConfig(binary=binary, layers={"0": 1, "1": 3, "2": 32})
    net = quantize_(torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(4))), config)
    found = {key: type(quantizer).__name__ for key, _, quantizer in quantizers(net)}
    assert found == {"0": f"{binary.title()}BinaryQuantizer", "1": "LevelQuantizer", "3": "LevelQuantizer"}


def test_layers_may_be_named_by_patterns():
    config = QuantConfig(bits=2, layers={"layers.*conv1": 3, "*.shortcut.*": 8, "layers.[01].*": 32, "layers.0.conv1": 4})
    expected = {"conv1": 2, "layers.0.conv1": 4, "layers.1.conv1": 32, "layers.1.conv2": 32, "layers.2.shortcut.0": 8,
                "layers.2.conv1": 3, "layers.2.conv2": 2, "embedding": 2}  # its own name first, then the last pattern
    assert {layer: config.bits_of(layer) for layer in expected} == expected
    net = ModelConfig("ResNet18", {"width": 2}, 8).build()
    bits = {name: quantizer.bits for name, _, quantizer in quantizers(quantize_(net, config))}
    assert "layers.1.conv1" not in bits and all(bits.get(name, 32) == want for name, want in expected.items())
    with pytest.raises(UserError, match=r"no layer layers.\[89\].\* to quantize; it has conv1, layers.0.conv1"):
        quantize_(ModelConfig("ResNet18", {"width": 2}, 8).build(), QuantConfig(layers={"layers.[89].*": 4}))


def test_a_quantizer_is_in_the_mode_of_its_layer():
    net = quantize_(torch.nn.Sequential(torch.nn.Linear(8, 8)).eval(), QuantConfig("admm", 2, per_channel=False))
    assert len(net[0].weight.unique()) <= 3
    assert len(net.train()[0].weight.unique()) > 3


@pytest.mark.parametrize("settings, words", [
    (dict(method="twn"), "method twn quantizes to 2 bits, not 4; set bits: 2"),
    (dict(method="static", bits=2), "set bits: 1"),
    (dict(method="adaptive"), "set bits: 1"),
    (dict(method="twn", bits=2, layers={"conv": 4}), "conv has 4 bits; method twn"),
    (dict(method="static", bits=1, binary="adaptive"), "leave out binary"),
    (dict(method="uniform", rescaling="asymmetric"), "rescaling is a setting of method kmqat"),
    (dict(method="admm", retention=1.0), "retention is a setting of method kmqat"),
    (dict(method="admm", partition="width"), "partition is a setting of method kmqat"),
    (dict(partition="even"), "partition is 'even'; it must be one of lloyd, width, count"),
    (dict(retention=0.0), "retention is 0.0; it must be above 0 and at most 1"),
    (dict(rho=0.1), "rho is a setting of method admm"),
    (dict(method="admm", rho=0.0), "rho is 0.0"),
    (dict(bits=9), "bits is 9"),
    (dict(layers={"conv": 9}), "conv has 9 bits"),
    (dict(layers={0: 4}), "layers: 0 is no name of a layer"),
    (dict(scheme="affine"), "scheme is a setting of method integer; leave it out for kmqat"),
    (dict(method="uniform", range="kl"), "range is a setting of method integer"),
    (dict(percentile=99.0), "percentile is a setting of method integer"),
    (dict(method="integer", percentile=99.0), "percentile is a setting of range percentile; leave it out for mse"),
    (dict(method="integer", range="percentile", percentile=50.0), "percentile is 50.0; it must be above 50"),
    (dict(method="integer", bits=1), "method integer quantizes to 2 bits or more"),
    (dict(method="integer", layers={"conv": 1}), "conv has 1 bit; method integer"),
    (dict(method="integer", retention=1.0), "retention is a setting of method kmqat"),
])
def test_settings_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        QuantConfig(**settings)
    QuantConfig(method="static", bits=1, layers={"conv": 1, "other": 32})
