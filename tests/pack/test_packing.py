"""Packed models: bits to bytes and back, the file's size, the same embeddings, and damage that is noticed."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from svq.bin import inspect, pack
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.nets import num_parameters
from svq.network import ModelConfig, save_tensors
from svq.pack.file import load_packed, packed_bytes, save_packed
from svq.pack.format import compress_codes, decompress_codes, digest, pack_codes, packed_size, unpack_codes
from svq.pack.reading import read_packed
from svq.quant import QuantConfig, quantize_
from svq.quant.api import (
    average_bits,
    count_parameters,
    float_weight,
    fold_batch_norm_,
    folded,
    quantizable,
    quantizers,
)
from tests.helpers import run_worker

bits_and_codes = st.integers(1, 8).flatmap(
    lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=200)))


@given(bits_and_codes)
def test_codes_survive_packing(case):
    bits, codes = case
    packed = pack_codes(np.array(codes, dtype=np.uint8), bits)
    assert packed.dtype == np.uint8 and packed.size == packed_size(len(codes), bits) == (len(codes) * bits + 7) // 8
    # The definition: the codes' binary digits one after the other, filled up with zeros.
    digits = "".join(f"{code:0{bits}b}" for code in codes)
    assert "".join(f"{byte:08b}" for byte in packed) == digits.ljust(8 * packed.size, "0")
    assert unpack_codes(packed, bits, len(codes)).tolist() == codes


@given(bits_and_codes, st.sampled_from([-1, 1, 7]))
def test_wrong_number_of_bytes_is_refused(case, more):
    bits, codes = case
    packed = pack_codes(np.array(codes, dtype=np.uint8), bits)
    wrong = np.resize(packed, max(0, packed.size + more)) if packed.size else np.zeros(1, np.uint8)
    with pytest.raises(ValueError, match="bytes for"):
        unpack_codes(wrong, bits, len(codes))


def test_a_code_that_needs_more_bits_is_refused():
    with pytest.raises(ValueError, match="code 4 does not fit 2 bits"):
        pack_codes(np.array([0, 4], dtype=np.uint8), 2)


levels_and_codes = st.integers(1, 256).flatmap(
    lambda levels: st.tuples(st.just(levels), st.lists(st.integers(0, levels - 1), max_size=300)))


@given(levels_and_codes)
def test_codes_survive_compression(case):
    levels, codes = case
    data = compress_codes(np.array(codes, dtype=np.uint8), levels)
    assert data.dtype == np.uint8
    assert decompress_codes(data, levels, len(codes)).tolist() == codes
    with pytest.raises(ValueError, match="do not hold"):
        decompress_codes(data, levels, len(codes) + 8)
    with pytest.raises(ValueError, match="do not hold"):
        decompress_codes(np.concatenate([data, data[:1]]), levels, len(codes))
    with pytest.raises(ValueError, match="do not hold"):
        decompress_codes(data[:-1], levels, len(codes))


@given(levels_and_codes, st.data())
def test_altered_huffman_codes_give_an_error_or_codes_of_the_right_number(case, data):
    levels, codes = case
    altered = compress_codes(np.array(codes, dtype=np.uint8), levels).copy()
    altered[data.draw(st.integers(0, altered.size - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert decompress_codes(altered, levels, len(codes)).shape == (len(codes),)
    except ValueError as error:
        assert "Huffman codes" in str(error)


def test_a_stream_that_would_expand_is_cut_off():
    bomb = zlib.compress(bytes(50_000_000), 9, -zlib.MAX_WBITS)
    tracemalloc.start()
    with pytest.raises(ValueError, match="do not hold 1000 codes"):
        decompress_codes(np.frombuffer(bomb, dtype=np.uint8), 16, 1000)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("levels", [2, 3, 4, 7, 8, 16, 31, 256])
def test_compressed_codes_come_near_their_entropy(levels):
    rng = np.random.default_rng(levels)
    shares = rng.dirichlet(np.full(levels, 2.0))
    codes = rng.choice(levels, 200_000, p=shares).astype(np.uint8)
    counts = np.bincount(codes, minlength=levels) / codes.size
    entropy = -(counts[counts > 0] * np.log2(counts[counts > 0])).sum() * codes.size / 8
    assert entropy * 0.999 < compress_codes(codes, levels).size < entropy * 1.015 + 100


def trained(bits, arch="ResNet18", width=4, embed_dim=16, seed=0, per_channel=False, **quant):
    """A quantized network with batch-norm statistics, scales and affine parameters as after training."""
    torch.manual_seed(seed)
    config = ModelConfig(arch, {"width": width}, embed_dim, quant=QuantConfig(bits=bits, per_channel=per_channel, **quant))
    net = quantize_(config.build().eval(), config.quant)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.running_var[0], module.weight[0] = 1e-9, 0.01  # a channel that hardly ever speaks
                module.bias.normal_(0, 0.2)
        for _, _, quantizer in quantizers(net):
            for parameter in quantizer.parameters():
                parameter.mul_(0.9)
    return net, config


def features(num_mels=80):
    return torch.randn(3, 60, num_mels, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def distance(net, other):
    a, b = net(features()).double(), other(features()).double()
    return float((1 - torch.cosine_similarity(a, b)).abs().max())


@pytest.mark.parametrize("arch, options", [("ResNet18", {"width": 4}), ("XVector", {"width": 8, "wide": 12})])
def test_folded_batch_norm_is_batch_norm(arch, options):
    """That of XVector learns neither scale nor shift."""
    float_net = ModelConfig(arch, options, 16).build().eval()
    norms = [module for module in float_net.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert {norm.affine for norm in norms} == {arch == "ResNet18"}
    for norm in norms:
        norm.running_var.uniform_(0.01, 3)
        norm.running_mean.normal_()
    with torch.no_grad():
        before = float_net(features())
        after = fold_batch_norm_(float_net)(features())
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in float_net.modules())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


CASES = [(method, bits) for method in ("kmqat", "uniform", "pot", "apot", "admm") for bits in range(1, 9)]
CASES += [("twn", 2), ("static", 1), ("adaptive", 1)]


PER_CHANNEL = [(method, bits) for method, bits in CASES if method == "kmqat" or bits <= 2]


@pytest.mark.parametrize("method, bits, per_channel", [
    *((*case, False) for case in CASES), *((*case, True) for case in PER_CHANNEL)])
def test_packed_file_gives_the_same_embeddings(tmp_path, method, bits, per_channel):
    path = tmp_path / "model.svq"
    net, config = trained(bits, method=method, per_channel=per_channel)
    plain = packed_bytes(net, config.quant, config, {"offset": 1.5})
    for entropy in (False, True):
        size = save_packed(path, net, config, {"offset": 1.5}, entropy)
        assert size == os.path.getsize(path) and (size <= plain + 100 if entropy else size == plain)
        other, read = load_model(path)
        assert read == config and not other.training
        # Weights from codebooks per layer are those of the quantizers, so what is left is the rounding of batch norm.
        for name, module, _ in quantizers(net):
            weight, loaded = module.weight.detach(), other.get_submodule(name).weight
            if per_channel:
                torch.testing.assert_close(loaded, weight, rtol=2**-11, atol=2**-11 * weight.abs().max().item())
            else:
                assert torch.equal(loaded, weight)
    assert distance(net, other) < 1e-5
    about, _ = read_packed(path)
    assert about["calibration"] == {"offset": 1.5}
    assert len(about["layers"]) == 21 and all(row[1] == bits for row in about["layers"])
    assert count_parameters(net) == count_parameters(other) == num_parameters(ModelConfig.build(config))


def test_layers_of_their_own_bits_and_layers_in_float(tmp_path):
    names = [name for name, _ in quantizable(ModelConfig("ResNet18", {"width": 4}, 16).build())]
    layers = dict(zip(names, [32, 8, 1, 2, 3, 4, 5, 6, 7] * 3))
    net, config = trained(4, layers=layers, binary="adaptive")
    save_packed(tmp_path / "a.svq", net, config)
    other, read = load_model(tmp_path / "a.svq")
    assert read == config and distance(net, other) < 1e-5
    assert torch.equal(other.conv1.weight, net.conv1.weight) and read.quant.bits_of("conv1") == 32
    # What is not said of a layer is said of it in the packed file.
    net, config = trained(4, layers={"embedding": 2})
    save_packed(tmp_path / "b.svq", net, config)
    quant = load_model(tmp_path / "b.svq")[1].quant
    assert [quant.bits_of(name) for name in names] == [4] * 20 + [2]
    net, config = trained(2, layers={"layers.[0-5].*": 32})
    save_packed(tmp_path / "c.svq", net, config)
    other, read = load_model(tmp_path / "c.svq")
    assert [read.quant.bits_of(name) for name in names] == [2] + [32] * 14 + [2] * 6 and distance(net, other) < 1e-5


METHOD_BITS = {"twn": [2, 32], "static": [1, 32], "adaptive": [1, 32]}


@st.composite
def mixtures(draw):
    """A network's config whose layers have bits of their own."""
    method = draw(st.sampled_from([method for method, _ in CASES]))
    allowed = METHOD_BITS.get(method, [*range(1, 9), 32])
    config = ModelConfig("ResNet18", {"width": draw(st.sampled_from([3, 4, 8]))}, draw(st.integers(1, 40)))
    names = [name for name, _ in quantizable(config.build())]
    layers = draw(st.dictionaries(st.sampled_from(names[:-1]), st.sampled_from(allowed)))
    binary = draw(st.sampled_from(["same", "static", "adaptive"])) if method not in METHOD_BITS else "same"
    quant = QuantConfig(method, allowed[0], layers=layers, binary=binary, per_channel=draw(st.booleans()))
    return dataclasses.replace(config, quant=quant)


