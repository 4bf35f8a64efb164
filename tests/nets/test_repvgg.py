"""RepVGG: branches and what they merge to, blocks against plain sums, folders that are merged when they are read."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from svq.bin import merge_branches, pack, quantize
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import load_model, merge_branches_, save_model
from svq.nets import build, num_parameters
from svq.nets.repvgg import RepBlock
from svq.network import ModelConfig
from svq.quant import QuantConfig, quantize_
from svq.train.config import TrainConfig
from svq.train.folders import starting_network
from tests.helpers import run_worker

WIDTHS = [4, 8, 8, 16]
FORMS = [{}, {"dilated": True}, {"excite": True}, {"dilated": True, "excite": True}]


def unsettled(net: torch.nn.Module) -> torch.nn.Module:
    """`net` in eval mode, whose batch norms are of different scale, shift and statistics, but keep the size of values."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, -0.5, 0.6)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


def config(**options) -> ModelConfig:
    return ModelConfig("RepVGGA0", {"widths": WIDTHS, **options}, 12, FrontEndConfig(num_mels=24))


def feats(seed=0):
    return torch.randn(2, 37, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("inputs, stride", [(5, 1), (5, 2), (3, 1)])
def test_a_block_is_the_sum_of_its_branches(inputs, stride, dilated):
    torch.manual_seed(0)
    block = unsettled(RepBlock(inputs, 5, stride, dilated, excite=False, merged=False))
    x = torch.randn(2, inputs, 7, 9)

    def norm(y, of):
        return F.batch_norm(y, of.running_mean, of.running_var, of.weight, of.bias)

    dense = F.conv2d(x, block.dense[0].weight, stride=stride, padding=1)
    second = F.conv2d(x, block.second[0].weight, stride=stride, padding=2, dilation=2) if dilated else \
        F.conv2d(x[:, :, ::stride, ::stride], block.second[0].weight)
    total = norm(dense, block.dense[1]) + norm(second, block.second[1])
    assert (block.identity is not None) == (inputs == 5 and stride == 1)
    if block.identity is not None:
        total = total + norm(x, block.identity)
    with torch.no_grad():
        torch.testing.assert_close(block(x), F.relu(total))
        block.merge_()
        torch.testing.assert_close(block(x), F.relu(total))
    assert block.conv.kernel_size == ((5, 5) if dilated else (3, 3)) and block.dense is None
    assert sum(p.numel() for p in block.parameters()) == block.conv.weight.numel() + 5


@pytest.mark.parametrize("options", FORMS)
def test_the_merged_network_gives_the_same_embeddings(options):
    net = unsettled(config(**options).build())
    with torch.no_grad():
        before = net(feats())
        net.merge_()
        net.merge_()  # a second time nothing is done
        assert (net(feats()) - before).abs().max() < 1e-5 and before.std() > 0.05
        again = config(merged=True, **options).build().eval()
        again.load_state_dict(net.state_dict())
        assert torch.equal(again(feats()), net(feats()))


def test_folders_are_merged_when_they_are_read_unless_branches_are_asked_for(tmp_path):
    net, model = unsettled(config().build()), config()
    save_model(tmp_path, net, model)
    merged, found = load_model(tmp_path)
    assert found == dataclasses.replace(model, net={"widths": WIDTHS, "merged": True}) and not merged.training
    kept, same = load_model(tmp_path, branches=True)
    assert same == model and kept.layers[0].dense is not None
    with torch.no_grad():
        assert (merged(feats()) - net(feats())).abs().max() < 1e-5
        assert torch.equal(kept(feats()), net(feats()))
    assert merge_branches_(merged, found) is found  # nothing is left to merge


def test_worker_writes_the_merged_folder(tmp_path, capsys):
    net = unsettled(config().build())
    save_model(tmp_path / "trained", net, config())
    run_worker(merge_branches.main, tmp_path / "trained", "--out", tmp_path / "merged")
    told = capsys.readouterr().out
    merged, found = load_model(tmp_path / "merged", branches=True)
    assert found == config(merged=True) and merged.layers[0].dense is None
    assert f"{num_parameters(merged):,} parameters, merged from {num_parameters(net):,}" in told
    with torch.no_grad():
        assert (merged(feats()) - net(feats())).abs().max() < 1e-5
    for model, out, words in (("merged", "other", "merged: nothing to merge: RepVGGA0 has no branches, or they are merged"),
                              ("trained", "trained", "is the model itself, whose branches would be lost"),
                              ("nowhere", "other", "nowhere: not the folder of a float model")):
        with pytest.raises(UserError) as error:
            run_worker(merge_branches.main, tmp_path / model, "--out", tmp_path / out)
        assert words in str(error.value) and not (tmp_path / "other").exists()


def test_quantized_networks_are_left_as_they_are(tmp_path):
    quant = QuantConfig("uniform", bits=4)
    model = dataclasses.replace(config(), quant=quant)
    net = quantize_(config().build(), quant).eval()
    save_model(tmp_path, net, model)
    loaded, found = load_model(tmp_path)
    assert found == model
    with torch.no_grad():
        torch.testing.assert_close(loaded(feats()), net(feats()))
    with pytest.raises(UserError, match="nothing to merge: is quantized; use it as it is"):
        run_worker(merge_branches.main, tmp_path, "--out", tmp_path / "other")


def test_quantized_training_from_the_start_is_refused_with_branches():
    options = SimpleNamespace(init=None, bits=None, config="a.yaml", set=[])
    settings = TrainConfig(model=config(), quant=QuantConfig("uniform", bits=4))
    with pytest.raises(UserError, match="a.yaml: RepVGGA0 has branches, .* or set net.merged: true"):
        starting_network(settings, options)
    merged = dataclasses.replace(settings, model=config(merged=True))
    assert starting_network(merged, options)[1] is merged


def test_the_merged_network_is_quantized_and_the_branches_are_trained_on(tmp_path):
    net = unsettled(config().build())
    save_model(tmp_path / "float", net, config())
    (tmp_path / "a.yaml").write_text("quant: {method: uniform, bits: 4}\n")
    run_worker(quantize.main, "--init", tmp_path / "float", "--config", tmp_path / "a.yaml", "--out", tmp_path / "out")
    run_worker(pack.main, tmp_path / "out")
    for place in (tmp_path / "out", tmp_path / "out" / "model.svq"):
        packed, found = load_model(place)
        assert found.net == {"widths": WIDTHS, "merged": True} and packed.layers[0].dense is None
        with torch.no_grad():
            assert F.cosine_similarity(packed(feats()), net(feats())).min() > 0.5
    (tmp_path / "b.yaml").write_text("epochs: 1\n")
    options = SimpleNamespace(init=str(tmp_path / "float"), bits=None, config=tmp_path / "b.yaml", set=[])
    trained, settings = starting_network(TrainConfig(), options)
    assert settings.model == config() and trained.layers[0].dense is not None


def test_untrained_files_are_of_the_merged_network():
    assert pack.untrained_options(SimpleNamespace(arch="RepVGGTinyA0", width=None)) == {"merged": True}
    with pytest.raises(UserError, match="--width 8: RepVGGTinyA0 has no width"):
        pack.untrained_options(SimpleNamespace(arch="RepVGGTinyA0", width=8))


def test_channels_of_another_number_of_stages_are_refused():
    with pytest.raises(UserError, match=r"arch RepVGGA0: widths is \[4, 8\]; it must be the channels of 4 stages"):
        build("RepVGGA0", widths=[4, 8])
