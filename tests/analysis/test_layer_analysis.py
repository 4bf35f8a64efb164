"""The layer analysis: every number of its tables computed another way, for both kinds of network; kills; mistakes."""

import copy
import csv
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import soundfile
import torch
import torch.nn.functional as F

from svq import nets
from svq.analysis.layer_measures import movements
from svq.analysis.layer_study import LayerStudy
from svq.analysis.layer_subjects import LayerAnalysisConfig, measure_norms_, parts_of
from svq.backend.metrics import eer, min_dcf
from svq.bin import layer_analysis
from svq.data.fbank import Fbank, mean_normalize
from svq.data.trials import make_trials
from svq.errors import UserError
from svq.evaluation import development
from svq.models import load_model, save_model
from svq.names import PART_LEVELS
from svq.network import ModelConfig
from svq.quant import QuantConfig, quantize_
from svq.quant.api import quantizable, quantizers
from svq.quant.ptq_config import PTQConfig
from svq.quant.quantizers import make_quantizer
from tests.builders import data_dir
from tests.helpers import run_worker

STAGES = ["conv1", "layers.0-1", "layers.2-3", "layers.4-5", "layers.6-7", "embedding"]
QUANT = QuantConfig("kmqat", 2, per_channel=False)
REPLICATES = 20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny ResNet18, the same after something like finetuning at 2 bits, and recordings of five speakers."""
    folder = tmp_path_factory.mktemp("a place")
    data = data_dir(folder, speakers=5, utts=3, seconds=0.3)
    make_trials(data)
    torch.manual_seed(0)
    config = ModelConfig("ResNet18", {"width": 2}, 8)
    net = config.build().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.2, 2)
    save_model(folder / "model", net, config)
    quantize_(net, QUANT)
    with torch.no_grad():
        for _, module, quantizer in quantizers(net):
            module.parametrizations.weight.original.mul_(1.1).add_(0.01)
            quantizer.alpha.mul_(1.3)
    save_model(folder / "tuned", net, ModelConfig("ResNet18", {"width": 2}, 8, quant=QUANT))
    (folder / "row.yaml").write_text("quant: {method: kmqat, bits: 2, per_channel: false}\n")
    analyse(folder, folder / "out", "--alone", "stage", "layer", "--kept", "stage")
    return folder


def analyse(folder, out, *more, of=("--config", "row.yaml")):
    run_worker(layer_analysis.main, "--model", folder / "model", of[0], folder / of[1], "--data", folder / "data",
               "--trials", folder / "data" / "trials", "--out", out, "--bootstrap", REPLICATES, "--probes", 3,
               "--probe-seconds", 0.2, "--permutations", 99, *more)


def table(path):
    with open(path) as file:
        rows = list(csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"))
    return [{name: _number(text) for name, text in row.items()} for row in rows]


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text


def weights_by_hand(folder, kind):
    """A float network, and name -> quantized weight."""
    net, _ = load_model(folder / "model")
    if kind == "float":
        return net, {name: make_quantizer(m.weight, QUANT, 2)(m.weight).detach() for name, m in quantizable(net)}
    tuned, _ = load_model(folder / "tuned")
    net.load_state_dict({name.replace("parametrizations.weight.original", "weight"): tensor
                         for name, tensor in tuned.state_dict().items() if "weight.0." not in name})
    return net, {name: m.weight.detach().clone() for name, m in quantizable(tuned)}


class ByHand:
    """Error rates of a network with some layers overwritten, one recording at a time, resampled trial by trial."""

    def __init__(self, folder, kind):
        self.float_net, self.quantized = weights_by_hand(folder, kind)
        lines = sorted((folder / "data" / "wav.scp").read_text().splitlines())
        self.feats = [mean_normalize(Fbank()(torch.from_numpy(soundfile.read(line.split(" ", 1)[1],
                                                                             dtype="float32")[0])[None]))
                      for line in lines]

    def net(self, layers):
        net = copy.deepcopy(self.float_net)
        for name in layers:
            net.get_submodule(name).weight.data = self.quantized[name]
        return net

    @torch.no_grad()
    def vectors(self, net):
        return np.array([net(feats)[0].double().numpy() for feats in self.feats])

    def rates(self, vectors):
        """[(eer, min_dcf)] on all trials, then of resampled speakers: (1 + replicates, 2)."""
        x = vectors - vectors.mean(axis=0)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        pairs = np.array(list(itertools.combinations(range(len(x)), 2)))
        score, who = (x[pairs[:, 0]] * x[pairs[:, 1]]).sum(axis=1), pairs // 3  # three utterances a speaker
        same, rng, draws = who[:, 0] == who[:, 1], np.random.default_rng(0), [np.ones(5, int)]
        while len(draws) <= REPLICATES:
            drawn = np.bincount(rng.integers(0, 5, 5), minlength=5)
            times = np.where(same, drawn[who[:, 0]], drawn[who].prod(axis=1))
            draws += [drawn] if times[same].any() and times[~same].any() else []
        found = []
        for drawn in draws:
            times = np.where(same, drawn[who[:, 0]], drawn[who].prod(axis=1))
            target, other = (np.repeat(score[part], times[part]) for part in (same, ~same))
            found.append((100 * eer(target, other), min_dcf(target, other, 0.01)))
        return np.array(found)


def near(row, name, change):
    """A change (1 + replicates,) against the table's value and interval."""
    assert row[f"{name}_low"] == pytest.approx(np.quantile(change[1:], 0.025), abs=1e-4)
    assert row[f"{name}_high"] == pytest.approx(np.quantile(change[1:], 0.975), abs=1e-4)


