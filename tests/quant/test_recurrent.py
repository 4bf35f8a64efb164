"""Recurrent layers: every matrix is a layer, what is computed is quantized, and all that goes on works with them."""

import copy
import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from torch.nn.utils import parametrize

from svq.data.extraction import embed
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.network import ModelConfig, load_state
from svq.pack.file import load_packed, packed_bytes, save_packed
from svq.quant import QuantConfig, quantize_, quantized_layers
from svq.quant.api import (
    average_bits,
    count_parameters,
    float_weight,
    freeze_,
    left_in_float,
    outer_update_,
    quantizable,
    quantizers,
    refit_,
)
from svq.quant.base import RecurrentWeight, detach_, tensor_of
from svq.quant.nested import set_precision_
from svq.train.config import OptimizerConfig
from svq.train.optimizer import make_optimizer
from svq.train.run import quantize_up_to_
from tests.quant.recurrent_nets import EMBED, FEATS, KINDS, by_hand, feats, recurrent, register

SHAPES = [{}, {"layers": 2, "bidirectional": True}, {"layers": 2, "batch_first": False, "bias": False}]
CASES = [{"kind": kind, **shape} for kind in ("LSTM", "GRU", "RNN") for shape in SHAPES]
CASES += [{"projection": 5, "layers": 2, "bidirectional": True}]
CASES += [{"kind": kind, **more} for kind in KINDS[3:] for more in ({}, {"bias": False})]


def close(a, b, **options):
    torch.testing.assert_close(a, b, **{"rtol": 1e-5, "atol": 1e-6, **options})


def test_every_matrix_is_a_layer_named_after_its_module():
    names = [name for name, _ in quantizable(recurrent(layers=2, bidirectional=True, projection=5))]
    wanted = [f"rnn.weight_{part}_l{layer}{way}" for layer in (0, 1) for way in ("", "_reverse")
              for part in ("ih", "hh", "hr")]
    assert names == [*wanted, "embedding"]
    assert [name for name, _ in quantizable(nn.GRU(3, 4))] == ["weight_ih_l0", "weight_hh_l0"]
    cell = recurrent(kind="LSTMCell")
    assert [name for name, _ in quantizable(cell)] == ["rnn.weight_ih", "rnn.weight_hh", "embedding"]


def test_a_recurrent_weight_is_known_by_module_and_name():
    net = nn.LSTM(3, 4)
    (_, first), (_, second) = quantizable(net)
    assert first == dict(quantizable(net))["weight_ih_l0"] == RecurrentWeight(net, "weight_ih_l0") != second
    assert len({first, second, RecurrentWeight(net, "weight_ih_l0")}) == 2 and first.weight is net.weight_ih_l0
    assert RecurrentWeight(nn.LSTM(3, 4), "weight_ih_l0") != first and tensor_of(first) == (net, "weight_ih_l0")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("config", [QuantConfig(bits=2), QuantConfig("integer", 3, per_channel=True)],
                         ids=["kmqat", "integer"])
def test_it_computes_with_the_nearest_levels(case, config):
    plain = recurrent(**case)
    net, x = quantize_(copy.deepcopy(plain), config), feats()
    assert [layer.name for layer in quantized_layers(net)] == [name for name, _ in quantizable(plain)]
    assert average_bits(net) == config.bits and count_parameters(net) == count_parameters(plain)
    expected = by_hand(net, plain)(x)
    for mode in (True, False):
        close(net.train(mode)(x), expected)
        assert all(q.training == mode for _, _, q in quantizers(net))
    assert not torch.allclose(plain(x), expected, atol=1e-3)
    with torch.no_grad():
        close(net(x), expected)


def test_a_packed_sequence_and_a_given_state_too():
    plain = recurrent(batch_first=False)
    net = quantize_(copy.deepcopy(plain), QuantConfig(bits=2))
    reference, lengths = by_hand(net, plain), torch.tensor([12, 7, 3])
    packed = nn.utils.rnn.pack_padded_sequence(feats().transpose(0, 1), lengths)
    close(net.rnn(packed)[0].data, reference.rnn(packed)[0].data)
    state = (torch.randn(1, 8), torch.randn(1, 8))
    close(net.rnn(feats()[0], state)[1][0], reference.rnn(feats()[0], hx=state)[1][0])


