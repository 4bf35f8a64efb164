"""ADMM: the penalty's gradient, the outer update, and that weights end on levels."""

import pytest
import torch

from svq.quant import QuantConfig, quantize_
from svq.quant.api import float_weight, outer_update_, quantizers
from svq.quant.quantizers import make_quantizer


@pytest.fixture
def weight():
    return torch.randn(6, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.05


def test_training_sees_float_weights_and_the_gradient_of_the_penalty(weight):
    quantizer = make_quantizer(weight, QuantConfig("admm", 2, rho=0.3, per_channel=False), 2)
    strength = 0.3 / weight.square().mean()
    projected, multipliers = quantizer.eval()(weight), torch.zeros_like(weight)
    quantizer.train()
    for step in range(4):
        moved = (weight * (1 + 0.1 * step) + 0.01 * step).requires_grad_()
        grad = torch.randn(weight.shape, dtype=torch.float64)
        out = quantizer(moved)
        assert torch.equal(out, moved)
        out.backward(grad)
        moved = moved.detach_()
        torch.testing.assert_close(moved.grad, grad + strength * (moved - projected + multipliers))
        quantizer.outer_update(moved)
        projected = assert_projection(quantizer.target + quantizer.multipliers, moved + multipliers)
        multipliers = multipliers + moved - projected
        torch.testing.assert_close(quantizer.multipliers, multipliers)


def assert_projection(projected, w):
    """That `projected` is w on the nearest of -alpha, 0 and alpha, with an alpha of little error; returns it."""
    alpha = projected.max()
    values = torch.stack([-alpha, 0 * alpha, alpha])
    torch.testing.assert_close(projected, values[(w[..., None] - values).abs().argmin(-1)])
    assert float((w - projected).square().sum()) <= 1.01 * least_error(w, torch.tensor([-1.0, 0.0, 1.0]).double())
    return projected


def least_error(w, levels):
    """The squared error of w by its nearest alpha * levels, for the best alpha of many."""
    tried = torch.linspace(0.01, 1.2, 600, dtype=w.dtype) * w.abs().max()
    return min(float((w.flatten()[:, None] - a * levels).abs().amin(1).square().sum()) for a in tried)


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
def test_eval_is_the_projection(weight, bits):
    quantizer = make_quantizer(weight, QuantConfig("admm", bits, per_channel=False), bits).eval()
    error = float((quantizer(weight) - weight).square().sum())
    assert error <= 1.05 * least_error(weight, quantizer.levels)


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_of_a_least_squares_problem_end_on_few_levels(per_channel):
    """From the float solution on; the penalty weighs more than the loss, as ADMM needs to converge."""
    torch.manual_seed(0)
    inputs, truth = torch.randn(400, 12).double() * torch.linspace(0.3, 2, 12).double(), torch.randn(12, 4).double()
    net = torch.nn.Linear(12, 4, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(truth.T)
    net = quantize_(torch.nn.Sequential(net), QuantConfig("admm", 2, rho=3.0, per_channel=per_channel))
    (_, module, quantizer), = quantizers(net)

    def loss():
        return (net(inputs) - inputs @ truth).square().mean()

    def residual():
        with torch.no_grad():
            return float((quantizer.eval()(float_weight(module)) - float_weight(module)).square().mean().sqrt())

    rounded, residuals = loss_in_eval(net, loss), [residual()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(25):
        net.train()
        for _ in range(20):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        outer_update_(net)
        residuals.append(residual())
    assert residuals[-1] < 0.001 * residuals[0] and max(residuals[1:]) < 0.5 * residuals[0]
    assert loss_in_eval(net, loss) < 0.97 * rounded


def loss_in_eval(net, loss):
    net.eval()
    with torch.no_grad():
        return float(loss())