def drift(a, b):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return 1 - (a * b).sum(axis=1)


@pytest.fixture(scope="module")
def tuned_out(place):
    analyse(place, place / "tuned_out", "--alone", "stage", "--kept", "stage", of=("--quantized", "tuned"))
    return place / "tuned_out"


@pytest.mark.parametrize("kind", ["float", "finetuned"])
def test_tables_against_an_independent_computation(place, tuned_out, kind):
    out = place / "out" if kind == "float" else tuned_out
    hand, reference = ByHand(place, kind), ByHand(place, "float")
    layers = [name for name, _ in quantizable(hand.float_net)]
    float_vectors = hand.vectors(hand.net([]))
    rates = {"latent": hand.rates(float_vectors), "quantized": hand.rates(hand.vectors(hand.net(layers))),
             "float": hand.rates(reference.vectors(reference.net([])))}
    systems = table(out / "systems.tsv")
    assert [row["system"] for row in systems] == (["float", "quantized"] if kind == "float" else
                                                  ["float", "latent", "quantized"])
    for row in systems:
        found = rates[row["system"]]
        assert (row["eer"], row["mindcf"]) == pytest.approx(tuple(found[0]), abs=1e-4)
        near(row, "eer", found[:, 0])
        near(row, "mindcf_loss", found[:, 1] - rates["float"][:, 1])
    rows = {row["part"]: row for row in table(out / "parts.tsv") if row["level"] == "stage"}
    assert list(rows) == STAGES
    loss = rates["quantized"] - rates["float"]
    shares = 0
    for name, row in rows.items():
        inside = part_layers(layers, name)
        pairs = [(hand.float_net.get_submodule(layer).weight.detach().double(), hand.quantized[layer].double())
                 for layer in inside]
        error, energy = (sum(float(x.sum()) for x in each) for each in
                         ([(q - w) ** 2 for w, q in pairs], [w**2 for w, _ in pairs]))
        assert (row["layers"], row["weights"]) == (len(inside), sum(w.numel() for w, _ in pairs))
        assert row["sqnr"] == pytest.approx(10 * math.log10(energy / error), rel=1e-5)
        w, q = (torch.cat([tensor.flatten() for tensor in each]) for each in zip(*pairs))
        assert row["cosine"] == pytest.approx(float(F.cosine_similarity(w, q, dim=0)), rel=1e-6)
        vectors = hand.vectors(hand.net(inside))
        here = hand.rates(vectors)
        moved = drift(float_vectors, vectors)
        assert (row["drift"], row["drift_p95"]) == pytest.approx((moved.mean(), np.quantile(moved, 0.95)), rel=1e-3)
        assert (row["alone_eer"], row["alone_mindcf"]) == pytest.approx(tuple(here[0]), abs=1e-4)
        assert row["alone_eer_delta"] == pytest.approx(here[0, 0] - rates["latent"][0, 0], abs=1e-4)
        near(row, "alone_eer", here[:, 0] - rates["latent"][:, 0])
        kept = hand.rates(hand.vectors(hand.net([layer for layer in layers if layer not in inside])))
        gain = rates["quantized"] - kept
        assert (row["kept_eer_gain"], row["kept_mindcf_gain"]) == pytest.approx(tuple(gain[0]), abs=1e-4)
        near(row, "kept_eer", gain[:, 0])
        near(row, "kept_mindcf", gain[:, 1])
        for i, measured in enumerate(("eer", "mindcf")):
            known = loss[0, i] > 0 and (loss[1:, i] > 0).mean() >= 0.975
            assert math.isnan(row[f"kept_{measured}_share"]) != known
            if known:
                shares += 1
                assert row[f"kept_{measured}_share"] == pytest.approx(gain[0, i] / loss[0, i], abs=1e-4)
    check_correlations(out)
    assert len({row["alone_eer"] for row in rows.values()}) > 2  # the comparisons could fail


