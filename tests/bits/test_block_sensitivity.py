"""Sensitivity by experiment: every number computed another way, runs that go on after a kill, and what is chosen."""

import itertools
import shutil

import numpy as np
import pytest
import soundfile
import torch

from svq.backend.metrics import eer, min_dcf
from svq.bin import block_sensitivity, quantize, select
from svq.bits.block_sensitivity import read_blocks, write_blocks
from svq.bits.table import bits_by_layer, read_bits
from svq.data.fbank import Fbank, mean_normalize
from svq.data.trials import make_trials
from svq.errors import UserError
from svq.evaluation import development
from svq.models import load_model, save_model
from svq.network import ModelConfig
from svq.pack.file import save_packed
from svq.quant import QuantConfig, quantize_
from svq.quant.api import quantizable
from svq.quant.quantizers import make_quantizer
from tests.builders import data_dir
from tests.helpers import run_worker

SMALL = {"channels": 16, "wide": 24, "squeeze": 4, "attention": 4}
BLOCKS = ["layer1", "layer2", "layer3", "layer4", "mfa", "pool", "embedding"]
REPLICATES = 20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny ECAPA-TDNN, recordings of five speakers with all their trials, and the table of its blocks at 3 bits."""
    folder = tmp_path_factory.mktemp("a place")
    data = data_dir(folder, speakers=5, utts=3, seconds=0.4)
    make_trials(data)
    torch.manual_seed(0)
    config = ModelConfig("ECAPA512", SMALL, 8)
    net = config.build().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_var.uniform_(0.2, 2)
    save_model(folder / "model", net, config)
    (folder / "row.yaml").write_text("quant: {method: uniform, bits: 3}\n")
    measure(folder, folder / "out")
    return folder


def measure(folder, out, *more):
    run_worker(block_sensitivity.main, "--model", folder / "model", "--config", folder / "row.yaml", "--data",
               folder / "data", "--trials", folder / "data" / "trials", "--out", out, "--bootstrap", REPLICATES, *more)


def by_hand(folder, layers, bits):
    """(N, D) float64 embeddings, one recording at a time, of a network whose layers are overwritten one by one."""
    net, _ = load_model(folder / "model")
    for name, module in quantizable(net):
        if name in layers:
            quantizer = make_quantizer(module.weight, QuantConfig("uniform", bits), bits)
            module.weight.data = quantizer(module.weight.data).detach()
    vectors = []
    for line in sorted((folder / "data" / "wav.scp").read_text().splitlines()):
        wav, _ = soundfile.read(line.split(" ", 1)[1], dtype="float32")
        with torch.no_grad():
            vectors.append(net(mean_normalize(Fbank()(torch.from_numpy(wav)[None])))[0].double().numpy())
    return np.array(vectors)


def scores(vectors, center=True):
    x = vectors - vectors.mean(axis=0) if center else vectors
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = np.array(list(itertools.combinations(range(len(x)), 2)))
    return (x[pairs[:, 0]] * x[pairs[:, 1]]).sum(axis=1), pairs // 3  # three utterances a speaker


def resampled(score, speakers, measure):
    """The bootstrap the plain way: every trial as often as its speakers were drawn."""
    rng, same, found = np.random.default_rng(0), speakers[:, 0] == speakers[:, 1], []
    while len(found) < REPLICATES:
        draws = np.bincount(rng.integers(0, 5, 5), minlength=5)
        times = np.where(same, draws[speakers[:, 0]], draws[speakers].prod(axis=1))
        if times[same].any() and times[~same].any():
            found.append(measure(*(np.repeat(score[part], times[part]) for part in (same, ~same))))
    return np.array(found)


def test_the_table_against_an_independent_computation(place, tmp_path):
    rows = read_blocks(place / "out" / "blocks.tsv")
    assert [row.block for row in rows] == ["float", *BLOCKS, "all"]
    net, config = load_model(place / "model")
    layers = [name for name, _ in quantizable(net)]
    cost = lambda target, nontarget: min_dcf(target, nontarget, 0.01)  # noqa: E731
    float_vectors = by_hand(place, [], 3)
    origin, speakers = scores(float_vectors)
    same = speakers[:, 0] == speakers[:, 1]
    unlike = 0
    for row in rows:
        chosen = [name for name in layers if row.block == "all" or f"{name}.".startswith(f"{row.block}.")]
        vectors = by_hand(place, chosen, 3)
        score, _ = scores(vectors)
        assert row.layers == len(chosen)
        assert row.weights == sum(net.get_submodule(name).weight.numel() for name in chosen)
        assert row.eer == pytest.approx(100 * eer(score[same], score[~same]), abs=1e-4)
        assert row.eer_delta == pytest.approx(row.eer - 100 * eer(origin[same], origin[~same]), abs=1e-4)
        assert row.mindcf == pytest.approx(cost(score[same], score[~same]), abs=1e-6)
        for measure_, low, high, scale in ((eer, row.eer_low, row.eer_high, 100),
                                           (cost, row.mindcf_low, row.mindcf_high, 1)):
            differences = resampled(score, speakers, measure_) - resampled(origin, speakers, measure_)
            assert (low, high) == pytest.approx(tuple(scale * np.quantile(differences, [0.025, 0.975])), abs=1e-4)
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (float_vectors, vectors))
        moved = 1 - (a * b).sum(axis=1)
        assert (row.drift, row.drift_p50, row.drift_p95, row.drift_max) == pytest.approx(
            (moved.mean(), np.median(moved), np.quantile(moved, 0.95), moved.max()), rel=1e-3, abs=1e-7)
        unlike += row.eer_delta != 0
        if chosen:
            quant = QuantConfig("uniform", 3, layers={name: 3 if name in chosen else 32 for name in layers})
            part = quantize_(load_model(place / "model")[0], quant)
            assert row.bytes == save_packed(tmp_path / "x.svq", part, ModelConfig("ECAPA512", SMALL, 8, quant=quant))
        assert row.saved == rows[0].bytes - row.bytes
    assert unlike >= 3 and rows[-1].drift > 1e-3 and rows[0].drift == 0  # the comparisons could fail


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_killed_and_run_again(place, tmp_path, monkeypatch):
    """It goes on block by block, computes nothing twice, and ends with the same bytes."""
    computed, compute = [], development.EmbeddingStore._compute

    def killed(self, net, title):
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append(title)
        return compute(self, net, title)

    monkeypatch.setattr(development.EmbeddingStore, "_compute", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(place, tmp_path / "out")
    assert computed == ["float", "layer1", "layer2", "layer3"] and not (tmp_path / "out" / "blocks.tsv").exists()
    monkeypatch.setattr(development.EmbeddingStore, "_compute",
                        lambda self, net, title: computed.append(title) or compute(self, net, title))
    measure(place, tmp_path / "out")
    assert computed == ["float", *BLOCKS, "all"]
    assert content(tmp_path / "out") == content(place / "out")
    assert set(content(tmp_path / "out")) == {"blocks.tsv", "blocks.md", "blocks.svg", "measured.yaml"}
    measure(place, tmp_path / "out", "--set", "quant.bits=2")  # other settings: nothing but the float network is reused
    assert computed == ["float", *BLOCKS, "all", *BLOCKS, "all"]


def test_layers_subsets_and_no_centre(place, tmp_path):
    measure(place, tmp_path / "out", "--level", "layer", "--max-utts", 11, "--center", "false", "--max-seconds", 0.2)
    rows = read_blocks(tmp_path / "out" / "blocks.tsv")
    net, _ = load_model(place / "model")
    assert [row.block for row in rows] == ["float", *(name for name, _ in quantizable(net)), "all"]
    comment = (tmp_path / "out" / "blocks.tsv").read_text().splitlines()[0]
    assert "11 utterances of 5 speakers, 7 target and 48 non-target trials" in comment  # 3 2 2 2 2 of the speakers
    measure(place, tmp_path / "plain", "--center", "false")
    score, speakers = scores(by_hand(place, [], 3), center=False)
    same = speakers[:, 0] == speakers[:, 1]
    assert read_blocks(tmp_path / "plain" / "blocks.tsv")[0].eer == pytest.approx(
        100 * eer(score[same], score[~same]), abs=1e-4)


def choose(place, out, *more):
    run_worker(select.main, "--from", place / "out", "--out", out, *more)
    return bits_by_layer(read_bits(out))


def test_a_choice_is_measured_and_quantizes(place, tmp_path, capsys):
    rows = {row.block: row for row in read_blocks(place / "out" / "blocks.tsv")}
    whole = rows["all"].bytes
    target = whole + min(rows[name].saved for name in BLOCKS) + max(rows[name].saved for name in BLOCKS)
    bits = choose(place, tmp_path / "bits.tsv", "--bytes", target, "--reserve", 0, "--cost", "drift")
    assert set(bits.values()) == {3, 32}
    said = capsys.readouterr().out
    run_worker(quantize.main, "--init", place / "model", "--config", place / "row.yaml", "--bits",
               tmp_path / "bits.tsv", "--out", tmp_path / "quantized")
    net, config = load_model(tmp_path / "quantized")
    size = save_packed(tmp_path / "x.svq", net, config)
    assert size <= target and f"{size} bytes" in said
    kept = {name for name in BLOCKS if any(b == 32 and layer.split(".")[0] == name for layer, b in bits.items())}
    vectors = by_hand(place, [layer for layer, b in bits.items() if b == 3], 3)
    score, speakers = scores(vectors)
    same = speakers[:, 0] == speakers[:, 1]
    assert f"EER {100 * eer(score[same], score[~same]):.3f} %" in said
    # No set of the same size or less loses less, by the sum of what blocks cost.
    loss = lambda names: sum(rows[name].drift for name in names)  # noqa: E731
    for others in itertools.chain.from_iterable(itertools.combinations(BLOCKS, n) for n in range(len(BLOCKS))):
        if whole + sum(rows["float"].bytes - rows[name].bytes for name in others) <= target - 64 * len(BLOCKS):
            assert loss(set(BLOCKS) - kept) <= loss(set(BLOCKS) - set(others)) + 1e-9


def test_greedy_writes_its_steps(place, tmp_path, capsys):
    choose(place, tmp_path / "bits.tsv", "--max-eer-loss", 50, "--search", "greedy", "--steps", tmp_path / "steps.tsv")
    header, *steps = [line.split("\t") for line in (tmp_path / "steps.tsv").read_text().splitlines()]
    assert header == ["block", "done", "bytes", "estimated_loss", "measured_loss"]
    assert sorted(step[0] for step in steps) == sorted(BLOCKS)
    rows = {row.block: row for row in read_blocks(place / "out" / "blocks.tsv")}
    first = rows[steps[0][0]]
    assert (int(steps[0][2]), float(steps[0][4])) == (first.bytes, pytest.approx(first.eer_delta, abs=1e-4))
    assert float(steps[-1][4]) <= 50 and "EER" in capsys.readouterr().out


def test_steps_are_written_where_the_search_of_the_config_is_greedy(place, tmp_path):
    config = tmp_path / "row.yaml"
    for search, written in (("greedy", True), ("exact", False)):
        config.write_text(f"quant: {{method: uniform, bits: 3}}\nselect: {{max_eer_loss: 50, search: {search}}}\n")
        choose(place, tmp_path / search / "bits.tsv", "--config", config, "--steps", tmp_path / search / "steps.tsv")
        assert (tmp_path / search / "steps.tsv").exists() == written


def test_presets(place, tmp_path, capsys):
    bits = choose(place, tmp_path / "a.tsv", "--preset", "ecapa-selective", "--measure", "true")
    assert {name.split(".")[0] for name, b in bits.items() if b == 32} == {"layer3", "layer4"}
    run_worker(select.main, "--model", place / "model", "--out", tmp_path / "b.tsv", "--preset", "ecapa-selective")
    other = bits_by_layer(read_bits(tmp_path / "b.tsv"))
    assert {name: {32: 32, 3: 8}[b] for name, b in bits.items()} == other
    run_worker(quantize.main, "--init", place / "model", "--config", place / "row.yaml", "--set", "quant.bits=8",
               "--bits", tmp_path / "b.tsv", "--out", tmp_path / "quantized")
    assert load_model(tmp_path / "quantized")[1].quant.layers == other


def test_mistakes_are_one_clear_line(place, tmp_path):
    def refused(call, words):
        with pytest.raises(UserError, match=words) as error:
            call()
        assert "\n" not in str(error.value)

    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    (data / "trials").write_text("spk00-utt00 nobody target\n")
    common = ("--config", place / "row.yaml", "--data", data, "--trials", data / "trials", "--out", tmp_path / "out")
    start = lambda *more: run_worker(block_sensitivity.main, "--model", place / "model", *common, *more)  # noqa: E731
    refused(start, "utt2spk.*nobody|nobody.*utt2spk")
    (data / "trials").write_text("spk00-utt00 spk00-utt01 target\n")
    refused(start, "trials: no non-target trials among 2 utterances")
    refused(lambda: start("--set", "quant.layers={embedding: 2}"), "quant.layers gives single layers their bits")
    refused(lambda: start("--set", "quant=null"), "no `quant` in the config")
    both = "allocate={candidates: [2, 4], average_bits: 3}"
    chosen = ("--set", "select={bytes: 9}")
    refused(lambda: start(*chosen, "--set", both), "allocate and select both make the table of bits")
    refused(lambda: start(*chosen, "--set", "quant=null"), "select .* needs a quantizer under quant")
    refused(lambda: start("--model", tmp_path), "config.yaml: no such file; the folder of a model")
    refused(lambda: choose(place, tmp_path / "bits.tsv", "--bytes", 100), "cannot be met")
    changed = tmp_path / "changed"
    shutil.copytree(place / "out", changed)
    text = (changed / "measured.yaml").read_text()
    digest = text.split("model_digest: ")[1].split()[0]
    (changed / "measured.yaml").write_text(text.replace(digest, 32 * "f"))
    refused(lambda: run_worker(select.main, "--from", changed, "--out", tmp_path / "b.tsv", "--bytes", 9000),
            "has changed since .*changed was made")
    assert not (tmp_path / "out" / "blocks.tsv").exists() and not (tmp_path / "bits.tsv").exists()


@pytest.mark.parametrize("old, new, words", [
    ("\nall\t", "\nelse\t", "no row all; svq.bin.block_sensitivity writes the whole table"),
    ("\nmfa\t", "\npool\t", "block pool is already on line 8"),
    ("\nmfa\tAggregation\t1", "\nmfa\tAggregation\tone", "blocks.tsv:8: block mfa: layers is 'one'; it must"),
    ("\teer\t", "\terror\t", "blocks.tsv:2: the header must be block kind layers"),
])
def test_a_wrong_table_is_named(place, tmp_path, old, new, words):
    text = (place / "out" / "blocks.tsv").read_text()
    assert old in text
    (tmp_path / "blocks.tsv").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=words):
        read_blocks(tmp_path / "blocks.tsv")


def test_the_table_comes_back(place, tmp_path):
    rows = read_blocks(place / "out" / "blocks.tsv")
    write_blocks(tmp_path / "again.tsv", rows, (place / "out" / "blocks.tsv").read_text().splitlines()[0][2:])
    assert (tmp_path / "again.tsv").read_bytes() == (place / "out" / "blocks.tsv").read_bytes()



def test_what_is_done_beside_quantizing(place, tmp_path):
    """A config with folded batch norms and corrected biases: all blocks together are what svq.bin.quantize makes."""
    row = tmp_path / "row.yaml"
    row.write_text("quant: {method: uniform, bits: 3}\n"
                   "ptq: {fold_batch_norm: true, bias_correction: true, utterances: 4, crop_seconds: 0.3}\n")
    measure(place, tmp_path / "out", "--config", row, "--ptq-data", place / "data", "--bootstrap", 0)
    rows = {row.block: row for row in read_blocks(tmp_path / "out" / "blocks.tsv")}
    run_worker(quantize.main, "--init", place / "model", "--config", row, "--data", place / "data", "--out",
               tmp_path / "quantized")
    net, config = load_model(tmp_path / "quantized")
    assert rows["all"].bytes == save_packed(tmp_path / "x.svq", net, config)
    vectors = np.array([vector.double().numpy() for vector in embedded(place, net)])
    score, speakers = scores(vectors)
    same = speakers[:, 0] == speakers[:, 1]
    assert rows["all"].eer == pytest.approx(100 * eer(score[same], score[~same]), abs=1e-4)
    assert np.isnan(rows["all"].eer_low) and rows["float"].drift == 0
    plain = {row.block: row for row in read_blocks(place / "out" / "blocks.tsv")}
    assert rows["all"].drift != plain["all"].drift
    with pytest.raises(UserError, match="ptq is measured on speech; give a data directory as --ptq-data"):
        measure(place, tmp_path / "other", "--config", row)


def test_biases_are_corrected_anew_where_the_speech_is_another(place, tmp_path, monkeypatch):
    """By what is in the data directory, not where it lies."""
    row = tmp_path / "row.yaml"
    row.write_text("quant: {method: uniform, bits: 3}\n"
                   "ptq: {bias_correction: true, utterances: 4, crop_seconds: 0.3}\n")
    computed, compute = [], development.EmbeddingStore._compute
    monkeypatch.setattr(development.EmbeddingStore, "_compute",
                        lambda self, net, title: computed.append(title) or compute(self, net, title))
    again = lambda speech: measure(place, tmp_path / "out", "--config", row, "--ptq-data", speech,  # noqa: E731
                                   "--bootstrap", 0)
    speech = data_dir(tmp_path, speakers=2, utts=2, seconds=0.4, seed=5, name="speech")
    again(speech)
    again(data_dir(tmp_path, speakers=2, utts=2, seconds=0.4, seed=5, name="moved"))
    assert computed == ["float", *BLOCKS, "all"]
    data_dir(tmp_path, speakers=2, utts=2, seconds=0.4, seed=6, name="speech")
    again(speech)
    assert computed == ["float", *BLOCKS, "all", *BLOCKS, "all"]


def embedded(folder, net):
    for line in sorted((folder / "data" / "wav.scp").read_text().splitlines()):
        wav, _ = soundfile.read(line.split(" ", 1)[1], dtype="float32")
        with torch.no_grad():
            yield net(mean_normalize(Fbank()(torch.from_numpy(wav)[None])))[0]