def test_bits_belong_to_single_matrices():
    plain = recurrent(layers=2)
    config = QuantConfig("uniform", 4, layers={"rnn.weight_hh*": 2, "rnn.weight_ih_l1": 32})
    net = quantize_(copy.deepcopy(plain), config)
    assert {name: q.bits for name, _, q in quantizers(net)} == {
        "rnn.weight_ih_l0": 4, "rnn.weight_hh_l0": 2, "rnn.weight_hh_l1": 2, "embedding": 4}
    close(net(feats()), by_hand(net, plain)(feats()))
    sizes = {name: layer.weight.numel() for name, layer in quantizable(plain)}
    total = sum(config.bits_of(name) * size for name, size in sizes.items())
    assert average_bits(net) == pytest.approx(total / sum(sizes.values()))
    with pytest.raises(UserError, match="no layer rnn to quantize; it has rnn.weight_ih_l0, rnn.weight_hh_l0"):
        quantize_(plain, QuantConfig(bits=4, layers={"rnn": 2}))
    with pytest.raises(UserError, match="layer rnn.weight_ih_l0 is quantized already"):
        quantize_(net, QuantConfig(bits=4))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_reach_weights_and_scales(case):
    """Straight through: a float weight gets the gradient of its quantized one."""
    plain = recurrent(**case).train()
    net = quantize_(copy.deepcopy(plain), QuantConfig("uniform", 3))
    reference, x = by_hand(net, plain), feats()
    for each in (net, reference):
        each(x).square().sum().backward()
    of = dict(quantizable(reference))
    for name, layer, quantizer in quantizers(net):
        close(float_weight(layer).grad, of[name].weight.grad)
        assert quantizer.alpha.grad.isfinite().all() and (quantizer.alpha.grad != 0).any()
    for name, parameter in reference.rnn.named_parameters():
        if name.startswith("bias"):
            close(getattr(net.rnn, name).grad, parameter.grad)


def test_a_step_of_the_optimizer_changes_what_is_computed():
    net, x = quantize_(recurrent(), QuantConfig("uniform", 4)).train(), feats()
    optimizer = make_optimizer(OptimizerConfig(), net)
    of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, layer, quantizer in quantizers(net):
        assert of[id(quantizer.alpha)]["weight_decay"] == 0 < of[id(float_weight(layer))]["weight_decay"], name
    for _ in range(2):
        before = net(x)
        before.square().sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.step()
        plain = recurrent()
        for name, layer in quantizable(plain):
            layer.weight.data = float_weight(dict(quantizable(net))[name]).detach().clone()
        plain.load_state_dict({k: v for k, v in net.state_dict().items() if "bias" in k}, strict=False)
        assert not torch.allclose(net(x), before, atol=1e-3)
        close(net(x), by_hand(net, plain)(x))


def test_each_weight_is_quantized_once_in_a_pass():
    net, runs = quantize_(recurrent(layers=2, bidirectional=True), QuantConfig("uniform", 4)), []
    for name, _, quantizer in quantizers(net):
        quantizer.register_forward_hook(lambda *_, name=name: runs.append(name))
    net(feats())
    assert sorted(runs) == sorted(name for name, _ in quantizable(net))
    net.rnn.flatten_parameters()  # has nothing to put together
    runs.clear()
    with parametrize.cached(), torch.inference_mode():
        first = net(feats())
        close(net(feats()), first)
    assert len(runs) == len(set(runs))
    assert not vars(net.rnn).get("_flat_weights")  # no graph is left behind


def test_a_pass_that_fails_leaves_nothing_behind():
    net = quantize_(recurrent(), QuantConfig("uniform", 4))
    with pytest.raises(RuntimeError, match="input.size"):
        net(torch.randn(2, 5, FEATS + 1))
    assert "_flat_weights" not in vars(net.rnn) and net(feats()).isfinite().all()


