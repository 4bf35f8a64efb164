"""Poolings against their formulas in float64."""

import numpy as np
import pytest
import torch

from svq.errors import UserError
from svq.nets import build
from svq.nets.pooling import (POOLINGS, AttentiveStatisticsPooling, LearnableDictionaryEncoding, MultiHeadPooling,
                              StatisticsPooling, full_precision, make_pooling)

FORMS = {
    "wespeaker": {},
    "wespeaker without context": {"global_context": False},
    "speechbrain": {"hidden_norm": True, "unbiased": False, "variance_floor": 1e-12},
    "speechbrain without context": {"hidden_norm": True, "unbiased": False, "variance_floor": 1e-12,
                                    "global_context": False},
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def attentive(form: str, channels: int = 5) -> AttentiveStatisticsPooling:
    torch.manual_seed(0)
    pool = AttentiveStatisticsPooling(channels, 4, **FORMS[form])
    if pool.bn is not None:
        pool.bn.running_mean.uniform_()
        pool.bn.running_var.uniform_(0.5, 2)
    return pool.eval()


def numpy_attentive(pool, x):
    """ECAPA-TDNN, eqs. 1 to 4, in float64; x (B, C, T)."""
    w = {name: t.double().numpy() for name, t in pool.state_dict().items()}
    mean, std = x.mean(-1, keepdims=True), x.std(-1, ddof=1 if pool.unbiased else 0, keepdims=True)
    shown = np.concatenate([x, mean + 0 * x, std + 0 * x], 1) if pool.global_context else x
    hidden = np.einsum("hc,bct->bht", w["linear1.weight"][..., 0], shown) + w["linear1.bias"][:, None]
    if pool.bn is not None:
        hidden = (np.maximum(hidden, 0) - w["bn.running_mean"][:, None]) / np.sqrt(w["bn.running_var"] + 1e-5)[:, None]
    scores = np.einsum("ch,bht->bct", w["linear2.weight"][..., 0], np.tanh(hidden)) + w["linear2.bias"][:, None]
    alpha = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mu = (alpha * x).sum(-1)
    return np.concatenate([mu, np.sqrt((alpha * x**2).sum(-1) - mu**2)], 1)


@pytest.mark.parametrize("form", FORMS)
def test_attentive_statistics_against_numpy(form):
    x = np.random.default_rng(0).normal(1, 2, (3, 5, 21))
    pool = attentive(form)
    with torch.no_grad():
        out = pool(torch.tensor(x, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(out, numpy_attentive(pool, x), rtol=1e-5, atol=1e-6)


def test_equal_weights_are_plain_statistics():
    pool = attentive("wespeaker")
    torch.nn.init.zeros_(pool.linear2.weight)
    x = torch.randn(2, 5, 50)
    with torch.no_grad():
        torch.testing.assert_close(pool(x), torch.cat([x.mean(-1), x.std(-1, correction=0)], 1))


def test_a_frame_of_all_the_weight_is_the_mean():
    pool = attentive("wespeaker without context", channels=1)
    torch.nn.init.zeros_(pool.linear1.bias)
    pool.linear1.weight.data.fill_(10.0)
    pool.linear2.weight.data.fill_(100.0)
    x = torch.full((1, 1, 9), -1.0)
    x[..., 4] = 3.0
    with torch.no_grad():
        mean, deviation = pool(x)[0]
    assert mean.item() == pytest.approx(3.0) and deviation.item() == pytest.approx(1e-7**0.5, rel=1e-3)


def numpy_dictionary(pool, x):
    """Cai et al. 2018, section 2.3, in float64, residual by residual; x (B, C, T)."""
    dictionary = pool.dictionary.detach().double().numpy()
    smoothing = np.log1p(np.exp(pool.raw_smoothing.detach().double().numpy()))
    residuals = x.transpose(0, 2, 1)[:, :, None] - dictionary  # (B, T, K, C)
    exponents = np.exp(-smoothing * (residuals**2).sum(-1))
    weights = exponents / exponents.sum(-1, keepdims=True)
    return (weights[..., None] * residuals).mean(1).reshape(len(x), -1)


@pytest.mark.parametrize("channels, components, frames", [(5, 3, 17), (40, 8, 60), (3, 1, 4)])
def test_dictionary_encoding_against_numpy(channels, components, frames):
    torch.manual_seed(0)
    pool = LearnableDictionaryEncoding(channels, components)
    pool.raw_smoothing.data.normal_(-1)
    x = np.random.default_rng(0).normal(0, 1, (2, channels, frames))
    with torch.no_grad():
        out = pool(torch.tensor(x, dtype=torch.float32))
    assert out.shape == (2, components * channels)
    np.testing.assert_allclose(out.numpy(), numpy_dictionary(pool, x), rtol=1e-4, atol=1e-5)


def test_smoothing_factors_begin_at_one_over_the_channels_and_stay_above_zero():
    pool = LearnableDictionaryEncoding(200, 4)
    torch.testing.assert_close(pool.smoothing, torch.full((4,), 1 / 200))
    pool.raw_smoothing.data.fill_(-20.0)
    assert (pool.smoothing > 0).all()


def test_frames_at_a_component_add_nothing_to_it():
    pool = LearnableDictionaryEncoding(4, 2)
    pool.raw_smoothing.data.fill_(50.0)
    x = pool.dictionary.detach()[:1].t().unsqueeze(0).expand(1, 4, 6)
    assert pool(x)[0, :4].abs().max() < 1e-6


def numpy_multi_head(pool, x):
    """Query by query, head by head, frame by frame in float64; x (C, T)."""
    found = []
    for query in pool.queries:
        for head, rows in zip(query, np.split(x, pool.heads)):
            w1, b1, w2, b2 = (p.detach().double().numpy().squeeze(-1) if p.dim() == 3 else p.detach().double().numpy()
                              for p in head.parameters())
            scores = np.stack([w2 @ np.tanh(w1 @ rows[:, t] + b1) + b2 for t in range(x.shape[1])], 1)
            weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            mean = (weights * rows).sum(1)
            found += [mean, np.sqrt((weights * rows**2).sum(1) - mean**2)]
    return np.concatenate(found)


@pytest.mark.parametrize("options", [{"queries": 1, "heads": 2, "shared": True}, {"queries": 2, "heads": 3}])
def test_multi_head_pooling_against_numpy(options):
    torch.manual_seed(0)
    pool = MultiHeadPooling(6, hidden=5, **options)
    x = np.random.default_rng(0).normal(0, 2, (6, 13))
    with torch.no_grad():
        out = pool(torch.tensor(x, dtype=torch.float32)[None])[0].numpy()
    np.testing.assert_allclose(out, numpy_multi_head(pool, x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_poolings_by_name_give_as_many_values_as_they_say(name):
    torch.manual_seed(0)
    pool, values = make_pooling(name, 16)
    x = torch.randn(3, 16, 30)
    out = pool(x)
    assert out.shape == (3, values) and out.isfinite().all()
    if name in ("tap", "tsdp"):
        torch.testing.assert_close(out, x.mean(-1) if name == "tap" else x.std(-1))


@pytest.mark.parametrize("arch, options, words", [
    ("ResNet18", {"pooling": "asp"}, "arch ResNet18: pooling is 'asp'; it must be one of tstp, tap, tsdp, astp, mhastp"),
    ("RepVGGA0", {"pooling": ""}, "pooling is ''; it must be one of"),
    ("RepVGGA0", {"pooling": "mqmhastp", "widths": [1, 1, 1, 3]},
     "arch RepVGGA0: 30 channels do not make 8 groups for the pooling; change the width or the mel channels")])
def test_poolings_that_cannot_be(arch, options, words):
    with pytest.raises(UserError) as error:
        build(arch, 80, 12, **options)
    assert words in str(error.value)


POOLS = {"statistics": StatisticsPooling, "dictionary": lambda: LearnableDictionaryEncoding(5, 3),
         "heads": lambda: MultiHeadPooling(5, queries=1, heads=1, hidden=4),
         **{form: (lambda form=form: attentive(form)) for form in FORMS}}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_one_frame_and_constant_input_are_finite_with_finite_gradients(name, frames):
    for x in (torch.ones(3, 5, frames), torch.zeros(3, 5, frames), torch.randn(3, 5, 1).expand(3, 5, frames).clone()):
        pool = POOLS[name]().train()
        x.requires_grad_()
        out = pool(x)
        out.sum().backward()
        assert out.isfinite().all() and x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in pool.parameters())
        if name != "dictionary":
            assert (out[:, 5:] < 1e-3).all()


@pytest.mark.parametrize("name", POOLS)
def test_computes_in_float32_under_autocast(name):
    torch.manual_seed(0)
    pool = POOLS[name]().eval()
    x = (torch.randn(2, 5, 40) + 30).bfloat16()
    with torch.no_grad():
        expected = pool(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            out = pool(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", POOLS)
def test_works_on_the_meta_device(name):
    with torch.device("meta"):
        assert POOLS[name]().to("meta")(torch.randn(2, 5, 9)).shape[0] == 2


def test_full_precision_leaves_other_devices_alone():
    with full_precision(torch.empty(1, device="meta")):
        pass


def test_options_of_statistics_pooling():
    x = torch.randn(2, 3, 20)
    torch.testing.assert_close(StatisticsPooling(1e-12, 0.5)(x)[:, 3:], x.std(-1) + 0.5)
    assert StatisticsPooling(0.25)(torch.ones(1, 1, 4))[0, 1].item() == pytest.approx(0.5)