calibrations = st.none() | st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False) | st.text(max_size=5))


@settings(max_examples=25, deadline=None)
@given(mixtures(), calibrations, st.sampled_from([1.0, 1e-8, 1e9]))
def test_size_from_shapes_is_the_size_of_the_file(config, calibration, scale):
    net = config.build().eval()
    net.bn1.weight.data[0] = scale  # beyond float16: a tensor of its own
    expected = packed_bytes(net, config.quant, config, calibration)
    assert not list(quantizers(net))  # untouched
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.svq")
        assert save_packed(path, quantize_(net, config.quant), config, calibration) == expected
        assert os.path.getsize(path) == expected
        if calibration is not None:
            assert read_packed(path)[0]["calibration"] == calibration


def test_size_with_tensors_of_other_types(tmp_path):
    config = ModelConfig("ResNet18", {"width": 4}, 16)
    net = config.build()
    net.register_parameter("root", nn.Parameter(torch.zeros(3, 5, dtype=torch.float64)))
    net.register_buffer("count", torch.zeros((), dtype=torch.int64))
    net.register_buffer("flags", torch.zeros(3, dtype=torch.bool))
    net.register_buffer("hidden", torch.zeros(100), persistent=False)
    size = packed_bytes(net, QuantConfig(per_channel=False), config)
    quantize_(net, QuantConfig(per_channel=False))
    config = dataclasses.replace(config, quant=QuantConfig(per_channel=False))
    assert save_packed(tmp_path / "x.svq", net, config) == size == packed_bytes(net, QuantConfig(per_channel=False), config)
    assert {"root", "count", "flags"} <= read_packed(tmp_path / "x.svq")[1].keys()


