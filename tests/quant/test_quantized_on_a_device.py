"""Quantization without training on a device gives what it gives on the CPU, and mixes no tensors of both."""

import copy

import pytest
import torch
from torch import nn

from svq.quant import QuantConfig
from svq.quant.ptq_config import PTQConfig
from svq.quant.ptq import quantize_without_training_
from tests.simulated_device import simulated_device


class Small(nn.Module):
    """Convolutions of one and two axes, groups, batch norms, a recurrent layer and linear ones, in few weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=(1, 2), padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(4)
        self.second = nn.Conv1d(16, 8, 3, padding=1, groups=2)
        self.second_norm = nn.BatchNorm1d(8)
        self.rnn = nn.LSTM(8, 6, batch_first=True)
        self.last = nn.Linear(6, 5)

    def forward(self, feats):
        x = self.first_norm(self.first(feats[:, None])).relu().transpose(2, 3).flatten(1, 2)
        x = self.second_norm(self.second(x)).relu().transpose(1, 2)
        return self.last(self.rnn(x)[0].mean(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    net = Small()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.mark.parametrize("ptq", [PTQConfig(calibrate=True), PTQConfig(bias_correction=True, fold_batch_norm=True)],
                         ids=["calibrated", "corrected"])
@pytest.mark.parametrize("quant", [
    QuantConfig(method="kmqat", bits=2), QuantConfig(method="uniform", bits=4), QuantConfig(method="integer", bits=8),
    QuantConfig(method="kmqat", bits=1), QuantConfig(method="apot", bits=3, per_channel=True)],
    ids=lambda quant: f"{quant.method}{quant.bits}")
def test_as_on_the_cpu(quant, ptq):
    net, feats = network(), torch.randn(6, 30, 8, generator=torch.Generator().manual_seed(1))
    other = copy.deepcopy(net)
    quantize_without_training_(net, quant, ptq, feats)
    with simulated_device() as device:
        quantize_without_training_(other.to(device), quant, ptq, feats.to(device))
        found = {name: value.cpu() for name, value in other.state_dict().items()}
    wanted = net.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name].float(), value.float(), atol=1e-5), name
