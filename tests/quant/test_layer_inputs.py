"""Columns of inputs that give a layer's outputs, and their moments against numpy in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from svq.quant import output_error
from svq.quant.output_error import as_rows, moments_of, patches, places, sequence_moments

CONV1D = [dict(stride=2), dict(dilation=3), dict(groups=2), dict(groups=4, stride=3, padding=2), dict(padding="same"),
          dict(padding="same", dilation=2, kernel_size=4), dict(padding=2, padding_mode="reflect"),
          dict(padding=3, padding_mode="circular", stride=2), dict(padding="same", padding_mode="replicate", groups=2),
          dict(kernel_size=1), dict(bias=False, padding=1), dict(padding="valid")]
CONV2D = [*CONV1D, dict(stride=(1, 2), padding=(0, 2)), dict(kernel_size=(2, 3), dilation=(2, 1), padding="same"),
          dict(kernel_size=(1, 5), padding=(0, 2), padding_mode="reflect", groups=4)]
LAYERS = [(nn.Conv1d(4, 8, **{"kernel_size": 3, **options}), (4, 11)) for options in CONV1D]
LAYERS += [(nn.Conv2d(4, 8, **{"kernel_size": 3, **options}), (4, 9, 11)) for options in CONV2D]
LAYERS += [(nn.Linear(5, 7, bias=bias), shape) for bias in (True, False) for shape in ((5,), (6, 5), (3, 4, 5))]


def tried(layers):
    named = [f"{type(module).__name__}{i}-{module.extra_repr()}" for i, (module, _) in enumerate(layers)]
    return pytest.mark.parametrize("module, shape", layers, ids=named)


def inputs(shape, batch=3, seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def groups_of(module):
    return getattr(module, "groups", 1)


def outputs_at(module, x, chosen):
    """(B, O, P): what the layer itself gives at these places of its flattened output, less its bias."""
    y = module(x)
    if module.bias is not None:
        y = y - (module.bias if isinstance(module, nn.Linear) else module.bias.view(-1, *[1] * (y.dim() - 2)))
    y = y.reshape(len(y), -1, y.shape[-1]).transpose(1, 2) if isinstance(module, nn.Linear) else y.flatten(2)
    return y[..., chosen]


@tried(LAYERS)
@torch.no_grad()
def test_rows_times_columns_are_the_outputs(module, shape):
    x = inputs(shape)
    there = places(module, x)
    everywhere = torch.arange(there)
    expected = outputs_at(module, x, everywhere)
    assert expected.shape[-1] == there
    for chosen in (everywhere, torch.randperm(there, generator=torch.Generator().manual_seed(1))[:3]):
        columns = patches(module, x, chosen)
        rows = as_rows(module.weight, groups_of(module))
        assert columns.shape == (3, rows.shape[0], rows.shape[2], len(chosen))
        torch.testing.assert_close((rows @ columns).flatten(1, 2), outputs_at(module, x, chosen), rtol=1e-4, atol=1e-5)


def numpy_moments(module, before, after, centred):
    """From columns (G, N, all places of all utterances) in float64, by the definition."""
    everywhere = torch.arange(places(module, before))
    columns = (patches(module, inputs.double(), everywhere) for inputs in (before, after))
    x, y = (part.permute(1, 2, 0, 3).flatten(2).numpy() for part in columns)
    means = x.mean(2), y.mean(2)
    if centred:
        x, y = x - means[0][..., None], y - means[1][..., None]
    count = x.shape[2]
    return y @ y.transpose(0, 2, 1) / count, x @ y.transpose(0, 2, 1) / count, means, count


@tried(LAYERS)
@pytest.mark.parametrize("centred", [False, True])
@torch.no_grad()
def test_moments_are_those_of_numpy(module, shape, centred):
    before = inputs(shape, 19) + 2  # more than are looked at in one part
    after = before + 0.3 * inputs(shape, 19, seed=1) - 0.5
    found = moments_of(module, before, after, centred)
    square, cross, means, count = numpy_moments(module, before, after, centred)
    assert found.columns == count and found.square.dtype == found.cross.dtype == torch.float64
    for one, other in zip((found.square, found.cross, *found.means), (square, cross, *means)):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_moments_of_grouped_layers_are_those_of_each_group_alone():
    module, alone = nn.Conv1d(6, 4, 3, groups=2), nn.Conv1d(3, 2, 3)
    before, after = inputs((6, 12), 5), inputs((6, 12), 5, seed=1)
    found = moments_of(module, before, after, True)
    for group in range(2):
        part = moments_of(alone, *(x[:, 3 * group:3 * group + 3] for x in (before, after)), True)
        for one, other in ((found.square[group], part.square[0]), (found.cross[group], part.cross[0])):
            torch.testing.assert_close(one, other, rtol=1.3e-6, atol=1e-6)  # products are of float32


@pytest.mark.parametrize("offset", [0, 30, 3000])
@torch.no_grad()
def test_large_means_take_no_digits_from_the_rest(offset):
    module = nn.Linear(12, 3)
    before, after = (offset + inputs((40, 12), 30, seed) for seed in range(2))
    found = moments_of(module, before, after, True)
    square, cross, _, _ = numpy_moments(module, before, after, True)
    np.testing.assert_allclose(found.square, square, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.cross, cross, rtol=0, atol=1e-4)
    assert torch.linalg.eigvalsh(found.square).min() > 0.5
    raw, plain = moments_of(module, before, after, False), numpy_moments(module, before, after, False)
    np.testing.assert_allclose(raw.square, plain[0], rtol=1e-6, atol=1e-5)


@torch.no_grad()
def test_of_many_columns_some_are_drawn_always_the_same_ones(monkeypatch):
    monkeypatch.setattr(output_error, "LEAST_COLUMNS", 400)
    module = nn.Conv1d(4, 8, 3)
    before, after = inputs((4, 502), 10), inputs((4, 502), 10, seed=1)
    found, again = (moments_of(module, before, after, True) for _ in range(2))
    assert found.columns == 400
    assert torch.equal(found.square, again.square) and torch.equal(found.cross, again.cross)
    square, cross, _, _ = numpy_moments(module, before, after, True)
    np.testing.assert_allclose(found.square, square, rtol=0, atol=0.35)
    assert np.abs(found.square.numpy() - square).max() > 1e-3
    torch.manual_seed(5)
    assert torch.equal(moments_of(module, before, after, True).square, found.square)  # whatever else is drawn


@torch.no_grad()
def test_of_a_long_column_more_are_looked_at(monkeypatch):
    monkeypatch.setattr(output_error, "LEAST_COLUMNS", 10)
    module = nn.Conv1d(40, 2, 3)
    x = inputs((40, 102), 12)
    assert moments_of(module, x, x, False).columns == 4 * 120


@torch.no_grad()
def test_moments_over_time_are_those_of_a_linear_layer():
    before, after = inputs((30, 6), 11), inputs((30, 6), 11, seed=1)
    for centred in (False, True):
        one, other = sequence_moments(before, after, centred), moments_of(nn.Linear(6, 2), before, after, centred)
        assert one.columns == other.columns == 330
        torch.testing.assert_close(one.square, other.square)
        torch.testing.assert_close(one.cross, other.cross)