def test_size_of_a_network_all_in_float():
    """save_packed would not write it, but an allocation may ask."""
    config = ModelConfig("ResNet18", {"width": 4}, 16)
    net = config.build()
    in_float = QuantConfig(layers={name: 32 for name, _ in quantizable(net)}, per_channel=False)
    weights = sum(module.weight.numel() for _, module in quantizable(net))
    assert 4 * weights < packed_bytes(net, in_float, config) < 4 * weights + 10_000


@pytest.mark.parametrize("scale, own", [(1.0, []), (1e-6, ["bn1.scale"]), (1e6, ["bn1.scale"])])
def test_a_scale_that_float16_does_not_hold_stays_in_float32(tmp_path, scale, own):
    net, config = trained(4)
    net.bn1.weight.data[2], net.bn1.weight.data[1] = scale, 0.0
    net.bn1.running_var[2], net.bn1.running_mean[2] = 1.0, 0.0
    save_packed(tmp_path / "model.svq", net, config)
    _, tensors = read_packed(tmp_path / "model.svq")
    assert [name for name in tensors if name.startswith("bn1")] == own
    assert tensors["norms"].dtype == torch.float16
    other = load_packed(tmp_path / "model.svq")[0]
    exact = folded(net.bn1).scale
    if own:
        assert torch.equal(other.bn1.scale, exact) and tensors["bn1.scale"].dtype == torch.float32
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            torch.testing.assert_close(other.get_submodule(name).scale, folded(module).scale, rtol=2**-11, atol=0)
    assert distance(net, other) < 1e-5