def part_layers(layers, part):
    """Layers of `conv1`, or of `layers.2-3`."""
    head, dash, last = part.partition("-")
    stem, _, first = head.rpartition(".")
    heads = [f"{stem}.{i}" for i in range(int(first), int(last) + 1)] if dash else [head]
    return [layer for layer in layers if any(f"{layer}.".startswith(f"{each}.") for each in heads)]


def check_correlations(out):
    parts, found = table(out / "parts.tsv"), table(out / "correlations.tsv")
    assert {(row["level"], row["loss"]) for row in found} >= {("stage", "alone_eer"), ("stage", "kept_mindcf")}
    for row in found:
        here = [part for part in parts if part["level"] == row["level"]]
        kind, measured = row["loss"].split("_")
        y = [part[f"{kind}_{measured}_{'delta' if kind == 'alone' else 'gain'}"] for part in here]
        x = [1 - part["cosine"] if row["predictor"] == "cosine_distance" else part[row["predictor"]] for part in here]
        assert row["parts"] == len(here)
        if len(set(y)) > 1:
            assert row["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-6)
            assert row["kendall"] == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-6)
            assert 0 < row["spearman_p"] <= 1 and row["unexplained"] == pytest.approx(1 - row["spearman"] ** 2)


def test_every_layer_and_the_page(place):
    out = place / "out"
    layers = [name for name, _ in quantizable(load_model(place / "model")[0])]
    rows = [row for row in table(out / "parts.tsv") if row["level"] == "layer"]
    assert [row["part"] for row in rows] == layers and all(math.isnan(row["kept_eer"]) for row in rows)
    assert all(row["output_mse"] > 0 for row in rows)
    for layer, stage in (("conv1", "conv1"), ("embedding", "embedding")):  # the same part at two levels
        one, other = (next(row for row in table(out / "parts.tsv") if (row["level"], row["part"]) == key)
                      for key in (("layer", layer), ("stage", stage)))
        same = [name for name in one if name not in ("level", "kind") and not name.startswith("kept")]
        assert [one[name] for name in same] == [other[name] for name in same] and len(same) > 15
    page = (out / "index.html").read_text()
    for name in ("kept_stage", "alone_layer", "propagation_stage", "against_layer", "distortion_layer"):
        assert (out / f"{name}.svg").exists() and (out / f"{name}.tsv").exists() and f'id="{name}"' in page
    assert "http" not in page.replace("http-equiv", "") and "Spearman" in page
    text = (out / "layers.md").read_text()
    assert all(f"| {stage} |" in text for stage in STAGES) and "15 utterances of 5 speakers" in text
    assert "model_digest: ''" not in (out / "analysed.yaml").read_text()


