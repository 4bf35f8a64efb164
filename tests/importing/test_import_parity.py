"""Imported checkpoints give the embeddings of the code that they come from: make_fixtures.py wrote those down."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from svq.bin import extract, import_checkpoint
from svq.config import to_dict
from svq.data.datadir import create
from svq.data.frontend import FrontEnd, FrontEndConfig
from svq.models import load_model
from svq.pack.file import save_packed
from svq.quant import QuantConfig, quantize_
from tests.helpers import run_worker
from tests.importing import formula

FIXTURES = sorted(Path(__file__).parent.glob("fixtures/*.json"))
# What no tensor tells; for clova also the mel channels, because its fixtures are without the filters that tell them.
TOLD = {f"{origin}_resnet18_{pooling}": ("--pooling", pooling)
        for origin in ("wespeaker", "3dspeaker") for pooling in ("tap", "tsdp")}


@pytest.fixture(scope="module", params=FIXTURES, ids=lambda path: path.stem)
def case(request, tmp_path_factory):
    """The fixture, and the checkpoint that it tells of after its import: network and config."""
    fixture = json.loads(request.param.read_text())
    folder = tmp_path_factory.mktemp(request.param.stem)
    state = formula.checkpoint(formula.expand(fixture["layers"]), fixture.get("gain", 1.0))
    if fixture["origin"] == "wespeaker":
        state["projection.weight"] = torch.ones(7, 3)
    if fixture["origin"] == "clova":
        state = {f"__S__.{name}": tensor for name, tensor in state.items()} | {"__L__.w": torch.ones(1)}
    if "model_config" in fixture:
        state = {"state_dict": state, "model_config": fixture["model_config"]}
    if fixture["origin"] == "resemblyzer":
        loss = {f"similarity_{kind}": torch.ones(1) for kind in ("weight", "bias")}
        state = {"step": 1564501, "model_state": state | loss, "optimizer_state": {"param_groups": [{"lr": 1e-4}]}}
    torch.save(state, folder / "origin.pt")
    told = ("--num-mels", fixture["front_end"]["num_mels"]) if fixture["origin"] == "clova" else \
        TOLD.get(request.param.stem, ())
    run_worker(import_checkpoint.main, folder / "origin.pt", "--from", fixture["origin"], "--out", folder / "model",
               *told)
    return fixture, folder, *load_model(folder / "model", branches=True)


def assert_near(found, expected, most: float) -> None:
    """No number is further off than `most`; where the largest is above 1, than `most` of it."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=most * max(1, np.abs(expected).max()))


def test_there_are_fixtures_of_all_origins():
    assert {path.stem.partition("_")[0] for path in FIXTURES} == {"wespeaker", "speechbrain", "3dspeaker", "clova",
                                                               "redimnet", "resemblyzer"}


def test_is_recognised(case):
    fixture, _, net, config = case
    assert config.arch == fixture["arch"]
    assert config.front_end == FrontEndConfig(**fixture["front_end"])
    assert config.quant is None


@torch.no_grad()
def test_embedding_of_the_same_features(case):
    """Also with merged branches, where it has such."""
    fixture, folder, net, config = case
    feats = formula.features(config.front_end.num_mels, fixture.get("length", formula.FRAMES))
    for used in (net, load_model(folder / "model")[0]):
        found = used(feats)[0, :len(fixture["from_features"])]
        assert_near(found, fixture["from_features"], 1e-5)
    assert np.std(fixture["from_features"]) > 0.05  # the comparison could fail


@torch.no_grad()
def test_features_and_embedding_of_the_same_waveform(case):
    fixture, _, net, config = case
    feats = FrontEnd(config.front_end)(formula.waveform())
    assert feats.shape == (1, fixture["frames"], config.front_end.num_mels)
    for row, values in fixture["rows"].items():
        np.testing.assert_allclose(feats[0, int(row)], values, rtol=0, atol=1e-3)
    found = net(feats)[0, :len(fixture["from_waveform"])]
    assert_near(found, fixture["from_waveform"], 1e-4)
    assert np.abs(np.subtract(fixture["from_waveform"], fixture["from_features"])).max() > 1e-2


def test_extraction_takes_the_models_front_end(case, tmp_path):
    """From a recording; features in feats.scp are of another kind and are passed over."""
    fixture, folder, _, _ = case
    wave = formula.waveform()[0].numpy()
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    data = create(tmp_path / "data", wav={"a": tmp_path / "a.wav"}, utt2spk={"a": "s"}, utt2dur={"a": 1.0})
    (data / "feats.scp").write_text("a nowhere.ark:2\n")
    run_worker(extract.main, data, folder / "model", tmp_path / "out")
    import kaldiio

    (vector,) = kaldiio.load_scp(str(tmp_path / "out.scp")).values()
    assert_near(vector[:len(fixture["from_waveform"])], fixture["from_waveform"], 1e-4)


def test_what_was_imported_is_written_down(case):
    import yaml

    fixture, folder, _, config = case
    told = yaml.safe_load((folder / "model" / "provenance.yaml").read_text())["config"]
    assert told["from"] == fixture["origin"] and len(told["sha256"]) == 64
    left_out = {"wespeaker": ["projection.weight"], "clova": ["__L__.w"],
                "resemblyzer": ["similarity_bias", "similarity_weight"]}.get(fixture["origin"], [])
    single = {"backbone.stage0.0.w", "backbone.inputs_weights.0"}  # of one output, which a ReDimNet need not weigh
    assert told["left_out"] == sorted([*left_out, *single.intersection(fixture["layers"])])
    assert told["model"] == to_dict(config)


@torch.no_grad()
def test_can_be_quantized_and_packed(case, tmp_path):
    """The packed file gives the quantized network's embeddings, up to the rounding of folded batch norms."""
    _, folder, _, _ = case
    net, config = load_model(folder / "model")
    quant = QuantConfig("uniform", bits=8)
    quantized = quantize_(net, quant)
    save_packed(tmp_path / "model.svq", quantized, dataclasses.replace(config, quant=quant))
    feats = formula.features(config.front_end.num_mels)
    expected = quantized(feats)
    found, packed = load_model(tmp_path / "model.svq")
    assert packed.front_end == config.front_end
    assert (found(feats) - expected).norm() < 0.02 * expected.norm()