def test_a_shift_keeps_its_digits_relative_to_the_largest(tmp_path):
    net, config = trained(4)
    for norm, shifts in ((net.bn1, [1e-7, 0.1, 0, -2]), (net.layers[0].bn1, [1e-6, 0, -3e-6, 1e-9]),
                         (net.layers[0].bn2, [1, 7e4, 0, 0]), (net.layers[1].bn1, [0, 0, 0, 0])):
        norm.running_mean.zero_()
        norm.bias.data.copy_(torch.tensor(shifts))
    save_packed(tmp_path / "model.svq", net, config)
    _, tensors = read_packed(tmp_path / "model.svq")
    assert sorted(name for name in tensors if "bn" in name) == ["layers.0.bn1.shift", "layers.0.bn2.shift"]
    other = load_packed(tmp_path / "model.svq")[0]
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            exact = folded(module).shift
            torch.testing.assert_close(other.get_submodule(name).shift, exact, rtol=2**-11,
                                       atol=2**-25 if exact.abs().max() > 1e-5 else 0)


def test_codebooks_per_channel_beyond_float16_stay_in_float32(tmp_path):
    net, config = trained(4, per_channel=True)
    for factor, dtype in ((1, torch.float16), (1e-7, torch.float32)):
        net.embedding.parametrizations.weight[0].alpha.data.mul_(factor)
        save_packed(tmp_path / "model.svq", net, config)
        assert read_packed(tmp_path / "model.svq")[1]["codebooks"].dtype == dtype
        assert distance(net, load_packed(tmp_path / "model.svq")[0]) < 1e-5


def test_channels_last_network_packs_to_the_same_bytes(tmp_path):
    net, config = trained(4)
    save_packed(tmp_path / "a.svq", net, config)
    save_packed(tmp_path / "b.svq", net.to(memory_format=torch.channels_last), config)
    assert (tmp_path / "a.svq").read_bytes() == (tmp_path / "b.svq").read_bytes()


@pytest.mark.parametrize("bits, limit", [(4, 3_360_000), (3, 2_530_000), (2, 1_700_000), (1, 880_000)])
def test_resnet34_fits_the_promised_sizes(tmp_path, bits, limit):
    net, config = trained(bits, "ResNet34", 32, 256)
    assert save_packed(tmp_path / "model.svq", net, config) <= limit
    assert count_parameters(net) == 6_634_336 and average_bits(net) == bits
    if bits == 4:
        assert distance(net, load_packed(tmp_path / "model.svq")[0]) < 1e-5


