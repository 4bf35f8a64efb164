"""Nested codes: prefixes, levels, gradients, one packed file for all precisions, plain models made of them."""

import copy
import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from svq.bin import at_precision, inspect, pack
from svq.config import to_dict
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.network import ModelConfig, save_tensors
from svq.pack.file import load_packed, packed_bytes, save_packed
from svq.pack.format import digest, pack_codes, unpack_codes
from svq.pack.nested import at_precision_, bytes_read, join_codes, names_at, split_codes
from svq.quant import QuantConfig, quantize_
from svq.quant.api import count_parameters, float_weight, quantizers
from svq.quant.nested import NestedQuantizer, PrecisionNorms, precisions_of, set_precision_
from svq.quant.quantizers import make_quantizer
from svq.train.objective import AAMSoftmax, Objective
from tests.helpers import run_worker

PRECISIONS = [(2, 4), (1, 2, 4), (2, 3, 5), (1, 8)]
FEATS = torch.randn(4, 40, 24, generator=torch.Generator().manual_seed(1))


def nested(precisions=(2, 4), **settings):
    return QuantConfig("nested", precisions[-1], precisions=precisions, **settings)


def make_net(quant, seed=0, dtype=torch.float32):
    """A small nested network whose precisions differ in norms and levels, as after training; and its config."""
    torch.manual_seed(seed)
    config = ModelConfig("ResNet18", {"width": 4}, 8, FrontEndConfig(num_mels=24), quant)
    net = quantize_(config.build().to(dtype), quant)
    with torch.no_grad():
        for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
        for name, _, quantizer in quantizers(net):
            for parameter in quantizer.parameters():
                parameter.mul_(0.9 + 0.02 * len(name) / 20)
    return net.eval(), config


@pytest.fixture(scope="module", params=[(2, 4), (1, 2, 4)], ids=str)
def model(request):
    return make_net(nested(request.param))


