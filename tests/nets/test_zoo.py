"""The zoo table: every network in it, no count off without a reason, sizes as files have them, FLOPs by hand."""

import pytest
import torch
from torch import nn

from svq.bin import zoo as worker
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.evaluation.operations import count_flops, frames_in
from svq.evaluation.zoo import ZooEntry, ZooRow, entries, markdown, measure, unexplained
from svq.models import save_model
from svq.nets import ARCHITECTURES, build, num_parameters
from svq.network import ModelConfig
from svq.pack.file import save_packed
from svq.quant import QuantConfig, quantize_
from tests.helpers import run_worker

ENTRIES = entries()


def test_every_architecture_is_in_the_zoo():
    assert {entry.arch for entry in ENTRIES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ENTRIES)
def test_counts_are_the_published_ones_or_there_is_a_reason(name):
    entry = ENTRIES[name]
    with torch.device("meta"):
        net = build(entry.arch, entry.feat_dim, entry.embed_dim, **entry.options)
    assert entry.explanation(num_parameters(net)) is not None
    assert entry.published is None or entry.source
    assert not entry.reason or abs(entry.difference(num_parameters(net))) > 0.005


@pytest.mark.parametrize("published, parameters, reason, explanation", [
    ("6.63", 6_634_336, "", ""), (None, 5, "", ""), ("1.4", 1_437_078, "", "it rounds to the published figure"),
    ("1.4", 1_450_001, "", None), ("4.49", 4_693_920, "because", "because"), ("8", 8_028_492, "", ""),
    ("1.40", 1_437_078, "", None)])
def test_explanations(published, parameters, reason, explanation):
    assert ZooEntry("ResNet34", published=published, reason=reason).explanation(parameters) == explanation


@pytest.mark.parametrize("seconds, frames", [(2, 198), (0.025, 1), (0.0249, 0), (0, 0),
                                             (0.035, 2), (0.0349, 1), (3, 298), (-1, 0)])
def test_frames(seconds, frames):
    assert frames_in(seconds) == frames


def test_flops_by_hand():
    net = build("ResNet18", 8, 5, width=1)
    shapes = {}
    for name, m in net.named_modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_hook(lambda m, x, y, name=name: shapes.update({name: y.numel() * m.weight[0].numel()}))
    flops = count_flops(net, 8, 20)
    assert flops == 2 * (sum(shapes.values()) + net.embedding.weight.numel())
    assert net.training  # as it was
    assert count_flops(net.to("meta"), 8, 20) == flops


def test_resnet34_computes_what_wespeaker_says():
    """4.55 G for 200 frames, which are multiply-accumulates and those of the batch norms."""
    with torch.device("meta"):
        assert count_flops(build("ResNet34"), 80, 200) / 2e9 == pytest.approx(4.55, rel=0.01)


def test_measured_bytes_are_those_of_the_files(tmp_path):
    entry = ZooEntry("DFResNet56", {"width": 4}, 24, 16)
    row = measure("small", entry, 50, [4, 1])
    config = ModelConfig(entry.arch, entry.options, 16, FrontEndConfig(num_mels=24))
    save_model(tmp_path, config.build(), config)
    assert (tmp_path / "model.safetensors").stat().st_size == row.float_bytes
    for bits, size in zip([4, 1], row.packed):
        quant = QuantConfig("kmqat", bits, per_channel=False)
        quantized = ModelConfig(entry.arch, entry.options, 16, FrontEndConfig(num_mels=24), quant)
        assert save_packed(tmp_path / "model.svq", quantize_(config.build(), quant), quantized) == size


def test_worker_prints_the_table_and_puts_it_between_the_markers(tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- zoo:begin -->\nold\n<!-- zoo:end -->\nbelow\n", encoding="utf-8")
    run_worker(worker.main, "--only", "ResNet18", "FastResNet34", "--bits", "2", "--seconds", "1", "--into", page)
    printed, text = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert printed.strip() in text and text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    lines = printed.splitlines()
    assert "GFLOPs for 1 s" in lines[0] and lines[0].count("bit (bytes)") == 1
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| ResNet18", "| Fast-ResNet34"]
    assert "4,105,440" in lines[2] and "| 1.4 | Chung et al. 2020 | +2.65 % |" in lines[3]
    assert "- Fast-ResNet34: it rounds to the published figure." in lines
    assert all(line.count("|") == lines[0].count("|") for line in lines[1:4])


def test_a_count_that_is_off_without_a_reason_is_named():
    row = ZooRow("odd", ZooEntry("ResNet18", published="9.99", source="nobody"), 4_105_440, 1, 1, ())
    assert unexplained([row]) == ["odd"] and "- odd: no reason known." in markdown([row], 2, [])


@pytest.mark.parametrize("arguments, words", [
    (["--only", "ResNet19"], "--only ResNet19: no such architecture; known: ResNet18"),
    (["--bits", "9"], "--bits 9: it must be from 1 to 8"),
    (["--seconds", "0.01"], "--seconds 0.01: not the length of a recording of one frame")])
def test_mistakes(arguments, words):
    with pytest.raises(UserError) as error:
        run_worker(worker.main, *arguments)
    assert words in str(error.value)


@pytest.mark.parametrize("seconds", ["nan", "inf", "2s"])
def test_a_length_that_is_no_number_is_refused(seconds, capsys):
    with pytest.raises(SystemExit) as ended:
        run_worker(worker.main, "--seconds", seconds)
    assert ended.value.code == 2 and f"invalid float value: '{seconds}'" in capsys.readouterr().err
