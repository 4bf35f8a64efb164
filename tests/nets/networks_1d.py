"""Networks over frames at a tenth of their width, and what is asked of each of them."""

from __future__ import annotations

import re

import torch

from svq.data.frontend import FrontEndConfig
from svq.nets import build
from svq.network import ModelConfig
from svq.pack.file import load_packed, save_packed
from svq.quant import QuantConfig, quantize_

ECAPA = {"channels": 32, "squeeze": 8, "attention": 8}
NARROW_NETS = {
    "XVector": {"width": 24, "wide": 40},
    "XVectorSpeechBrain": {"width": 24, "wide": 40},
    "ETDNN": {"width": 24, "wide": 40},
    "DTDNN": {"width": 16, "growth": 8, "bottleneck": 16},
    "CAMPPlus": {"width": 4, "channels": 16, "growth": 8, "bottleneck": 16, "layers": (2, 3, 2)},
    "ECAPA512": {**ECAPA, "wide": 48},
    "ECAPASpeechBrain": {**ECAPA, "wide": 96},
    "ECAPALite": {**ECAPA, "wide": 24},
    "ReDimNetB2": {"width": 4, "frequency_strides": (1, 2), "depths": (1, 1), "expansions": (100, 200),
                   "reductions": (10,), "group_width": 2},
    "ReDimNet2B6": {"width": 4, "form": "resnet_se", "frequency_strides": (1, 2, 1), "time_strides": (1, 2, 2),
                    "depths": (1, 1, 1), "expansions": (300, 100, 50), "reductions": (20, 10), "head_width": 6,
                    "group_norm": True, "dual": True},
    "ERes2NetBase": {"width": 4},
    "ERes2NetV2": {"width": 4, "base_width": 40, "scale": 3},
}
FEAT_DIM, EMBED_DIM = 20, 12


def narrow(arch: str, seed: int = 0, **options) -> torch.nn.Module:
    """A small `arch` with weights from `seed`, after two batches in training mode, so that its norms do something."""
    torch.manual_seed(seed)
    net = build(arch, FEAT_DIM, EMBED_DIM, **{**NARROW_NETS[arch], **options}).train()
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(4, 60, FEAT_DIM))
    return net.eval()


def check_any_length(arch: str) -> None:
    """From one frame on: embeddings and gradients are finite, in training and in inference."""
    net = narrow(arch)
    for frames in (1, 2, 3, 4, 5, 9, 14, 15, 23, 24, 40):
        for train in (False, True):
            net.train(train).zero_grad()
            out = net(torch.randn(3, frames, FEAT_DIM))
            assert out.shape == (3, EMBED_DIM) and out.isfinite().all(), (frames, train)
            out.square().sum().backward()
            assert all(p.grad.isfinite().all() for p in net.parameters()), (frames, train)


def check_gradients(arch: str, idle: str = "$.") -> None:
    """They reach every parameter, but those whose names match the pattern `idle`, and every frame."""
    net = narrow(arch).train()
    feats = torch.randn(4, 50, FEAT_DIM, requires_grad=True)
    (net(feats) * torch.randn(4, EMBED_DIM)).sum().backward()
    assert feats.grad.abs().sum(dim=(0, 2)).min() > 0
    reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert all(name in reached or re.search(idle, name) for name, _ in net.named_parameters())


def check_packing(arch: str, path) -> None:
    """Quantized, packed and loaded again it gives the same embeddings."""
    net = narrow(arch)
    config = ModelConfig(arch=arch, net=NARROW_NETS[arch], embed_dim=EMBED_DIM,
                         front_end=FrontEndConfig(num_mels=FEAT_DIM), quant=QuantConfig(bits=4))
    quantize_(net, config.quant)
    save_packed(path, net, config)
    loaded, loaded_config = load_packed(path)
    assert loaded_config.arch == arch
    feats = torch.randn(3, 50, FEAT_DIM)
    with torch.no_grad():
        expected, got = net(feats), loaded(feats)
    distance = 1 - torch.nn.functional.cosine_similarity(expected, got)
    assert distance.abs().max() < 1e-4
    # Batch norms are kept in float16, 11 bits.
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-3 * expected.abs().max().item())


def check_autocast(arch: str) -> None:
    """Close to float32 in bfloat16, and trainable."""
    net = narrow(arch)
    feats = torch.randn(3, 60, FEAT_DIM)
    with torch.no_grad():
        expected = net(feats)
    with torch.autocast("cpu", torch.bfloat16):
        out = net.train()(feats)
        out.float().square().sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())
        with torch.no_grad():
            got = narrow(arch)(feats).float()
    assert torch.nn.functional.cosine_similarity(expected, got).min() > 0.995


def check_alone_as_in_a_batch(arch: str) -> None:
    """An embedding depends neither on the rest of the batch nor on when it is computed; same seed, same network."""
    net, again = narrow(arch), narrow(arch)
    feats = torch.randn(5, 60, FEAT_DIM)
    with torch.no_grad():
        together = net(feats)
        torch.testing.assert_close(together[2:3], net(feats[2:3]), rtol=1e-5, atol=1e-5)
        assert torch.equal(together, net(feats)) and torch.equal(together, again(feats))
    other = narrow(arch, seed=1)
    assert any(not torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def check_taps(arch: str, channels: dict[str, int]) -> None:
    """Frame-level layers are modules of that name, in order, giving (B, channels, T')."""
    net = narrow(arch)
    seen, order = {}, []
    for name in net.FRAME_LAYERS:
        def tap(module, inputs, output, name=name):
            seen[name] = output.shape
            order.append(name)

        net.get_submodule(name).register_forward_hook(tap)
    with torch.no_grad():
        net(torch.randn(2, 50, FEAT_DIM))
    assert tuple(order) == net.FRAME_LAYERS and net.NARROW in order and net.WIDE in order
    assert {name: shape[1] for name, shape in seen.items()} == channels
    assert all(len(shape) == 3 and shape[0] == 2 and 20 <= shape[2] <= 50 for shape in seen.values())


CHECKS = [check_any_length, check_gradients, check_autocast, check_alone_as_in_a_batch]
