"""The fully connected student: sizes, frames, quantization and packing."""

import pytest
import torch

from svq import nets
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import load_model
from svq.nets.student import FCStudent
from svq.network import ModelConfig
from svq.pack.file import save_packed
from svq.quant import QuantConfig, quantize_

XVECTOR = 4_610_524  # of 512 dimensions, WeSpeaker's


@pytest.mark.parametrize("width, embed_dim, pooling, count, smaller", [
    (192, 512, "mean", 492_992, 89.3), (192, 1500, "mean", 683_676, 85.2), (192, 512, "stats", 591_296, 87.2),
    (304, 1024, "mean", 1_140_720, 75.3)])
def test_counts_are_the_papers_share_of_the_teacher(width, embed_dim, pooling, count, smaller):
    net = nets.build("FCStudent", 80, embed_dim, width=width, pooling=pooling)
    assert nets.num_parameters(net) == count and f"{count:,}" in FCStudent.__doc__
    assert round(100 * (1 - count / XVECTOR), 1) == smaller and f"{smaller} %" in FCStudent.__doc__
    assert nets.num_parameters(nets.build("XVector", 80, 512)) == XVECTOR


def test_eight_layers_computed_by_hand():
    torch.manual_seed(0)
    net = FCStudent(feat_dim=6, embed_dim=5, width=7, splice=3).double().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    feats = torch.randn(2, 9, 6, dtype=torch.float64)
    padded = torch.cat([torch.zeros(2, 1, 6), feats, torch.zeros(2, 1, 6)], dim=1)
    x = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2)  # (B, T, 3 F): the spliced frames
    affine = [module for module in net.modules() if isinstance(module, (torch.nn.Conv1d, torch.nn.Linear))]
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert len(affine) == 8
    for layer, norm in zip(affine, norms):
        weight = layer.weight.permute(0, 2, 1).flatten(1)  # (width, kernel * inputs), as the frames are spliced
        x = torch.relu(x @ weight.T + layer.bias)
        x = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    frames = x @ affine[-1].weight.T + affine[-1].bias
    torch.testing.assert_close(net.frame_outputs(feats), frames, atol=1e-12, rtol=0)
    torch.testing.assert_close(net(feats), frames.mean(1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "stats"])
@pytest.mark.parametrize("frames", [1, 2, 37])
def test_any_number_of_frames(pooling, frames):
    net = FCStudent(8, 5, width=6, pooling=pooling).eval()
    assert net(torch.randn(3, frames, 8)).shape == (3, 5) and net.has_frame_outputs == (pooling == "mean")


def test_bf16_autocast_pools_in_float32():
    net = FCStudent(8, 5, width=6).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.randn(3, 20, 8)).isfinite().all()
        assert net.frame_outputs(torch.randn(3, 20, 8)).shape == (3, 20, 5)


@pytest.mark.parametrize("options, words", [
    ({"splice": 4}, "splice is 4; it must be odd"), ({"layers": 1}, "at least 2"),
    ({"pooling": "max"}, "one of mean, stats"), ({"context": 3}, "takes no option 'context'")])
def test_options_out_of_range(options, words):
    with pytest.raises(UserError, match=words):
        nets.build("FCStudent", 80, 16, **options)


@pytest.mark.parametrize("pooling", ["mean", "stats"])
def test_quantized_and_packed_it_gives_the_same_embeddings(tmp_path, pooling):
    config = ModelConfig(arch="FCStudent", net={"width": 16, "pooling": pooling}, embed_dim=12,
                         front_end=FrontEndConfig(num_mels=20), quant=QuantConfig(bits=2))
    torch.manual_seed(1)
    net = quantize_(config.build().eval(), config.quant)
    size = save_packed(tmp_path / "model.svq", net, config)
    packed, found = load_model(tmp_path / "model.svq")
    feats = torch.randn(4, 30, 20)
    torch.testing.assert_close(packed(feats), net(feats), atol=1e-3, rtol=1e-3)
    assert found.arch == "FCStudent" and size < 4 * nets.num_parameters(config.build()) / 2
