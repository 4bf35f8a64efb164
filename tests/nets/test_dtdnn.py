"""D-TDNN: published size, parity with the authors' code, any length of input."""

import json
from pathlib import Path

import pytest
import torch
from formula_weights import features, fill_
from networks_1d import CHECKS, check_packing, check_taps

from svq.errors import UserError
from svq.nets import build, num_parameters
from svq.nets.tdnn import DTDNN, DenseBlock, DenseLayer

ORIGINALS = json.loads((Path(__file__).parent / "fixtures" / "originals_1d.json").read_text())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("feat_dim, parameters", [(30, 2_822_272), (80, 2_854_272)])
def test_published_size(feat_dim, parameters):
    net = build("DTDNN", feat_dim, 512)
    assert num_parameters(net) == parameters and f"{parameters:,}" in DTDNN.__doc__
    assert [len(net.block1), len(net.block2)] == [6, 12]
    assert [net.transit1.conv.out_channels, net.transit2.conv.out_channels] == [256, 512]


def test_same_embeddings_as_the_original():
    row = ORIGINALS["dtdnn"]
    net = fill_(build("DTDNN", row["feat_dim"], row["embed_dim"]))
    with torch.no_grad():
        embedding = net(features(row["frames"], row["feat_dim"]))[0]
    torch.testing.assert_close(embedding, torch.tensor(row["embedding"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_asked_of_every_network(check):
    check("DTDNN")


def test_quantized_and_packed(tmp_path):
    check_packing("DTDNN", tmp_path / "model.svq")


def test_taps():
    check_taps("DTDNN", {"frame1": 16, "block1": 64, "transit1": 32, "block2": 128, "transit2": 64})
    assert (DTDNN.NARROW, DTDNN.WIDE) == ("transit2", "block2")


def test_a_dense_block_keeps_its_input_and_appends():
    block = DenseBlock(DenseLayer(4 + 2 * index, 6, 2, dilation=3) for index in range(3))
    x = torch.randn(2, 4, 9)
    out = block.eval()(x)
    assert out.shape == (2, 10, 9) and torch.equal(out[:, :4], x)
    torch.testing.assert_close(out[:, 4:6], block[0](x))
    torch.testing.assert_close(out[:, 6:8], block[1](out[:, :6]))


@pytest.mark.parametrize("options, words", [
    ({"growth": 0}, "must be a positive integer"), ({"blocks": (1, 2)}, "takes no option 'blocks'"),
    ({"bottleneck": 2.5}, "must be a positive integer")])
def test_mistakes(options, words):
    with pytest.raises(UserError) as error:
        build("DTDNN", 80, 512, **options)
    assert words in str(error.value)
