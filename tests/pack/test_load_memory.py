"""Loading a packed network takes the memory of one float network, not of two."""

import subprocess
import sys

import pytest
import torch

from svq.models import load_model
from svq.nets import ARCHITECTURES
from svq.nets.tdnn import XVector
from svq.network import ModelConfig
from svq.pack.file import save_packed
from svq.quant import QuantConfig, quantize_

MEASURE = """
import sys
import torch
from svq.models import load_model
from svq.pack.reading import read_packed, unpack
torch.set_num_threads(1)
small, large, how = sys.argv[1:]
load_model(small)  # all that is imported and set up on the way
def memory(which):  # getrusage would tell the peak of the parent, too
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(which))
before = memory("VmRSS")
if how == "once":
    net, _ = load_model(large)
else:
    config, layers = unpack(large, *read_packed(large))
    held = [layer.weight() for layer in layers]
    net = config.build()
print((memory("VmHWM") - before) / sum(4 * p.numel() for p in net.parameters()))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small and a large (8 M weights, 2 bits) packed network."""
    folder, paths = tmp_path_factory.mktemp("packed"), []
    for width in (8, 1000):
        config = ModelConfig("XVector", {"width": width, "wide": width}, width, quant=QuantConfig("twn", 2))
        paths.append(folder / f"{width}.svq")
        save_packed(paths[-1], quantize_(config.build(), config.quant), config)
    return paths


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("how, least, most", [("once", 1.0, 1.6), ("twice", 2.0, 4.0)])
def test_peak_memory_in_units_of_the_float_network(files, how, least, most):
    done = subprocess.run([sys.executable, "-c", MEASURE, *files, how], capture_output=True, text=True, check=True)
    assert least < float(done.stdout) < most


class WithBuffer(XVector):
    def __init__(self, **options):
        super().__init__(width=8, wide=8, **options)
        self.register_buffer("ramp", torch.linspace(0.5, 1.5, 16), persistent=False)
        self.frame1.register_buffer("kept", torch.zeros(3))

    def forward(self, x):
        return super().forward(x) * self.ramp


def test_buffers_that_are_not_in_the_file_have_their_values(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "WithBuffer", lambda feat_dim=80, embed_dim=16: WithBuffer(
        feat_dim=feat_dim, embed_dim=embed_dim))
    config = ModelConfig("WithBuffer", {}, 16, quant=QuantConfig(bits=4))
    net = quantize_(config.build().eval(), config.quant)
    net.frame1.kept.fill_(2.0)
    save_packed(tmp_path / "a.svq", net, config)
    loaded, _ = load_model(tmp_path / "a.svq")
    assert torch.equal(loaded.ramp, net.ramp) and torch.equal(loaded.frame1.kept, net.frame1.kept)
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    feats = torch.randn(2, 50, 80)
    torch.testing.assert_close(loaded(feats), net(feats), rtol=1e-3, atol=1e-3)


def test_a_loaded_network_does_not_hang_on_its_file(tmp_path):
    """Its file may be replaced or cut while it is used, and its weights may be trained on."""
    config = ModelConfig("ResNet18", {"width": 4}, 16, quant=QuantConfig(bits=4))
    save_packed(tmp_path / "a.svq", quantize_(config.build(), config.quant), config)
    net, _ = load_model(tmp_path / "a.svq")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with open(tmp_path / "a.svq", "r+b") as file:
        file.write(b"\xff" * 30_000)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.requires_grad and p.is_contiguous() for p in net.parameters())