@pytest.fixture(scope="module")
def packed(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("nested") / "model.svq"
    save_packed(path, *model, calibration={"slope": 2.0})
    return path


@pytest.fixture(scope="module")
def members(model, packed):
    """By precision, the file that svq.bin.at_precision makes of the packed one."""
    for bits in precisions_of(model[0]):
        make_plain(packed, packed.parent / f"{bits}.svq", bits)
    return {bits: packed.parent / f"{bits}.svq" for bits in precisions_of(model[0])}


def make_plain(model, out, bits=2):
    run_worker(at_precision.main, "--model", model, "--precision", bits, "--out", out)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A nested and a plain model, each as a folder and packed."""
    folder = tmp_path_factory.mktemp("places")
    for name, quant in (("nested", nested()), ("plain", QuantConfig())):
        net, config = make_net(quant)
        save_model(folder / name, net, config)
        save_packed(folder / f"{name}.svq", net, config)
    return folder


@torch.no_grad()
def embeddings(net, precision=None):
    return (net if precision is None else set_precision_(net, precision))(FEATS)


@given(st.sampled_from(PRECISIONS), st.booleans(), st.integers(0, 2**20), st.floats(-1.5, 1.5))
@settings(max_examples=25, deadline=None)
def test_codes_of_few_bits_begin_those_of_many(precisions, per_channel, seed, factor):
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.standard_normal((3, 4, 5)) * 0.05)
    config = nested(precisions, per_channel=per_channel)
    quantizer = make_quantizer(weight, config, config.bits).eval()
    with torch.no_grad():
        for parameter in quantizer.parameters():  # out of order too, and scales below zero
            parameter.mul_(factor).add_(torch.from_numpy(np.asarray(rng.standard_normal(parameter.shape) * 0.02)))
    weight = weight * 1.1
    whole = quantizer.codes(weight).int()
    for bits in precisions:
        quantizer.precision = bits
        codebook, codes = quantizer.codebook(), quantizer.codes(weight).int()
        assert codebook.shape == ((3, 2**bits) if per_channel else (2**bits,)) and (codebook.diff() >= 0).all()
        assert torch.equal(codes, whole >> (precisions[-1] - bits))
        rows = codebook if per_channel else codebook.expand(3, -1)
        assert torch.equal(quantizer(weight), rows.gather(1, codes.long().flatten(1)).view_as(weight))


@pytest.mark.parametrize("per_channel", [False, True])
def test_levels_start_as_the_means_of_their_weights(per_channel):
    weight = torch.randn(4, 50, dtype=torch.float64)
    quantizer = make_quantizer(weight, nested((1, 3, 4), per_channel=per_channel), 4)
    top = quantizer.codebook()
    for bits in (1, 3):
        for row in range(4) if per_channel else [slice(None)]:
            own = top[row] if per_channel else top
            edges = [-np.inf, *((own[1:] + own[:-1]) / 2).tolist()[2 ** (4 - bits) - 1 :: 2 ** (4 - bits)], np.inf]
            values = weight[row].flatten().tolist()
            found = quantizer.lower[str(bits)][row if per_channel else slice(None)].tolist()
            for low, high, level in zip(edges, edges[1:], found):
                cell = [value for value in values if low < value <= high]
                assert level == pytest.approx(sum(cell) / len(cell)) if cell else low < level <= high


def test_a_layer_of_one_value_has_that_level():
    quantizer = make_quantizer(torch.full((2, 3), 0.25), nested(), 4).eval()
    for bits in (2, 4):
        quantizer.precision = bits
        assert quantizer(torch.full((2, 3), 0.25)).unique().tolist() == [0.25]


def test_the_highest_precision_is_kmqat():
    weight = torch.randn(6, 30, requires_grad=True)
    results = []
    for config in (nested(retention=0.8), QuantConfig("kmqat", 4, retention=0.8)):
        quantizer = make_quantizer(weight, config, 4)
        out = quantizer(weight)
        (alpha,) = [p for name, p in quantizer.named_parameters() if name.endswith("alpha")]
        results.append((out, quantizer.codebook(), *torch.autograd.grad((out * out.sin()).sum(), [weight, alpha])))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_of_levels_are_exact_and_those_of_weights_straight_through(per_channel):
    weight = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    quantizer = make_quantizer(weight, nested(per_channel=per_channel), 4)
    quantizer.precision = 2
    levels = quantizer.lower["2"]

    def loss(values):
        with torch.no_grad():
            levels.copy_(values)
        return quantizer(weight).sin().square().sum()

    start = levels.detach().clone()
    out = quantizer(weight)
    grad_weight, grad_levels = torch.autograd.grad(out.sin().square().sum(), [weight, levels])
    assert torch.allclose(grad_weight, 2 * out.sin() * out.cos())
    for index in np.ndindex(*start.shape):
        step = torch.zeros_like(start)
        step[index] = 1e-6
        slope = (loss(start + step) - loss(start - step)).item() / 2e-6
        assert slope == pytest.approx(grad_levels[index].item(), abs=1e-7)


def test_a_step_learns_for_all_precisions_at_once(monkeypatch):
    """The mean of the losses; its gradient is the mean of theirs and, where it is smooth, of finite differences."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # pooling and losses in float64 too
    net, _ = make_net(nested((1, 2, 4)), dtype=torch.float64)
    objective = Objective(net.train(), AAMSoftmax(8, 3, 8.0).double())
    labels, before = torch.tensor([0, 1, 2, 0]), copy.deepcopy(objective.state_dict())

    def step(run):
        """Loss and gradients by name, from the state before."""
        objective.load_state_dict(before)
        objective.zero_grad()
        loss = run(FEATS.double(), labels, 0.2)[0]
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}

    joint, gradients = step(objective)
    assert all(quantizer.precision == 4 for _, _, quantizer in quantizers(net))
    assert gradients.keys() == dict(objective.named_parameters()).keys()
    single = []
    for bits in (1, 2, 4):
        set_precision_(net, bits)
        single.append(step(lambda *given: objective._minimize(*given, None, None)))
    assert joint == pytest.approx(sum(loss for loss, _ in single) / 3, rel=1e-12)
    for name, gradient in gradients.items():
        mean = sum(found[name] for _, found in single if name in found) / 3
        assert torch.allclose(gradient, mean, rtol=1e-6, atol=1e-9 + 1e-9 * mean.abs().max().item()), name
    layer = next(name for name in gradients if "conv" in name and name.endswith("lower.1"))[:-2]
    for name in (f"{layer}.1", f"{layer}.2", "net.bn1.1.weight", "net.bn1.2.bias", "net.bn1.4.weight", "head.weight"):
        direction = gradients[name] / gradients[name].norm()
        size, kept, losses = 1e-6 * before[name].norm().item(), before[name], []
        for sign in (1, -1):
            before[name] = kept + sign * size * direction
            losses.append(step(objective)[0])
        before[name] = kept
        assert (losses[0] - losses[1]) / (2 * size) == pytest.approx(gradients[name].norm().item(), rel=1e-3), name


