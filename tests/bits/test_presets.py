"""The preset for ECAPA-TDNN: which layers stay in float in either form, and how much smaller the file becomes."""

import dataclasses

import pytest
import torch

from svq.bits.block_run import float_blocks, preset_bits
from svq.bits.table import bits_by_layer, check_bits, read_bits, write_bits
from svq.errors import UserError
from svq.nets import build
from svq.network import ModelConfig
from svq.pack.file import packed_bytes, save_packed
from svq.pack.format import safetensors_bytes
from svq.quant import QuantConfig, quantize_

SMALL = {"channels": 32, "wide": 48, "squeeze": 8, "attention": 8}


@pytest.mark.parametrize("arch", ["ECAPA512", "ECAPASpeechBrain", "ECAPALite"])
def test_the_second_and_third_block_stay_in_float(arch, tmp_path):
    with torch.device("meta"):
        net = build(arch)
    write_bits(tmp_path / "bits.tsv", preset_bits("ecapa-selective", net), "as in the paper")
    rows = read_bits(tmp_path / "bits.tsv")
    check_bits(rows, net, tmp_path / "bits.tsv")
    kept = {layer for layer, bits in bits_by_layer(rows).items() if bits == 32}
    assert kept == {name.removesuffix(".weight") for name, p in net.named_parameters()
                    if name.startswith(("layer3.", "layer4.")) and name.endswith(".weight") and ".norm" not in name
                    and ".bn" not in name}
    assert {bits for layer, bits in bits_by_layer(rows).items() if layer not in kept} == {8}
    assert float_blocks("ecapa-selective", net) == ["layer3", "layer4"]


@pytest.mark.parametrize("method", ["uniform", "kmqat"])
def test_the_published_reduction(method):
    """53.44 % (arXiv 2407.08991, abstract), of SpeechBrain's form of 20.8 M parameters."""
    torch.manual_seed(0)
    model = ModelConfig("ECAPASpeechBrain", {}, 192)
    net = model.build()
    before = safetensors_bytes({name: (tensor.dtype, tensor.shape) for name, tensor in net.state_dict().items()})
    layers = bits_by_layer(preset_bits("ecapa-selective", net))
    after = packed_bytes(net, QuantConfig(method, 8, layers=layers, per_channel=False), model)
    assert 0.5344 <= 1 - after / before < 0.60
    assert 1 - packed_bytes(net, QuantConfig(method, 8, per_channel=False), model) / before > 0.74  # all of it: nearly three quarters


def test_the_packed_file_has_that_size(tmp_path):
    torch.manual_seed(0)
    model = ModelConfig("ECAPASpeechBrain", SMALL, 16)
    net = model.build()
    quant = QuantConfig("uniform", 8, layers=bits_by_layer(preset_bits("ecapa-selective", net)), per_channel=False)
    expected = packed_bytes(net, quant, model)
    quantize_(net, quant)
    assert save_packed(tmp_path / "x.svq", net.eval(), dataclasses.replace(model, quant=quant)) == expected


def test_other_bits_and_refusals():
    with torch.device("meta"):
        net, other = build("ECAPA512"), build("ResNet18")
    assert {row.bits for row in preset_bits("ecapa-selective", net, 4)} == {4, 32}
    with pytest.raises(UserError, match="preset ecapa-selective is for ECAPA-TDNN; this network is a ResNet"):
        preset_bits("ecapa-selective", other)
    with pytest.raises(UserError, match="preset 'mine' is unknown; known: ecapa-selective"):
        preset_bits("mine", net)
