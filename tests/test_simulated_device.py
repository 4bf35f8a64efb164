"""The device that tests simulate behaves like one."""

import pytest
import torch
from torch import nn

from tests.simulated_device import There, simulated_device


def test_numbers_are_those_of_the_cpu_and_gradients_too():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    x = torch.randn(5, 3, 8)
    net(x).square().sum().backward()
    wanted, gradient = net.eval()(x).detach(), net[0].weight.grad.clone()
    net.zero_grad()
    with simulated_device() as device:
        net.to(device)
        found = net.train()(x.to(device))
        found.square().sum().backward()
        assert isinstance(found, There) and isinstance(net[0].weight.grad, There) and found.device == device
        assert torch.equal(net[0].weight.grad.cpu(), gradient)
        net[1].running_mean.copy_(torch.zeros(4))
    assert wanted.shape == found.shape


def test_tensors_of_both_do_not_meet():
    with simulated_device() as device:
        x, y = torch.ones(3, device=device), torch.ones(3)
        for mixed in (lambda: x + y, lambda: torch.cat([x, y]), lambda: x @ y, lambda: x.add_(y), lambda: x.where(y > 0, x)):
            with pytest.raises(RuntimeError, match="one device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        assert float((x + torch.tensor(2.0)).sum()) == 9 and x[torch.tensor([0, 2])].shape == (2,)
        assert torch.zeros(2, device=x.device).device == device and torch.zeros(2).device.type == "cpu"