@pytest.mark.parametrize("arch, bits, megabytes", [
    ("ResNet34", 4, 3.45), ("ResNet34", 3, 2.63), ("ResNet34", 2, 1.80), ("ResNet34", 1, 0.97),
    ("ResNet101", 4, 8.42), ("ResNet101", 3, 6.44), ("ResNet101", 2, 4.47), ("ResNet101", 1, 2.48)])
def test_files_are_smaller_than_those_of_the_paper(arch, bits, megabytes):
    """Liu et al., table III."""
    config = ModelConfig(arch, {}, 256, quant=QuantConfig(bits=bits, per_channel=False))
    assert packed_bytes(config.build(), config.quant, config) < megabytes * 1e6


def test_a_float_network_is_not_packed(tmp_path):
    config = ModelConfig("ResNet18", {"width": 4}, 16)
    with pytest.raises(UserError, match="quantize it before packing"):
        save_packed(tmp_path / "model.svq", config.build(), config)
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "entropy"])
def packed(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed dir") / "model.svq"
    net, config = trained(2, method="twn", width=3)
    save_packed(path, net, config, None, request.param)
    assert any(row[4] for row in read_packed(path)[0]["layers"]) == request.param
    return path


def refused(path):
    with pytest.raises(UserError) as error:
        load_model(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.1, 0.5, 0.999, 1.001])
def test_a_file_of_another_length_is_refused(packed, tmp_path, share):
    data = packed.read_bytes()
    path = tmp_path / "cut.svq"
    path.write_bytes((data + data)[:int(share * len(data))])
    assert "not a whole packed model" in refused(path)


def test_any_altered_byte_is_noticed(packed, tmp_path):
    data = packed.read_bytes()
    rng = np.random.default_rng(0)
    header = int.from_bytes(data[:8], "little") + 8
    path = tmp_path / "flipped.svq"
    for position in [*range(0, header, 2), *rng.integers(header, len(data), 100), len(data) - 1]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        refused(path)


@pytest.mark.parametrize("version, mend", [
    (1, "pack the model again"), (5, "update svq"), ("x", "pack the model again")])
def test_another_format_is_refused(packed, tmp_path, version, mend):
    about, tensors = read_packed(packed)
    about["format"] = version
    about["digest"] = digest(about, tensors)
    save_tensors(tmp_path / "new.svq", tensors, {"svq": json.dumps(about)})
    assert f"format version {version}, this svq reads 2, 3 and 4; {mend}" in refused(tmp_path / "new.svq")


def test_altered_codes_and_metadata_do_not_match_the_digest(packed, tmp_path):
    about, tensors = read_packed(packed)
    changed = {**tensors, "codes": tensors["codes"] ^ 1}
    save_tensors(tmp_path / "a.svq", changed, {"svq": json.dumps(about)})
    assert "damaged or altered" in refused(tmp_path / "a.svq")
    about["model"]["front_end"]["rate"] = 8000
    save_tensors(tmp_path / "b.svq", tensors, {"svq": json.dumps(about)})
    assert "damaged or altered" in refused(tmp_path / "b.svq")


def alter(about, layer, column, value):
    next(row for row in about["layers"] if row[0] == layer)[column] = value