@pytest.mark.parametrize("case", [{}, {"layers": 2, "bidirectional": True}, {"kind": "GRU"}, {"kind": "LSTMCell"}],
                         ids=str)
def test_copies_go_their_own_way(case):
    plain = recurrent(**case)
    net, x = quantize_(copy.deepcopy(plain), QuantConfig(bits=2, layers={"*hh*": 32})), feats()
    before = copy.deepcopy(net)
    expected = net(x)
    after = copy.deepcopy(net)
    for other in (before, after):
        close(other(x), expected)
    freeze_(before)
    close(before(x), expected)
    names = [name for name, _ in quantizable(after)]
    quantize_(after, QuantConfig(bits=1), only=[name for name in names if "hh" in name])
    assert not torch.allclose(after(x), expected, atol=1e-4)
    for _, layer, _ in list(quantizers(after)):
        detach_(layer, keep_quantized=False)
    close(after(x), plain(x))
    close(net(x), expected)  # whatever was done to the copies
    assert [name for name, _, _ in quantizers(net)] == [name for name in names if "hh" not in name]
    with torch.no_grad():
        float_weight(next(quantizable(net))[1]).mul_(-1)
    assert not torch.allclose(net(x), expected, atol=1e-4)
    close(copy.deepcopy(net)(x), net(x))


