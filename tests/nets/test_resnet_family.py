"""What holds for every two-dimensional network: shapes, gradients, bfloat16, seeds, packing; and all their sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svq.data.frontend import FrontEndConfig
from svq.nets import build, dfresnet, num_parameters, repvgg, resnet, seresnet, simam
from svq.network import ModelConfig
from svq.pack.file import largest_distance, load_packed, packed_bytes, save_packed
from svq.quant import QuantConfig, quantize_

FAMILIES = (resnet, dfresnet, simam, repvgg, seresnet)
ALL = [arch for family in FAMILIES for arch in family.NETWORKS]
ONE_OF_EACH = ["ResNet50", "KiwanoResNet36", "DFResNet56", "GeminiDFResNet60", "SimAMResNet34", "RepVGGA0", "ThinResNet34",
               "FastResNet34", "ResNetSE34V2"]
# A softmax over time takes off what is added to every frame, a batch norm what is added to every utterance.
WITHOUT_GRADIENT = {
    "KiwanoResNet36": {"layers.1.shortcut.1.bias", "pool.scores.bias", "bn_pool.bias", "embedding.bias"},
    "ResNetSE34V2": {"pool.scores.bias", "pool.bn.bias"}, "SimAMResNet34": {"pool.scores.bias", "pool.bn.bias"}}

PARAMETERS = {
    "ResNet18": 4_105_440, "ResNet34": 6_634_336, "ResNet50": 11_131_360, "ResNet101": 15_892_448,
    "ResNet152": 19_814_880, "ResNet221": 23_792_224, "ResNet293": 28_626_016,
    "KiwanoResNet36": 8_343_040, "KiwanoResNet200": 31_976_960, "ResNet34SpeechBrain": 15_438_336,
    "DFResNet56": 4_693_920, "DFResNet110": 7_177_632, "DFResNet179": 9_842_464, "DFResNet233": 12_326_176,
    "GeminiDFResNet60": 4_047_840, "GeminiDFResNet114": 6_531_552, "GeminiDFResNet183": 9_196_384,
    "GeminiDFResNet237": 11_680_096, "SimAMResNet34": 25_213_760, "SimAMResNet100": 50_232_896,
    "RepVGGTinyA0": 6_833_792, "RepVGGA0": 14_380_960, "RepVGGA1": 19_363_968, "RepVGGA2": 34_009_536,
    "RepVGGB0": 21_089_664, "ThinResNet34": 1_437_078, "FastResNet34": 1_437_078, "ResNetSE34V2": 8_028_492}
SIZES = {"KiwanoResNet36": (81, 256), "KiwanoResNet200": (81, 256), "ThinResNet34": (257, 512),
         "FastResNet34": (40, 512), "ResNetSE34V2": (64, 512)}


def published(arch):
    with torch.device("meta"):
        return build(arch, *SIZES.get(arch, (80, 256)))


def sizes(arch, width=4):
    """The option that makes a network narrow."""
    return {"widths": [width, 2 * width, 4 * width, 8 * width]} if arch in repvgg.NETWORKS else {"width": width}


def narrow(arch, feat_dim=40, embed_dim=12, seed=0):
    torch.manual_seed(seed)
    return build(arch, feat_dim, embed_dim, **sizes(arch))


def seeded(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def settled(arch, feat_dim=40):
    """A narrow network in eval mode, its batch norms with statistics of some input."""
    net = narrow(arch, feat_dim).train()
    with torch.no_grad():
        for seed in range(3):
            net(seeded(6, 50, feat_dim, seed=seed))
    return net.eval()


@pytest.mark.parametrize("arch", ALL)
def test_parameters_are_those_of_the_docstring(arch):
    net = published(arch)
    assert num_parameters(net) == PARAMETERS[arch]
    assert f"{PARAMETERS[arch]:,}" in type(net).__doc__


@pytest.mark.parametrize("arch, depth", [("ResNet221", 221), ("ResNet293", 293)])
def test_depth_of_the_deepest_resnets(arch, depth):
    """The stem, 3 layers a block, the embedding; shortcuts are not counted."""
    net = published(arch)
    layers = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len([name for name in layers if "shortcut" not in name]) == depth
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    assert f"{weights:,}" in type(net).__doc__


@pytest.mark.parametrize("arch", ALL)
@pytest.mark.parametrize("feat_dim", [40, 23])
def test_shape_of_the_output(arch, feat_dim):
    net = narrow(arch, feat_dim).eval()
    with torch.no_grad():
        for frames in (1, 2, 9, 17):
            out = net(seeded(2, frames, feat_dim))
            assert out.shape == (2, 12) and out.isfinite().all()


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_gradient_reaches_every_parameter_and_the_input(arch):
    """At one of three beginnings: squeeze-and-excitation this narrow has single units that a ReLU may switch off."""
    largest: dict[str, float] = {}
    for seed in range(3):
        torch.manual_seed(seed)
        net = build(arch, 24, 12, **sizes(arch, 8)).train()
        for name, parameter in net.named_parameters():
            if name.endswith("bn1.bias"):  # at 0, scales before a convolution channel by channel have no effect
                torch.nn.init.normal_(parameter, 0, 0.1)
        feats = seeded(6, 30, 24).requires_grad_()
        (net(feats) * seeded(6, 12, seed=2)).sum().backward()
        assert feats.grad.abs().sum(dim=(0, 2)).min() > 0  # every frame counts
        for name, parameter in net.named_parameters():
            assert parameter.grad.isfinite().all()
            largest[name] = max(largest.get(name, 0), float(parameter.grad.abs().max()))
    assert {name for name, size in largest.items() if size < 1e-4} == WITHOUT_GRADIENT.get(arch, set())


@pytest.mark.parametrize("arch", ["ThinResNet34", "FastResNet34", "ResNetSE34V2"])
@pytest.mark.parametrize("pooling", ["sap", "asp"])
def test_one_frame_and_constant_input_have_finite_gradients(arch, pooling):
    torch.manual_seed(0)
    net = build(arch, 40, 12, width=4, pooling=pooling).train()
    for feats in (torch.ones(2, 1, 40), torch.zeros(2, 30, 40)):
        net.zero_grad()
        net(feats).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_bfloat16_tells_the_same(arch):
    net, feats = settled(arch), seeded(4, 60, 40)
    with torch.no_grad():
        exact = net(feats)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(feats).float()
    assert rough.isfinite().all() and F.cosine_similarity(exact, rough).min() > 0.99


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_same_seed_same_network_same_embeddings(arch):
    nets = [narrow(arch, seed=seed).eval() for seed in (1, 1, 2)]
    with torch.no_grad():
        outs = [net(seeded(2, 30, 40)) for net in nets]
        assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], nets[0](seeded(2, 30, 40)))
    assert not torch.equal(*(next(net.conv1.parameters()) for net in (nets[0], nets[2])))


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_embedding_does_not_depend_on_the_rest_of_the_batch(arch):
    net, feats = settled(arch), seeded(5, 60, 40)
    with torch.no_grad():
        torch.testing.assert_close(net(feats)[2:3], net(feats[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ONE_OF_EACH)
def test_packed_and_loaded_again_it_gives_the_same_embeddings(arch, tmp_path):
    quant = QuantConfig("kmqat", 4)
    config = ModelConfig(arch, sizes(arch), 12, FrontEndConfig(num_mels=40), quant)
    net = quantize_(settled(arch), quant).eval()
    size = save_packed(tmp_path / "model.svq", net, config)
    assert size == packed_bytes(net, quant, config)
    loaded, found = load_packed(tmp_path / "model.svq")
    assert found == config and largest_distance(net, loaded, 40) < 1e-4