@torch.no_grad()
def test_movements_against_a_forward_pass_by_hand(place):
    hand = ByHand(place, "float")
    inside = part_layers(list(hand.quantized), "layers.2-3")
    before, after = hand.net([]), hand.net(inside)
    names = ["conv1", "layers.1", "layers.3", "embedding"]
    feats = torch.cat([each[:, :20] for each in hand.feats])  # 15: more than a batch

    def at(net, depth):
        x = F.relu(net.bn1(net.conv1(feats.transpose(1, 2).unsqueeze(1))))
        for block in net.layers[:depth]:
            x = block(x)
        return x.double().flatten(1)

    found = movements(before, after, feats, names)
    for name, pair in (("layers.3", (at(before, 4), at(after, 4))),
                       ("embedding", (before(feats).double(), after(feats).double()))):
        y, z = pair
        error = ((z - y) ** 2).sum(1) / (y**2).sum(1)
        assert found[name].relative_mse == pytest.approx(float(error.mean()), rel=1e-4)
        assert found[name].cosine == pytest.approx(float(F.cosine_similarity(y, z).mean()), rel=1e-6)
    for name in ("conv1", "layers.1"):  # before what is quantized
        assert (found[name].relative_mse, found[name].cosine) == (0, pytest.approx(1))
    rows = [row for row in table(place / "out" / "movements.tsv") if row["level"] == "stage"]
    for row in rows:
        earlier = row["part"] != "all" and STAGES.index(row["at"]) < STAGES.index(row["part"])
        assert (row["relative_mse"] == 0) == earlier
    assert len(rows) == 7 * 6


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_killed_and_run_again(place, tuned_out, tmp_path, monkeypatch):
    """It goes on where it was, computes nothing twice, and ends with the same bytes."""
    computed, compute = [], development.EmbeddingStore._compute

    def killed(self, net, title):
        if len(computed) == 4:
            raise KeyboardInterrupt
        computed.append(title)
        return compute(self, net, title)

    more = ("--alone", "stage", "--kept", "stage")
    monkeypatch.setattr(development.EmbeddingStore, "_compute", killed)
    with pytest.raises(KeyboardInterrupt):
        analyse(place, tmp_path / "out", *more, of=("--quantized", "tuned"))
    assert not (tmp_path / "out" / "index.html").exists() and len(computed) == 4
    monkeypatch.setattr(development.EmbeddingStore, "_compute",
                        lambda self, net, title: computed.append(title) or compute(self, net, title))
    analyse(place, tmp_path / "out", *more, of=("--quantized", "tuned"))
    assert len(computed) == len(set(computed)) == 2 * len(STAGES) + 3  # reference, nothing, all
    assert content(tmp_path / "out") == content(tuned_out)