def test_copies_of_other_layers_do_too():
    net = quantize_(nn.Sequential(nn.Linear(3, 2)), QuantConfig("uniform", 4))
    expected = net[0].weight.clone()
    freeze_(copy.deepcopy(net))
    assert torch.equal(net[0].weight, expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_goes_into_another_network(case):
    net, x = quantize_(recurrent(**case), QuantConfig(bits=3)), feats()
    other = quantize_(recurrent(seed=5, **case), QuantConfig(bits=3))
    other(x)
    assert not torch.allclose(net(x), other(x), atol=1e-3)
    for assign in (False, True):
        load_state(other, {name: tensor.clone() for name, tensor in net.state_dict().items()}, "here", assign)
        close(other(x), net(x))


@pytest.mark.parametrize("case", [{}, {"kind": "GRU", "layers": 2}, {"kind": "RNNCell"}], ids=str)
def test_another_type_and_place(case):
    net, x = quantize_(recurrent(**case), QuantConfig(bits=3)), feats()
    expected = net(x)
    assert net.double()(x.double()).dtype == torch.float64
    close(net(x.double()).float(), expected)
    net.float().to("cpu", memory_format=torch.channels_last)
    close(net(x), expected)
    if isinstance(net.rnn, nn.RNNBase):
        assert net.rnn.weight_ih_l0.dtype == torch.float32
        with pytest.raises(ValueError, match="input dtype"):
            net(x.double())
    meta = copy.deepcopy(net).to("meta")
    assert all(parameter.is_meta for parameter in meta.parameters())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_frozen_it_is_a_plain_module(case):
    plain = recurrent(**case)
    net, x = quantize_(copy.deepcopy(plain), QuantConfig(bits=2)), feats()
    reference, kind = by_hand(net, plain), type(plain.rnn)
    assert type(net.rnn) is not kind and isinstance(net.rnn, kind)
    freeze_(net)
    assert type(net.rnn) is kind and not list(quantizers(net)) and net.state_dict().keys() == plain.state_dict().keys()
    close(net(x), reference(x))
    if isinstance(net.rnn, nn.RNNBase):
        assert all(a is getattr(net.rnn, name) for a, name in zip(net.rnn._flat_weights, net.rnn._flat_weights_names))
    close(copy.deepcopy(net)(x), reference(x))
    load_state(net, plain.state_dict(), "here")
    close(net(x), plain(x))
    close(freeze_(quantize_(net, QuantConfig(bits=2)))(x), reference(x))  # and may be quantized again


def test_layers_follow_one_after_the_other():
    """As multi-stage training quantizes: low bits first, each layer from its present float weights."""
    config = QuantConfig("uniform", 4, layers={"rnn.weight_hh_l0": 2})
    plain = recurrent()
    net, x = copy.deepcopy(plain), feats()
    quantize_up_to_(net, config, 2)
    assert [name for name, _, _ in quantizers(net)] == ["rnn.weight_hh_l0"]
    close(net(x), by_hand(net, plain)(x))
    quantize_up_to_(net, config, 4)
    close(net(x), by_hand(net, plain)(x))
    close(net(x), quantize_(copy.deepcopy(plain), config)(x))


@pytest.mark.parametrize("method, bits", [("twn", 2), ("admm", 4), ("static", 1), ("adaptive", 1), ("apot", 3)])
def test_any_method(method, bits):
    net, x = quantize_(recurrent(layers=2), QuantConfig(method, bits)).train(), feats()
    net(x).square().sum().backward()
    with torch.no_grad():
        for _, layer, _ in quantizers(net):
            float_weight(layer).sub_(float_weight(layer).grad)
    outer_update_(net), refit_(net)
    net.eval()
    assert all(channel.unique().numel() <= 2**bits for _, layer, _ in quantizers(net) for channel in layer.weight)
    expected = net(x)
    close(freeze_(net)(x), expected)


def model(monkeypatch, quant=None, **options) -> ModelConfig:
    return ModelConfig(register(monkeypatch), options, EMBED, FrontEndConfig(num_mels=FEATS), quant)


@given(case=st.sampled_from(CASES), method=st.sampled_from(["kmqat", "uniform", "integer"]), bits=st.integers(2, 8),
       mixed=st.sampled_from([None, {"*hh*": 32}, {"*ih*": 3, "embedding": 32}, {"rnn*": 32}]),
       per_channel=st.booleans(), entropy=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_packed_file_gives_the_same_embeddings(tmp_path_factory, case, method, bits, mixed, per_channel, entropy):
    with pytest.MonkeyPatch.context() as patch:
        quant = QuantConfig(method, bits, layers=mixed, per_channel=per_channel)
        config = model(patch, quant, **case)
        path, net = tmp_path_factory.mktemp("packed") / "model.svq", quantize_(recurrent(**case), quant)
        size = save_packed(path, net, config, entropy=entropy)
        if not entropy:
            assert size == path.stat().st_size == packed_bytes(net, quant, config) == packed_bytes(
                recurrent(**case), quant, config)
        other, found = load_packed(path)
        # Codebooks for each channel are held in float16.
        close(other(feats()), net(feats()), **({"rtol": 1e-2, "atol": 1e-3} if per_channel else {}))
        assert {name: found.quant.bits_of(name) for name, _ in quantizable(net)} == {
            name: quant.bits_of(name) for name, _ in quantizable(net)}
        assert type(other.rnn).__name__ == case.get("kind", "LSTM") and not any(p.is_meta for p in other.parameters())
        close(copy.deepcopy(other).double()(feats().double()).float(), other(feats()))


def test_what_a_packed_file_holds(monkeypatch, tmp_path):
    quant = QuantConfig(bits=4, layers={"rnn.weight_hh_l0": 32})
    save_packed(tmp_path / "x.svq", quantize_(recurrent(), quant), model(monkeypatch, quant))
    with safe_open(tmp_path / "x.svq", "pt") as file:
        assert set(file.keys()) == {"codes", "codebooks", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0",
                                    "embedding.bias"}
        rows = json.loads(file.metadata()["svq"])["layers"]
        assert [row[:2] for row in rows] == [["rnn.weight_ih_l0", 4], ["embedding", 4]]
        assert file.get_tensor("codes").numel() == (32 * FEATS + EMBED * 8) // 2


@pytest.mark.parametrize("case", [{}, {"kind": "GRU", "bidirectional": True}], ids=str)
def test_a_nested_network(monkeypatch, tmp_path, case):
    quant = QuantConfig("nested", 4, precisions=(2, 4), per_channel=False)  # whose codebooks are held in float32
    config, net = model(monkeypatch, quant, **case), quantize_(recurrent(**case), quant)
    size = save_packed(tmp_path / "x.svq", net, config)
    assert size == packed_bytes(net, quant, config) == packed_bytes(recurrent(**case), quant, config)
    save_model(tmp_path / "folder", net, config)
    for bits in (2, 4):
        set_precision_(net, bits)
        plain, _ = load_model(tmp_path / "folder", bits)
        assert {q.bits for _, _, q in quantizers(plain)} == {bits}
        for other in (plain, load_packed(tmp_path / "x.svq", bits)[0]):
            close(other(feats()), net(feats()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_model_folder(monkeypatch, tmp_path, case):
    quant = QuantConfig(bits=3)
    net, config = quantize_(recurrent(**case), quant), model(monkeypatch, quant, **case)
    with torch.no_grad():
        for _, layer, quantizer in quantizers(net):
            float_weight(layer).mul_(1.2), quantizer.alpha.mul_(1.1)
    save_model(tmp_path, net, config)
    other, found = load_model(tmp_path)
    close(other(feats()), net(feats()))
    assert found == config and [name for name, _, _ in quantizers(other)] == [name for name, _, _ in quantizers(net)]
    vectors = dict(embed(other, [("a", feats()[0]), ("b", feats()[1])]))
    close(torch.from_numpy(vectors["b"]), net(feats())[1].detach())


def test_a_damaged_row_is_refused(monkeypatch, tmp_path):
    quant = QuantConfig(bits=4)
    of_an_lstm = model(monkeypatch, quant)
    save_packed(tmp_path / "x.svq", quantize_(recurrent(kind="GRU"), quant), of_an_lstm)
    with pytest.raises(UserError, match="x.svq: .*pack it again"):
        load_packed(tmp_path / "x.svq")


class Attending(nn.Module):
    """An embedding table, self-attention and a transposed convolution, beside layers that can be quantized."""

    def __init__(self, table: int = 12):
        super().__init__()
        self.table = nn.Embedding(table, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 4, 3)
        self.scale = nn.Parameter(torch.ones(1, 8, 1))
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        return self.last(self.attention(x, x, x)[0])


def test_what_stays_in_float_is_named():
    net = Attending()
    expected = [("table.weight", 96), ("attention.in_proj_weight", 192), ("up.weight", 96)]
    assert left_in_float(net) == expected
    with pytest.warns(UserWarning, match="80.0 % of the weights stay in float, as there is no quantizer for "
                                         "table.weight, attention.in_proj_weight, up.weight") as caught:
        quantize_(net, QuantConfig("nested", 4))
    assert len(caught) == 1 and caught[0].filename == __file__ and left_in_float(net) == expected
    assert left_in_float(freeze_(net)) == expected and left_in_float(recurrent(layers=2)) == []


@pytest.mark.parametrize("net, config", [
    (nn.Sequential(nn.Linear(40, 40), nn.Embedding(4, 4)), QuantConfig("uniform")),  # 16 of 1616 weights
    (nn.Sequential(nn.Linear(40, 40), nn.BatchNorm1d(40)), QuantConfig("uniform")),
    (Attending(), QuantConfig("uniform", layers={"*": 32})),  # nothing is quantized
])
def test_no_warning_of_next_to_nothing(net, config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize_(net, config)


@pytest.mark.parametrize("grad", [True, False])
def test_attention_computes_with_its_quantized_output_layer(grad):
    plain = Attending().eval()
    with pytest.warns(UserWarning, match="in_proj_weight"):
        net = quantize_(copy.deepcopy(plain), QuantConfig("uniform", 2))
    assert [name for name, _, _ in quantizers(net)] == ["attention.out_proj", "last"]
    x = torch.randn(2, 5, 8)
    with torch.set_grad_enabled(grad):
        close(net(x), by_hand(net, plain)(x))
        assert not torch.allclose(net(x), plain(x), atol=1e-3)
