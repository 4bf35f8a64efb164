"""Frozen quantized networks: the same embeddings without quantizers."""

import pytest
import torch

from svq.nets import build
from svq.quant import QuantConfig, quantize_
from svq.quant.api import freeze_, quantizers


@pytest.mark.parametrize("method, bits", [("kmqat", 3), ("uniform", 2), ("twn", 2), ("admm", 4), ("static", 1), ("adaptive", 1)])
def test_frozen_network_gives_the_same_embeddings(method, bits):
    torch.manual_seed(0)
    net = quantize_(build("ResNet18", 20, 16, width=4), QuantConfig(method=method, bits=bits)).eval()
    feats = torch.randn(2, 30, 20)
    with torch.inference_mode():
        expected = net(feats)
    assert not list(quantizers(freeze_(net)))
    with torch.inference_mode():
        torch.testing.assert_close(net(feats), expected, rtol=0, atol=0)
