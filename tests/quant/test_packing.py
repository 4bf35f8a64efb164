"""Packed models: bits to bytes and back, the file's size, the same embeddings, and damage that is noticed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from svq.bin import inspect, pack
from svq.errors import UserError
from svq.models import ModelConfig, load_model, save_model, save_tensors
from svq.nets import num_parameters
from svq.quant import QuantConfig, quantize_
from svq.quant.api import average_bits, quantizers
from svq.quant.bitpack import pack_codes, packed_size, unpack_codes
from svq.quant.folding import fold_batch_norm_
from svq.quant.packing import count_parameters, digest, load_packed, read_packed, save_packed
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


def trained(bits, arch="ResNet18", width=4, embed_dim=16, seed=0):
    """A quantized network with batch-norm statistics, scales and affine parameters as after training."""
    torch.manual_seed(seed)
    config = ModelConfig(arch, {"width": width}, embed_dim, quant=QuantConfig(bits=bits))
    net = quantize_(config.build(), config.quant).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
        for _, _, quantizer in quantizers(net):
            quantizer.alpha.mul_(0.9)
    return net, config


def features(num_mels=80):
    return torch.randn(3, 60, num_mels, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def distance(net, other):
    a, b = net(features()).double(), other(features()).double()
    return float((1 - torch.cosine_similarity(a, b)).abs().max())


def test_folded_batch_norm_is_batch_norm():
    float_net = ModelConfig("ResNet18", {"width": 4}, 16).build().eval()
    for module in float_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.01, 3)
            module.running_mean.normal_()
    with torch.no_grad():
        before = float_net(features())
        after = fold_batch_norm_(float_net)(features())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in float_net.modules())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_file_gives_the_same_embeddings(tmp_path, bits):
    net, config = trained(bits)
    size = save_packed(tmp_path / "model.svq", net, config, {"offset": 1.5})
    other, read = load_model(tmp_path / "model.svq")
    assert read == config and size == os.path.getsize(tmp_path / "model.svq") and not other.training
    assert distance(net, other) < 1e-10
    about, tensors = read_packed(tmp_path / "model.svq")
    assert about["calibration"] == {"offset": 1.5}
    assert all(layer["bits"] == bits for layer in about["layers"].values()) and len(about["layers"]) == 21
    assert count_parameters(net) == count_parameters(other) == num_parameters(ModelConfig.build(config))


def test_channels_last_network_packs_to_the_same_bytes(tmp_path):
    net, config = trained(4)
    save_packed(tmp_path / "a.svq", net, config)
    save_packed(tmp_path / "b.svq", net.to(memory_format=torch.channels_last), config)
    assert (tmp_path / "a.svq").read_bytes() == (tmp_path / "b.svq").read_bytes()


def test_resnet34_at_4_bits_fits_the_promised_size(tmp_path):
    net, config = trained(4, "ResNet34", 32, 256)
    assert save_packed(tmp_path / "model.svq", net, config) <= 3_400_000
    assert count_parameters(net) == 6_634_336 and average_bits(net) == 4
    assert distance(net, load_packed(tmp_path / "model.svq")[0]) < 1e-4


def test_a_float_network_is_not_packed(tmp_path):
    config = ModelConfig("ResNet18", {"width": 4}, 16)
    with pytest.raises(UserError, match="quantize it before packing"):
        save_packed(tmp_path / "model.svq", config.build(), config)
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed dir") / "model.svq"
    net, config = trained(4)
    save_packed(path, net, config)
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


def test_any_flipped_bit_is_noticed(packed, tmp_path):
    data = packed.read_bytes()
    rng = np.random.default_rng(0)
    header = int.from_bytes(data[:8], "little") + 8
    path = tmp_path / "flipped.svq"
    for position in [0, 8, *rng.integers(0, header, 120), *rng.integers(header, len(data), 80), len(data) - 1]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        refused(path)


def test_a_newer_format_says_update(packed, tmp_path):
    about, tensors = read_packed(packed)
    about["format"] += 1
    about["digest"] = digest(about, tensors)
    save_tensors(tmp_path / "new.svq", tensors, {"svq": json.dumps(about)})
    assert "format version 2, this svq reads 1; update svq" in refused(tmp_path / "new.svq")


def test_altered_codes_and_metadata_do_not_match_the_digest(packed, tmp_path):
    about, tensors = read_packed(packed)
    changed = {**tensors, "conv1.codes": tensors["conv1.codes"] ^ 1}
    save_tensors(tmp_path / "a.svq", changed, {"svq": json.dumps(about)})
    assert "damaged or altered" in refused(tmp_path / "a.svq")
    about["model"]["front_end"]["rate"] = 8000
    save_tensors(tmp_path / "b.svq", tensors, {"svq": json.dumps(about)})
    assert "damaged or altered" in refused(tmp_path / "b.svq")


def test_files_that_do_not_hold_together_are_refused_even_with_a_right_digest(packed, tmp_path):
    def resealed(name, change):
        about, tensors = read_packed(packed)
        change(about, tensors)
        about["digest"] = digest(about, tensors)
        save_tensors(tmp_path / name, tensors, {"svq": json.dumps(about)})
        return refused(tmp_path / name)

    assert "layer conv1 lacks codes" in resealed("1.svq", lambda about, tensors: tensors.pop("conv1.codes"))
    assert "layer conv1 has 18 bytes" in resealed("2.svq", lambda about, tensors: about["layers"]["conv1"].update(
        shape=[4, 1, 3, 30]))
    assert "do not fit the config" in resealed("3.svq", lambda about, tensors: tensors.pop("bn1.scale"))
    assert "unknown key 'archh'" in resealed("4.svq", lambda about, tensors: about["model"].update(archh=1))


def test_what_is_no_packed_model_is_refused(packed, tmp_path):
    assert "no such file" in refused(tmp_path / "none.svq")
    (tmp_path / "text.svq").write_text("hello")
    assert "not a whole packed model" in refused(tmp_path / "text.svq")
    save_tensors(tmp_path / "plain.svq", {"a": torch.zeros(3)})
    assert "but not a packed model; make one with svq.bin.pack" in refused(tmp_path / "plain.svq")
    (tmp_path / "folder.svq").mkdir()
    refused(tmp_path / "folder.svq")


def model_folder(tmp_path, bits=4):
    net, config = trained(bits)
    save_model(tmp_path / "my model", net, config)
    return tmp_path / "my model", net


def test_pack_and_inspect_workers(tmp_path, capsys):
    folder, net = model_folder(tmp_path)
    (tmp_path / "cal.json").write_text('{"scale": 2.0}')
    run_worker(pack.main, folder, "--calibration", tmp_path / "cal.json")
    summary = json.loads((folder / "summary.json").read_text())
    path = folder / "model.svq"
    assert summary == {"params": count_parameters(net), "avg_bits": 4.0, "size_bytes": os.path.getsize(path),
                       "file": "model.svq"}
    assert distance(net, load_packed(path)[0]) < 1e-10
    assert sorted(os.listdir(folder)) == ["config.yaml", "model.safetensors", "model.svq", "summary.json"]
    first = path.read_bytes()
    run_worker(pack.main, folder, "--calibration", tmp_path / "cal.json")
    assert path.read_bytes() == first
    capsys.readouterr()
    run_worker(inspect.main, path)
    out = capsys.readouterr().out
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["svq"])
    assert f"{len(first)} bytes, digest {about['digest']}" in out and "calibration {'scale': 2.0}" in out
    rows = [line for line in out.splitlines() if line.split()[0] in about["layers"]]
    assert len(rows) == len(about["layers"]) == 21
    assert "layers.0.conv1               4x4x3x3                 4        72" in out


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
    monkeypatch.setattr(pack, "largest_distance", lambda *_: 2e-4)
    with pytest.raises(UserError, match="differ by a cosine distance of 0.0002"):
        run_worker(pack.main, folder)
    assert sorted(os.listdir(folder)) == ["config.yaml", "model.safetensors"]


def test_workers_refuse_in_one_line(tmp_path):
    folder, _ = model_folder(tmp_path)
    with pytest.raises(UserError, match="cal.json: not a calibration file"):
        run_worker(pack.main, folder, "--calibration", tmp_path / "cal.json")
    (tmp_path / "bad.svq").write_text("no")
    done = subprocess.run([sys.executable, "-m", "svq.bin.inspect", tmp_path / "bad.svq"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert done.stderr.startswith(f"svq.bin.inspect: {tmp_path}/bad.svq: not a whole packed model")