def test_norms_are_of_one_precision_each():
    net, _ = make_net(nested())
    norms = [module for module in net.modules() if isinstance(module, PrecisionNorms)]
    assert len(norms) == sum(isinstance(m, nn.BatchNorm2d) for m in ModelConfig("ResNet18").build().modules())
    before = copy.deepcopy(net.state_dict())
    set_precision_(net.train(), 2)(FEATS)
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.split(".")[-2] == "2" for name in changed)
    assert quantize_(net, nested(), only=[]) is net and "bn1.2.2.weight" not in net.state_dict()  # not again
    plain, _ = make_net(QuantConfig())
    assert count_parameters(net) == count_parameters(plain)


@given(st.sampled_from(PRECISIONS), st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 2**20))
def test_codes_split_and_joined(precisions, sizes, seed):
    rng = np.random.default_rng(seed)
    layers = [rng.integers(0, 2 ** precisions[-1], size, dtype=np.uint8) for size in sizes]
    whole = np.concatenate([pack_codes(codes, precisions[-1]) for codes in layers])
    parts = split_codes(whole, sizes, precisions)
    assert sum(part.size for part in parts.values()) <= whole.size + len(precisions) * len(sizes)
    for count, bits in enumerate(precisions, 1):
        joined, start = join_codes({p: parts[p] for p in precisions[:count]}, sizes), 0
        for codes in layers:
            end = start + -(-codes.size * bits // 8)
            leading = codes >> (precisions[-1] - bits)
            assert unpack_codes(joined[start:end], bits, codes.size).tolist() == leading.tolist()
            start = end
        assert start == joined.size
    with pytest.raises(ValueError, match="bytes"):
        join_codes(parts | {precisions[0]: np.append(parts[precisions[0]], np.uint8(0))}, sizes)


def test_each_precision_comes_out_of_the_file_as_it_went_in(model, packed):
    net, config = model
    for bits in precisions_of(net):
        loaded, plain = load_packed(packed, bits)
        assert plain.quant == QuantConfig("kmqat", bits)
        assert not [m for m in loaded.modules() if isinstance(m, PrecisionNorms)]
        cosine = torch.cosine_similarity(embeddings(net, bits).double(), embeddings(loaded).double())
        assert (1 - cosine).max() < 1e-5
    highest = load_model(packed)
    assert torch.equal(embeddings(highest[0]), embeddings(loaded)) and highest[1] == plain


def test_a_precision_is_the_file_of_that_precision_alone(model, members, tmp_path):
    net, config = model
    for bits, path in members.items():
        member = at_precision_(copy.deepcopy(net), bits)
        assert torch.equal(embeddings(member), embeddings(net, bits))
        save_packed(tmp_path / "alone.svq", member, dataclasses.replace(config, quant=config.quant.at(bits)),
                    {"slope": 2.0} if bits == 4 else None)
        assert path.read_bytes() == (tmp_path / "alone.svq").read_bytes()


def test_one_file_for_all(model, packed, members):
    """As large as that of the highest precision alone, and what the lower ones have beside codes."""
    net, config = model
    sizes, extra = {bits: os.path.getsize(path) for bits, path in members.items()}, 0
    for bits, path in members.items():
        assert bytes_read(path) == sizes[bits]
        with safe_open(path, framework="pt") as file:
            extra += 0 if bits == 4 else sum(file.get_tensor(name).nbytes for name in ("codebooks", "norms"))
    whole, header = os.path.getsize(packed), 250 * len(sizes) + 100
    assert whole == packed_bytes(net, config.quant, config, {"slope": 2.0})
    assert whole == packed_bytes(config.build(), config.quant, config, {"slope": 2.0})
    assert sizes[4] < whole < sizes[4] + extra + header < sum(sizes.values())
    assert 0 < bytes_read(packed, 2) - sizes[2] < header
    assert bytes_read(packed) == bytes_read(packed, 4) < whole


@pytest.mark.parametrize("damaged, read, refused", [("codes@4", 2, 4), ("codebooks@2", 4, 2), ("norms@4", 2, 4)])
def test_only_what_a_precision_needs_is_read(packed, tmp_path, damaged, read, refused):
    path, data = tmp_path / "damaged.svq", bytearray(packed.read_bytes())
    with safe_open(packed, framework="pt") as file:
        spot = file.get_tensor(damaged).numpy().tobytes()
    at = data.find(spot)
    assert at > 0
    data[at + 3] ^= 1
    path.write_bytes(data)
    assert torch.equal(embeddings(load_packed(path, read)[0]), embeddings(load_packed(packed, read)[0]))
    with pytest.raises(UserError, match="does not match its digest"):
        load_packed(path, refused)


def test_codebooks_per_channel_layers_in_float_and_norms_beyond_float16(tmp_path):
    net, config = make_net(nested(per_channel=True, layers={"conv1": 32}))
    net.bn1["2"].weight.data[0] = 1e-9  # a scale below what float16 keeps in full
    size = save_packed(tmp_path / "model.svq", net, config)
    with safe_open(tmp_path / "model.svq", framework="pt") as file:
        assert {"conv1.weight", "bn1.scale@2", "codebooks@2"} <= set(file.keys()) and "bn1.scale@4" not in file.keys()
    assert size == packed_bytes(net, config.quant, config)
    for bits in (2, 4):
        loaded, plain = load_packed(tmp_path / "model.svq", bits)
        assert (plain.quant.bits_of("conv1"), plain.quant.bits_of("embedding")) == (32, bits)
        cosine = torch.cosine_similarity(embeddings(net, bits).double(), embeddings(loaded).double())
        assert (1 - cosine).max() < 1e-5


@pytest.mark.parametrize("change, words", [
    (lambda about, tensors: about["model"]["quant"].pop("precisions"), "its precisions are not described"),
    (lambda about, tensors: about["layers"].pop(), "its layers are not described .*more bytes of codes"),
    (lambda about, tensors: about["layers"][0].__setitem__(0, "conv99"), "its layers are not described"),
    (lambda about, tensors: about.__setitem__("digest", "x"), "its content does not match its digest"),
    (lambda about, tensors: tensors.__setitem__("codes@4", tensors["codes@4"][:-1]), "its layers are not described"),
])
def test_a_file_that_does_not_say_what_it_holds(places, tmp_path, change, words):
    with safe_open(places / "nested.svq", framework="pt") as file:
        about, tensors = json.loads(file.metadata()["svq"]), {name: file.get_tensor(name) for name in file.keys()}
    change(about, tensors)
    if isinstance(about["digest"], dict):
        about["digest"]["4"] = digest(about, {name: tensors[name] for name in names_at(tensors, 4)})
    save_tensors(tmp_path / "altered.svq", tensors, {"svq": json.dumps(about)})
    with pytest.raises(UserError, match=f"altered.svq: {words}") as error:
        load_packed(tmp_path / "altered.svq")
    assert "\n" not in str(error.value)


def test_folders(tmp_path, capsys):
    net, config = make_net(nested())
    save_model(tmp_path / "nested", net, config)
    again, told = load_model(tmp_path / "nested")
    assert told == config and precisions_of(again) == (2, 4) and torch.equal(embeddings(again), embeddings(net))
    for bits in (2, 4):
        make_plain(tmp_path / "nested", tmp_path / "plain", bits)
        plain, told = load_model(tmp_path / "plain")
        assert told.quant == QuantConfig("kmqat", bits)
        assert torch.equal(embeddings(plain), embeddings(net, bits))
        assert torch.equal(embeddings(plain), embeddings(again, bits))
        pairs = zip(quantizers(net), quantizers(plain))
        weights = [(float_weight(a), float_weight(b)) for (_, a, _), (_, b, _) in pairs]
        same = sum(int((a == b).sum()) for a, b in weights) / sum(a.numel() for a, _ in weights)
        assert same == 1 if bits == 4 else 0.8 < same < 1
        assert not [m for m in plain.modules() if isinstance(m, (NestedQuantizer, PrecisionNorms))]
    run_worker(pack.main, tmp_path / "nested")
    assert '"bytes_read"' in (tmp_path / "nested" / "summary.json").read_text()
    capsys.readouterr()
    run_worker(inspect.main, tmp_path / "nested" / "model.svq", "--precision", 2)
    said = capsys.readouterr().out
    assert "of 2 bits on average" in said and "nested: one of the precisions of a file of" in said


@pytest.mark.parametrize("run, words", [
    (lambda folder: load_model(folder / "nested", 3), "has the precisions 2, 4; 3 is none of them"),
    (lambda folder: load_model(folder / "nested.svq", 8), "has the precisions 2, 4; 8 is none of them"),
    (lambda folder: load_model(folder / "plain", 4), "not a nested model"),
    (lambda folder: load_model(folder / "plain.svq", 4), "not a nested model"),
    (lambda folder: bytes_read(folder / "plain.svq", 4), "not a nested model"),
    (lambda folder: bytes_read(folder / "none.svq"), "no such file"),
    (lambda folder: run_worker(pack.main, folder / "nested", "--entropy"), "without --entropy"),
    (lambda folder: make_plain(folder / "nested", folder / "x.svq"), "name one as --out"),
    (lambda folder: make_plain(folder / "nested", folder / "nested"), "is --model itself"),
])
def test_mistakes_are_one_line(places, run, words):
    before = sorted(places.rglob("*"))
    with pytest.raises(UserError, match=words) as error:
        run(places)
    assert "\n" not in str(error.value) and str(places) in str(error.value)
    assert sorted(places.rglob("*")) == before


@pytest.mark.parametrize("settings, words", [
    (dict(bits=1), "1 bit is too few"),
    (dict(bits=4, precisions=(4,)), "two or more"),
    (dict(bits=4, precisions=(4, 2)), "ascending"),
    (dict(bits=4, precisions=(2, 3)), "the last precision must be bits"),
    (dict(bits=4, layers={"conv1": 2}), "a layer has all precisions"),
    (dict(bits=4, binary="static"), "leave out binary"),
    (dict(method="kmqat", precisions=(2, 4)), "precisions is a setting of method nested; leave it out for kmqat"),
])
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        QuantConfig(**{"method": "nested", **settings})


def test_settings_of_other_methods_are_written_as_before():
    assert "precisions" not in to_dict(QuantConfig()) and to_dict(nested())["precisions"] == [2, 4]
    assert QuantConfig("nested", 5).precisions == (3, 5)
    kept = nested(layers={"conv1": 32}, per_channel=True, retention=0.8).at(2)
    assert kept == QuantConfig("kmqat", 2, layers={"conv1": 32}, per_channel=True, retention=0.8)