@pytest.mark.parametrize("change, words", [
    (lambda about, tensors: tensors.pop("codes"),
     "its layers are not described as they should be (KeyError('codes'))"),
    (lambda about, tensors: about.pop("layers"), "its layers are not described as they should be"),
    (lambda about, tensors: about["layers"].append(3), "its layers are not described as they should be"),
    (lambda about, tensors: about["layers"].append(["conv9", 2, 3, 1, 0]), "(KeyError('conv9'))"),
    (lambda about, tensors: alter(about, "conv1", 1, "2"), "its layers are not described"),
    (lambda about, tensors: alter(about, "conv1", 1, 9), "layer conv1: 1 codebooks of 3 levels for 9 bits"),
    (lambda about, tensors: alter(about, "conv1", 2, 5), "layer conv1: 1 codebooks of 5 levels for 2 bits"),
    (lambda about, tensors: alter(about, "conv1", 3, 2), "2 codebooks of 3 levels for 2 bits and 3 output"),
    (lambda about, tensors: alter(about, "embedding", 4, 10**12), "; pack it again"),
    (lambda about, tensors: alter(about, "embedding", 4, -5), "layer embedding: "),
    (lambda about, tensors: tensors.update(codes=tensors["codes"][:-1]), "layer embedding: "),
    (lambda about, tensors: tensors.update(codes=torch.cat([tensors["codes"], tensors["codes"][:1]])),
     "bytes of codes"),
    (lambda about, tensors: tensors["codebooks"].__setitem__(0, float("nan")),
     "layer conv1: its codebook is not whole"),
    (lambda about, tensors: tensors.update(codebooks=tensors["codebooks"][:-1]), "layer embedding: its codebook"),
    (lambda about, tensors: tensors.pop("norms"), "its batch norms are not described"),
    (lambda about, tensors: about["norms"].append(["bn9", 0]), "weights do not fit the config"),
    (lambda about, tensors: about["norms"].append(5), "its batch norms are not described"),
    (lambda about, tensors: about.pop("norms"), "its batch norms are not described"),
    (lambda about, tensors: about["layers"].pop(), "bytes of codes"),
    (lambda about, tensors: about["model"].update(archh=1), "unknown key 'archh'"),
    (lambda about, tensors: about.pop("model"), "must be a mapping"),
    (lambda about, tensors: about["model"].update(net={"width": 10**6}), "it must be at most 65536"),
])
def test_files_that_do_not_hold_together_are_refused_even_with_a_right_digest(packed, tmp_path, change, words):
    about, tensors = read_packed(packed)
    change(about, tensors)
    about["digest"] = digest(about, tensors)
    save_tensors(tmp_path / "x.svq", tensors, {"svq": json.dumps(about)})
    assert words in refused(tmp_path / "x.svq")


def test_a_code_beyond_the_levels_is_refused(tmp_path):
    """Ternary weights have 3 levels in 2 bits: code 3 fits the bits, and five of them fit no byte of 3^5 values."""
    net, config = trained(2, method="twn")
    save_packed(tmp_path / "a.svq", net, config)
    about, tensors = read_packed(tmp_path / "a.svq")
    tensors["codes"][0] |= 0b11000000
    about["digest"] = digest(about, tensors)
    save_tensors(tmp_path / "b.svq", tensors, {"svq": json.dumps(about)})
    assert "layer conv1: code 3 of 3 levels; pack it again" in refused(tmp_path / "b.svq")


def test_what_is_no_packed_model_is_refused(packed, tmp_path):
    assert "no such file" in refused(tmp_path / "none.svq")
    (tmp_path / "text.svq").write_text("hello")
    assert "not a whole packed model" in refused(tmp_path / "text.svq")
    save_tensors(tmp_path / "plain.svq", {"a": torch.zeros(3)})
    assert "but not a packed model; make one with svq.bin.pack" in refused(tmp_path / "plain.svq")
    (tmp_path / "folder.svq").mkdir()
    refused(tmp_path / "folder.svq")


def model_folder(tmp_path, bits=4, **quant):
    net, config = trained(bits, **quant)
    save_model(tmp_path / "my model", net, config)
    return tmp_path / "my model", net


