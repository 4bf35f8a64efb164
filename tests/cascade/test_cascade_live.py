"""A cascade from its ladder's YAML to decisions: chosen, replayed, run, and its log counted again; two recordings."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from svq.backend.embeddings import read_vector
from svq.bin import cascade, export, extract, score, speaker_means, verify
from svq.cascade.cost import LIST, STREAMING, UNITS, count, rung_costs, table_of
from svq.cascade.ladder import Ladder, Rung, load_ladder, load_maps, mean_of_rung, reached, settle
from svq.cascade.live import LiveCascade, TrialList
from svq.cascade.live_runs import read_reached, read_runs, recount
from svq.cascade.verifier import CascadeVerifier
from svq.config import dump_config
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import save_model
from svq.network import ModelConfig
from svq.pack.file import save_packed
from svq.quant import QuantConfig, quantize_
from tests.builders import data_dir
from tests.helpers import run_worker

NAMES = ["two", "four", "float"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """dev/ with trials of all pairs; three systems of one network, scored; ladder.yaml, and chosen/ladder.yaml."""
    folder = tmp_path_factory.mktemp("cascade")
    data = data_dir(folder, speakers=3, utts=3, seconds=0.8, name="dev")
    utts = [f"spk{s:02d}-utt{u:02d}" for s in range(3) for u in range(3)]
    (data / "spk2utt").write_text("".join(f"spk{s:02d} {' '.join(utts[3 * s:3 * s + 3])}\n" for s in range(3)))
    (data / "trials").write_text("".join(f"{a} {b} {'target' if a[:5] == b[:5] else 'nontarget'}\n"
                                         for i, a in enumerate(utts) for b in utts[i + 1:]))
    rungs = []
    for name, bits in zip(NAMES, (2, 4, None)):
        model = folder / name if bits is None else folder / name / "model.svq"
        system(folder / name, data, bits, model)
        rungs.append(Rung(name, str(model), scores=str(folder / name / "scores"), mean=str(folder / name / "mean.vec")))
    ladder = Ladder(tuple(rungs), operating=dataclasses.replace(Ladder(tuple(rungs)).operating, eer=True))
    dump_config(ladder, folder / "ladder.yaml")
    run_worker(cascade.main, "choose", "--ladder", folder / "ladder.yaml", "--trials", data / "trials", "--limit",
               "escalation=0.6", "--limit", "cost=0.5", "--out", folder / "chosen")
    return folder


def system(folder, data, bits, model):
    made(folder, bits)
    scored(folder, data, model)


def made(folder, bits):
    torch.manual_seed(0)
    quant = None if bits is None else QuantConfig(bits=bits)
    config = ModelConfig("ResNet18", {"width": 4}, 16, FrontEndConfig(mean_normalize=False), quant)
    net = config.build().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    net = net if quant is None else quantize_(net, quant)
    save_model(folder, net, config)
    if quant is not None:
        save_packed(folder / "model.svq", net, config)


def scored(folder, data, model):
    run_worker(extract.main, data, model, folder / "embedding")
    run_worker(speaker_means.main, data / "spk2utt", folder)
    run_worker(score.main, "--cohort", folder, "--threads", 1, data / "trials", folder, folder / "scores/dev")


@pytest.fixture(scope="module")
def ran(place):
    run_worker(cascade.main, "run", "--ladder", place / "chosen/ladder.yaml", "--trials", place / "dev/trials", "--out",
               place / "run")
    return place / "run"


def gated(place, out, deltas):
    """The chosen ladder with other deltas; its path."""
    tree = yaml.safe_load((place / "chosen/ladder.yaml").read_text())
    for rung, delta in zip(tree["rungs"], deltas):
        rung["delta"] = delta
        rung["map"] = str(place / "chosen" / rung["map"])
    tree["rungs"][-1]["map"] = str(place / "chosen" / tree["rungs"][-1]["map"])
    path = out / "gated.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def replayed(place, path):
    """(TrialList, values (R, n), rung of each trial, RungCosts) from the score files."""
    ladder, listed = load_ladder(path), TrialList(place / "dev/trials")
    values = listed.values(ladder, load_maps(ladder))
    return listed, values, settle(values, ladder.threshold(), ladder.deltas()), rung_costs(ladder.rungs, listed.frames)


def test_a_live_run_is_what_replay_says_and_its_log_adds_up(place, ran):
    listed, values, rung, costs = replayed(place, place / "chosen/ladder.yaml")
    lines = [line.split("\t") for line in (ran / "trials.tsv").read_text().splitlines()[1:]]
    assert [NAMES.index(line[3]) for line in lines] == rung.tolist() and 0 < rung.mean() < 2
    for line, column, settled in zip(lines, values.T, rung):
        assert line[6 + settled:] == ["-"] * (2 - settled)
        np.testing.assert_allclose([float(x) for x in line[5:6 + settled]], column[:settled + 1], atol=2e-3)
    through = read_reached(ran, NAMES)
    assert (through == reached(rung, 3)).all()
    table = table_of(costs, listed.frames)
    expected, found = count(listed, through, table, LIST), recount(ran, NAMES, costs)
    assert found.embeddings.tolist() == expected.embeddings.tolist()
    np.testing.assert_allclose(found.costs, expected.costs)
    seen = [tuple(line.split("\t")[:2]) for line in (ran / "embeddings.tsv").read_text().splitlines()[1:]]
    assert len(set(seen)) == len(seen) == expected.embeddings.sum()
    told = json.loads((ran / "summary.json").read_text())
    last = np.repeat([[False], [False], [True]], len(listed), axis=1)
    whole = count(listed, last, table, STREAMING)
    for unit in UNITS:
        assert told["streaming_shares"][unit] == pytest.approx(count(listed, through, table).share(unit, whole))
    assert told["escalation"] == pytest.approx((rung > 0).mean())
    assert told["settled"] == dict(zip(NAMES, np.bincount(rung, minlength=3).tolist()))


@pytest.mark.parametrize("deltas, asked", [((0.0, 0.0), [1, 0, 0]), ((np.inf, 0.0), [1, 1, 0]),
                                           ((np.inf, np.inf), [1, 1, 1])])
def test_ends_of_the_deltas(place, tmp_path, deltas, asked):
    path = gated(place, tmp_path, deltas)
    ladder = load_ladder(path)
    cascade_ = LiveCascade(ladder, TrialList(place / "dev/trials"))
    assert {one.rung for one in cascade_} == {sum(asked) - 1}
    assert [len(live.vectors) for live in cascade_.rungs] == [9 * yes for yes in asked]
    assert [bool(live.load_seconds) for live in cascade_.rungs] == [bool(yes) for yes in asked]


def test_one_rung_alone(place, tmp_path):
    run_worker(cascade.main, "run", "--ladder", place / "chosen/ladder.yaml", "--trials", place / "dev/trials", "--out",
               tmp_path, "--only", "float")
    assert read_reached(tmp_path, NAMES).tolist() == [[False] * 36, [False] * 36, [True] * 36]
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["escalation"] == 0 and told["list_shares"]["bit_operations"] == pytest.approx(1)
    assert told["streaming_shares"]["bit_operations"] == pytest.approx(1)


def test_seconds_are_compared_with_the_last_rung_alone(place, tmp_path):
    ladder, trials = place / "chosen/ladder.yaml", place / "dev/trials"
    runs = [tmp_path / "run", *(tmp_path / f"alone/{name}" for name in NAMES)]
    for folder, only in zip(runs, [(), *(("--only", name) for name in NAMES)]):
        run_worker(cascade.main, "run", "--ladder", ladder, "--trials", trials, "--out", folder, *only)
    evaluate = ("evaluate", "--ladder", ladder, "--trials", trials, "--out", tmp_path / "report", "--bootstrap", 0,
                "--controls", 1)
    run_worker(cascade.main, *evaluate, "--runs", *runs)
    text = (tmp_path / "report/cascade.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in text[text.index("### Measured"):].splitlines() if "|" in line]
    lines = [dict(zip(lines[0], line)) for line in lines[2:]]
    assert [line["what ran"] for line in lines] == ["cascade", *(f"{name} alone" for name in NAMES)]
    told = [json.loads((folder / "summary.json").read_text()) for folder in runs]
    for line, one in zip(lines, told):
        share = sum(one["seconds"].values()) / sum(told[-1]["seconds"].values())
        assert line["of float alone (%)"] == f"{100 * share:.1f}"
        assert line["wrong decisions (%)"] == f"{100 * one['wrong']:.2f}"
    assert lines[-1]["of float alone (%)"] == lines[-1]["bit-operations counted (%)"] == "100.0"
    assert "Measured" in (tmp_path / "report/index.html").read_text()
    with pytest.raises(UserError, match="the runs are of the rungs two, four, float with .* with .*, inf, 0; run the"):
        run_worker(cascade.main, "evaluate", "--ladder", gated(place, tmp_path, (np.inf, 0.0)), *evaluate[3:], "--runs",
                   *runs)
    with pytest.raises(UserError, match="no run of float alone to compare with"):
        run_worker(cascade.main, *evaluate, "--runs", runs[0], runs[1])
    (runs[1] / "summary.json").write_text((runs[1] / "summary.json").read_text().replace('"trials": 36', '"trials": 9'))
    with pytest.raises(UserError, match="alone/two/summary.json: of another list or ladder"):
        read_runs(runs)
    (runs[1] / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="alone/two/summary.json: of an older svq"):
        read_runs(runs)
    with pytest.raises(UserError, match="no such file; svq.bin.cascade run"):
        read_runs([tmp_path])


def test_models_of_several_utterances(place, tmp_path):
    data = tmp_path / "dev"
    shutil.copytree(place / "dev", data)
    (data / "enroll.spk2utt").write_text("m spk00-utt00 spk00-utt01\nn spk01-utt00\n")
    (data / "trials").write_text("m spk00-utt02 target\nn spk00-utt02 nontarget\nm spk01-utt00 nontarget\n")
    path = gated(place, tmp_path, (np.inf, np.inf))
    listed = TrialList(data / "trials")
    settled = list(LiveCascade(load_ladder(path), listed))
    for name, values in zip(NAMES, np.array([one.values for one in settled]).T):
        run_worker(score.main, "--cohort", place / name, "--threads", 1, "--enroll-spk2utt", data / "enroll.spk2utt",
                   data / "trials", place / name, tmp_path / name / "scores/dev")
    ladder = load_ladder(path)
    moved = tuple(dataclasses.replace(rung, scores=str(tmp_path / rung.name / "scores")) for rung in ladder.rungs)
    expected = listed.values(dataclasses.replace(ladder, rungs=moved), load_maps(ladder))
    np.testing.assert_allclose([one.values for one in settled], expected.T, atol=2e-3)
    through = np.ones((1, 3), dtype=bool)
    assert count(listed, through, np.ones((1, len(listed.ids), 3)), LIST).embeddings.tolist() == [4]


def test_two_recordings(place, ran, capsys, tmp_path):
    wav = lambda name: place / f"dev_wav/{name}.wav"  # noqa: E731
    verifier = CascadeVerifier.load(place / "chosen/ladder.yaml", min_seconds=0.1, warn=lambda line: None)
    for line in (ran / "trials.tsv").read_text().splitlines()[1::5]:
        enroll, test, _, rung, decision, *values = line.split("\t")
        found = verifier.verify([wav(enroll)], wav(test))
        assert (found.rung, found.decision) == (rung, decision)
        expected = [float(x) for x in values if x != "-"]
        np.testing.assert_allclose([said.value for said in found.said], expected, atol=1e-2)
    path = gated(place, tmp_path, (np.inf, 0.0))
    for json_wanted in ("true", "false"):
        run_worker(verify.main, "--cascade", path, "--json", json_wanted, wav("spk00-utt00"), "--", wav("spk00-utt01"))
    told, decoder = capsys.readouterr().out, json.JSONDecoder()
    about, end = decoder.raw_decode(told)
    assert about["settled_by"] == "four" and [said["rung"] for said in about["rungs"]] == ["two", "four"]
    assert about["rungs"][0]["delta"] == "inf" and about["decision"] in ("accept", "reject")
    assert "settled by four, 2 of 3 rungs asked" in told[end:] and "unsure" in told[end:]


@pytest.mark.parametrize("words, message", [
    (("--p-target", "0.2"), "--p-target is not for --cascade"), (("--model", "m.svq"), "not allowed with argument")])
def test_what_the_ladder_says_is_not_said_twice(place, capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        run_worker(verify.main, "--cascade", place / "chosen/ladder.yaml", *words, "a.wav", "--", "b.wav")
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_report_is_whole_and_the_same_twice(place):
    for out in ("report", "again"):
        run_worker(cascade.main, "evaluate", "--ladder", place / "chosen/ladder.yaml", "--trials", place / "dev/trials",
                   "--out", place / out, "--bootstrap", 20, "--controls", 2)
    names = ["cascade.md", "cascade.tsv", "cascade_dev.svg", "cascade_dev.tsv", "index.html"]
    assert sorted(path.name for path in (place / "report").iterdir()) == names
    for name in names:
        assert (place / "report" / name).read_bytes() == (place / "again" / name).read_bytes()
    head, *lines = [line.split("\t") for line in (place / "report/cascade.tsv").read_text().splitlines()]
    rows = {line[1]: dict(zip(head, line)) for line in lines}
    assert list(rows) == ["cascade", "random", *NAMES]
    assert float(rows["float"]["flips"]) == 0 and float(rows["float"]["cost"]) == pytest.approx(100)
    assert float(rows["two"]["streaming_bit_operations"]) == pytest.approx(2 / 32)
    assert rows["cascade"]["escalation"] == rows["random"]["escalation"]
    curve = np.loadtxt(place / "report/cascade_dev.tsv", skiprows=1)
    assert (np.diff(curve[:, 1]) >= 0).all() and curve[-1, 1] == 100


def test_a_ladder_that_is_not_finished(place):
    ladder = load_ladder(place / "ladder.yaml")
    with pytest.raises(UserError, match="rung two has no delta; svq.bin.cascade choose"):
        ladder.deltas(place / "ladder.yaml")
    with pytest.raises(UserError, match="map of rung two is not fitted yet"):
        load_maps(ladder)
    with pytest.raises(UserError, match="an EER not measured yet"):
        ladder.threshold()


def test_the_map_carries_the_mean(place):
    ladder = load_ladder(place / "chosen/ladder.yaml")
    for rung, score_map in zip(ladder.rungs, load_maps(ladder)):
        assert rung.mean is None  # so the ladder's folder does without the file
        np.testing.assert_array_equal(mean_of_rung(rung, score_map), read_vector(place / rung.name / "mean.vec"))


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_the_first_rung_in_int8(place, tmp_path, suffix):
    """The packed file's network exported, with a calibration of its own: chosen, run, and asked of two recordings."""
    pytest.importorskip({"onnx": "onnxruntime", "xml": "openvino"}[suffix])
    file, data = tmp_path / f"two-int8/model.{suffix}", place / "dev"
    run_worker(export.main, "--model", place / "two/model.svq", "--out", file, "--int8", "true", "--range-data", data,
               "--num-utts", 3)
    scored(file.parent, data, file)
    ladder = load_ladder(place / "ladder.yaml")
    rungs = (Rung("int8", str(file), scores=str(file.parent / "scores"), mean=str(file.parent / "mean.vec")),
             ladder.rungs[-1])
    dump_config(dataclasses.replace(ladder, rungs=rungs), tmp_path / "ladder.yaml")
    run_worker(cascade.main, "choose", "--ladder", tmp_path / "ladder.yaml", "--trials", data / "trials", "--limit",
               "escalation=0.6", "--out", tmp_path / "chosen")
    chosen = load_ladder(tmp_path / "chosen/ladder.yaml")
    own, packed = load_maps(chosen)[0], load_maps(load_ladder(place / "chosen/ladder.yaml"))[0]
    assert own != packed  # it is another model, with scores and a mean of its own
    int8, alone = rung_costs(chosen.rungs, [80])
    assert int8.weight_bytes == sum(path.stat().st_size for path in file.parent.glob("model.*"))
    assert int8([80])[0, 1] / alone([80])[0, 1] == pytest.approx(1 / 16, rel=1e-3)
    run_worker(cascade.main, "run", "--ladder", tmp_path / "chosen/ladder.yaml", "--trials", data / "trials", "--out",
               tmp_path / "run")
    live = CascadeVerifier.load(tmp_path / "chosen/ladder.yaml", min_seconds=0.1, warn=lambda line: None)
    for line in (tmp_path / "run/trials.tsv").read_text().splitlines()[1::7]:
        enroll, test, _, rung, decision, *_ = line.split("\t")
        found = live.verify([place / f"dev_wav/{enroll}.wav"], place / f"dev_wav/{test}.wav")
        assert (found.rung, found.decision) == (rung, decision)