def test_what_is_done_beside_quantizing(place, tmp_path):
    """With folded batch norms weights and outputs are compared after folding: a part that is not quantized moves 0."""
    config = LayerAnalysisConfig(str(place / "data"), str(place / "data" / "trials"), str(place / "model"), quant=QUANT,
                                 ptq=PTQConfig(fold_batch_norm=True), alone=("stage",), kept=(), bootstrap=0, probes=2,
                                 permutations=99, probe_seconds=0.2)
    study = LayerStudy(config, tmp_path)
    part = study.parts["stage"][2]
    moved = study.moved(list(part.layers), "stage")  # against the folded network, of which earlier parts are the same
    assert [error.relative_mse < 1e-10 for error in moved.values()] == [True, True, False, False, False, False]
    row = study._row("stage", part)
    assert math.isnan(row.alone_eer_low) and row.alone_eer >= 0 and math.isnan(row.kept_eer)
    assert row.sqnr != pytest.approx(table(place / "out" / "parts.tsv")[2]["sqnr"])
    feats = torch.randn(2, 30, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # folding leaves the network what it was
        torch.testing.assert_close(study.subject.network([])(feats), load_model(place / "model")[0](feats), rtol=1e-3,
                                   atol=1e-4)


@torch.no_grad()
def test_batch_norms_are_measured_anew(place, tmp_path):
    """Only where a part is in float; the first norm against the mean and variance of what goes into it."""
    common = (str(place / "data"), str(place / "data" / "trials"))
    config = LayerAnalysisConfig(*common, quantized=str(place / "tuned"), norms_data=str(place / "data"))
    subject = LayerStudy(config, tmp_path).subject
    layers, feats = list(subject.weights), subject.norms_feats
    whole, part = subject.network(layers), subject.network(layers[1:])
    assert len(feats) == 15 and torch.equal(whole.bn1.running_mean, subject.net.bn1.running_mean)
    inside = part.conv1(feats.transpose(1, 2).unsqueeze(1)).double()
    torch.testing.assert_close(part.bn1.running_mean.double(), inside.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part.bn1.running_var.double(), inside.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert part.bn1.momentum == whole.bn1.momentum and torch.equal(part.bn1.weight, whole.bn1.weight)
    assert subject.variant(layers)[-1] == "" != subject.variant(layers[1:])[-1]
    control = {row.system: row for row in LayerStudy(config, tmp_path).systems()}  # of all quantized, norms anew
    assert list(control) == ["latent", "renormed", "quantized"]
    by_hand = ByHand(place, "finetuned")
    rates = by_hand.rates(by_hand.vectors(measure_norms_(whole, feats)))
    assert (control["renormed"].eer, control["renormed"].mindcf) == pytest.approx(tuple(rates[0]), abs=1e-4)
    assert control["renormed"].drift != control["quantized"].drift
    with pytest.raises(ValueError, match="norms_data is for a finetuned network"):
        LayerAnalysisConfig(*common, str(place / "model"), quant=QUANT, norms_data="x")


@torch.no_grad()
def test_batch_norms_behind_the_pooling_never_see_a_single_utterance():
    """Of 17 utterances none is left over for a batch by itself; each counts in the mean of two batches."""
    norm, feats = torch.nn.BatchNorm1d(3), torch.randn(17, 3, generator=torch.Generator().manual_seed(0))
    measure_norms_(norm, feats)
    torch.testing.assert_close(norm.running_mean, (feats[:9].mean(0) + feats[9:].mean(0)) / 2)
    torch.testing.assert_close(norm.running_var, (feats[:9].var(0) + feats[9:].var(0)) / 2)


@pytest.mark.parametrize("arch, options, stages", [
    ("ResNet34", {"width": 2}, ["conv1", "layers.0-2", "layers.3-6", "layers.7-12", "layers.13-15", "embedding"]),
    ("ResNet50", {"width": 2}, ["conv1", "layers.0-2", "layers.3-6", "layers.7-12", "layers.13-15", "embedding"]),
    ("ECAPA512", {"channels": 16, "wide": 24, "squeeze": 4, "attention": 4},
     ["layer1", "layer2", "layer3", "layer4", "mfa", "pool", "embedding"]),
])
def test_stages_of_networks(arch, options, stages):
    net = nets.build(arch, 80, 8, **options)
    layers = [name for name, _ in quantizable(net)]
    assert [part.name for part in parts_of(net, "stage")] == stages
    for level in PART_LEVELS:
        parts = parts_of(net, level)
        assert [layer for part in parts for layer in part.layers] == layers
        assert all(isinstance(net.get_submodule(part.end), torch.nn.Module) for part in parts)
    with pytest.raises(ValueError, match="level is 'all'; it must be one of stage, block, layer"):
        parts_of(net, "all")


def test_mistakes_are_one_clear_line(place, tmp_path):
    def refused(words, *more, of=("--config", "row.yaml")):
        with pytest.raises(UserError, match=words) as error:
            analyse(place, tmp_path / "out", *more, of=of)
        assert "\n" not in str(error.value)

    refused("leave them out with --quantized", "--quantized", place / "tuned")
    refused("no `quant` in the config", "--set", "quant=null")
    refused("quant.layers gives single layers their bits", "--set", "quant.layers={embedding: 2}")
    refused("probes is 0; it must be at least 1", "--probes", 0)
    refused("model: a float network; give it as the float model", of=("--quantized", "model"))
    refused("holds no float weights to go back to", of=("--quantized", "tuned/model.svq"))
    refused("tuned: is quantized", "--model", place / "tuned")
    refused("tuned: is quantized", "--model", place / "tuned", of=("--quantized", "tuned"))
    refused("config.yaml: no such file", of=("--quantized", "data"))
    one = data_dir(tmp_path, speakers=1, utts=1, seconds=0.3)
    refused("data: one utterance says nothing", "--norms-data", one, of=("--quantized", "tuned"))
    refused("quant says how the float network", of=("--data", "data"))
    assert not (tmp_path / "out" / "parts.tsv").exists()