def test_pack_and_inspect_workers(tmp_path, capsys):
    folder, net = model_folder(tmp_path, layers={"layers.1.conv1": 32, "layers.1.conv2": 1})
    (tmp_path / "cal.json").write_text('{"offset": -1.0, "slope": 2.0}')
    run_worker(pack.main, folder, "--calibration", tmp_path / "cal.json")
    summary = json.loads((folder / "summary.json").read_text())
    path = folder / "model.svq"
    assert summary == {"params": count_parameters(net), "avg_bits": average_bits(net), "file": "model.svq",
                       "size_bytes": os.path.getsize(path)}
    assert distance(net, load_packed(path)[0]) < 1e-5
    assert sorted(os.listdir(folder)) == ["config.yaml", "model.safetensors", "model.svq", "summary.json"]
    first = path.read_bytes()
    run_worker(pack.main, folder, "--calibration", tmp_path / "cal.json")
    assert path.read_bytes() == first
    capsys.readouterr()
    run_worker(inspect.main, path)
    out = capsys.readouterr().out
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["svq"])
    assert f"format 3, {len(first)} bytes, digest {about['digest']}" in out and "calibration {'offset': -1.0, 'slope': 2.0}" in out
    assert "model ResNet18 {'width': 4} embedding 16" in out and "'num_mels': 80" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert len([row for row in about["layers"] if row[0] in rows]) == len(about["layers"]) == 20
    assert rows["layers.0.conv1"][:3] == ["4x4x3x3", "4", "72"] and rows["layers.1.conv1"] == ["in", "float"]
    codes = dict((name, q.codes(float_weight(m))) for name, m, q in quantizers(net))["layers.0.conv1"]
    shares = np.bincount(codes.flatten()) / codes.numel()
    assert float(rows["layers.0.conv1"][3]) == pytest.approx(scipy.stats.entropy(shares, base=2), abs=6e-4)
    levels = net.layers[1].conv2.weight.unique().tolist()
    assert rows["layers.1.conv2"][4:] == [f"{level:+.4f}" for level in levels]
    assert f"weights of {average_bits(net):g} bits on average" in out
    # The parts make up the file.
    assert sum(int(part.split()[-1]) for part in out.splitlines()[-1].removeprefix("bytes: ").split(",")) == len(first)


def test_pack_with_entropy_coding(tmp_path, capsys):
    folder, net = model_folder(tmp_path, 2, method="twn")
    run_worker(pack.main, folder)
    plain = os.path.getsize(folder / "model.svq")
    run_worker(pack.main, folder, "--entropy")
    size = os.path.getsize(folder / "model.svq")
    assert json.loads((folder / "summary.json").read_text()) == {
        "params": count_parameters(net), "avg_bits": 2.0, "file": "model.svq", "size_bytes": size, "entropy": True,
        "size_plain_bytes": plain}
    assert size < 0.95 * plain and distance(net, load_packed(folder / "model.svq")[0]) < 1e-5
    capsys.readouterr()
    run_worker(inspect.main, folder / "model.svq")
    out = capsys.readouterr().out
    assert "Huffman" in next(line for line in out.splitlines() if line.startswith("embedding"))
    assert "Huffman" not in next(line for line in out.splitlines() if line.startswith("conv1"))  # 36 codes
    run_worker(pack.main, folder, "--output", tmp_path / "other.svq")
    assert os.path.getsize(tmp_path / "other.svq") == plain
    assert json.loads((folder / "summary.json").read_text())["size_bytes"] == size


def test_pack_of_an_untrained_network(tmp_path):
    path = tmp_path / "x.svq"
    common = ("--arch", "ResNet18", "--width", 4, "--embed-dim", 16, "--output", path)
    for method, bits, per_channel in (("kmqat", 3, False), ("pot", 4, True), ("twn", 2, False)):
        run_worker(pack.main, *common, "--method", method, "--bits", bits, *["--per-channel"][:per_channel])
        net, config = load_packed(path)
        assert config == ModelConfig("ResNet18", {"width": 4}, 16,
                                     quant=QuantConfig(method, bits, per_channel=per_channel))
        assert os.path.getsize(path) == packed_bytes(config.build(), config.quant, config)
    first = path.read_bytes()
    run_worker(pack.main, *common, "--method", "twn", "--bits", 2, "--init", "random", "--seed", 0)
    assert path.read_bytes() == first
    run_worker(pack.main, *common, "--method", "twn", "--bits", 2, "--seed", 1)
    assert path.read_bytes() != first and os.listdir(tmp_path) == ["x.svq"]
    with pytest.raises(UserError, match="bits is 9; it must be a whole number from 1 to 8"):
        run_worker(pack.main, *common, "--bits", 9)
    with pytest.raises(UserError, match="width"):
        run_worker(pack.main, "--arch", "ResNet18", "--width", 0, "--output", path)
    with pytest.raises(UserError, match="--width 8: ECAPALite has no width; leave --width out"):
        run_worker(pack.main, "--arch", "ECAPALite", "--width", 8, "--output", path)
    for wrong in ([], ["folder", "--arch", "ResNet18", "--output", path], ["--arch", "ResNet18"]):
        with pytest.raises(SystemExit) as stopped:
            run_worker(pack.main, *wrong)
        assert stopped.value.code == 2


def test_an_untrained_network_has_its_own_sizes_unless_they_are_given(tmp_path):
    path = tmp_path / "x.svq"
    run_worker(pack.main, "--arch", "ECAPALite", "--feat-dim", 40, "--output", path)
    _, config = load_packed(path)
    assert (config.net, config.embed_dim, config.front_end.num_mels) == ({}, 192, 40)
    run_worker(pack.main, "--arch", "ResNetSE34V2", "--bits", 1, "--width", 8, "--output", path)
    _, config = load_packed(path)
    assert (config.net, config.embed_dim, config.front_end.num_mels) == ({"width": 8}, 512, 80)


def test_what_a_float_model_cannot_use_is_said(tmp_path, capsys):
    config = ModelConfig("ResNet18", {"width": 4}, 16)
    save_model(tmp_path / "m", config.build(), config)
    (tmp_path / "cal.json").write_text('{"offset": 0, "slope": 1}')
    run_worker(pack.main, tmp_path / "m", "--calibration", tmp_path / "cal.json")
    assert "m: --calibration is not used: a float model is not packed\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="m: a float model; there is nothing to pack to x.svq"):
        run_worker(pack.main, tmp_path / "m", "--output", "x.svq")


def test_pack_of_a_float_model_writes_its_summary_only(tmp_path):
    config = ModelConfig("ResNet18", {"width": 4}, 16)
    net = config.build()
    save_model(tmp_path / "m", net, config)
    run_worker(pack.main, tmp_path / "m")
    summary = json.loads((tmp_path / "m" / "summary.json").read_text())
    assert summary == {"params": num_parameters(net), "avg_bits": 32.0, "file": "model.safetensors",
                       "size_bytes": os.path.getsize(tmp_path / "m" / "model.safetensors")}
    assert not (tmp_path / "m" / "model.svq").exists()


def test_pack_leaves_nothing_when_the_check_fails(tmp_path, monkeypatch):
    folder, _ = model_folder(tmp_path)
    monkeypatch.setattr("svq.pack.file.largest_distance", lambda *_: 2e-4)
    with pytest.raises(UserError, match="differ by a cosine distance of 0.0002"):
        run_worker(pack.main, folder)
    assert sorted(os.listdir(folder)) == ["config.yaml", "model.safetensors"]


def test_workers_refuse_in_one_line(tmp_path):
    folder, _ = model_folder(tmp_path)
    with pytest.raises(UserError, match="cal.json is missing; steps/calibrate.sh makes it"):
        run_worker(pack.main, folder, "--calibration", tmp_path / "cal.json")
    (tmp_path / "bad.svq").write_text("no")
    command = [sys.executable, "-m", "svq.bin.inspect", tmp_path / "bad.svq"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert done.stderr.startswith(f"svq.bin.inspect: {tmp_path}/bad.svq: not a whole packed model")
