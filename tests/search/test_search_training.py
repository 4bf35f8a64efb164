"""A search over real trainings of a tiny network: killed and taken up, pruned, and what it leaves behind."""

import dataclasses
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from svq.bin import search as worker, tradeoff, train
from svq.bits.config import AllocateConfig
from svq.bits.selection import SelectConfig
from svq.config import load_config
from svq.errors import UserError
from svq.models import load_model
from svq.quant import QuantConfig
from svq.quant.ptq_config import PTQConfig
from svq.search.config import SearchConfig
from svq.search.storage import latest, open_study, set_aside
from svq.search.worker import best_of
from svq.train.config import TrainConfig
from svq.train.loop import Trainer
from svq.train.run import RunOptions, run_id
from tests.helpers import run_worker
from tests.search.conftest import process


@pytest.fixture(scope="module")
def found(place):
    """The folder of an undisturbed search of two trials of two epochs."""
    return place.search("whole", {"pruner": "none"}, set="epochs=2")


@pytest.fixture(scope="module")
def diverged(place):
    return place.search("diverged", {"trials": 1, "space": {"schedule.lr": {"low": 1e30, "high": 2e30}}})


def table(folder):
    return [line.split("\t") for line in (folder / "trials.tsv").read_text().splitlines()]


def test_a_search_leaves_its_best_trial_as_an_ordinary_system(place, found):
    study = open_study(found / "study.db")
    trials = latest(study)
    assert [trial.state.name for trial in trials.values()] == ["COMPLETE"] * 2
    best = best_of(study)
    assert os.readlink(found / "best") == f"trials/{best.user_attrs['index']:04d}"
    net, config = load_model(found / "best")
    assert config.quant.bits == best.params["quant.bits"] and config.quant.retention == best.params["quant.retention"]
    for index, trial in trials.items():
        left = set(os.listdir(found / "trials" / f"{index:04d}"))
        assert "checkpoints" not in left and ("model.safetensors" in left) == (trial.number == best.number)
    rows = table(found)
    assert rows[0][:6] == ["trial", "state", "value", "error", "bytes", "epochs"] and len(rows) == 3
    size = {trial.params["quant.bits"]: trial.user_attrs["size_bytes"] for trial in trials.values()}
    share = size[best.params["quant.bits"]] / os.path.getsize(place.init / "model.safetensors")
    assert best.value == pytest.approx(best.user_attrs["error"] + 2 * share)
    assert sorted(best.intermediate_values) == [1, 2] and best.intermediate_values[2] == pytest.approx(best.value)


def test_trials_of_several_stages_have_all_their_epochs(place):
    """A trial is measured after every epoch of both stages; what was drawn for them trains to the same system again."""
    training = place.write("staged.yaml", {"base": "tune.yaml:kmqat", "multi_stage": True, "stage_epochs": [1],
                                           "quant": {"layers": {"conv1": 2}}})
    out = place.search("staged", {"trials": 1, "pruner": "hyperband", "space": {"stage_epochs": {"choices": ["[2, 1]"]}}},
                       train=training)
    assert dict(zip(*table(out)))["epochs"] == "3"
    assert sorted(best_of(open_study(out / "study.db")).intermediate_values) == [1, 2, 3]
    again = place.folder / "staged by best.yaml"
    run_worker(train.main, "--config", out / "best.yaml", "--data", place.data, "--init", place.init, "--out", again)
    assert (again / "model.safetensors").read_bytes() == (out / "best" / "model.safetensors").read_bytes()


def test_the_best_settings_train_to_the_same_system(place, found):
    out = place.folder / "by best.yaml"
    run_worker(train.main, "--config", found / "best.yaml", "--data", place.data, "--init", place.init, "--out", out)
    assert (out / "model.safetensors").read_bytes() == (found / "best" / "model.safetensors").read_bytes()


def test_a_search_killed_within_a_trial_goes_on_from_its_checkpoint_to_the_same_end(place, found, capfd):
    """Killed after the first epoch of trial 1; its own checkpoint is resumed."""
    original = Trainer._end_epoch

    def end_and_wait(trainer):
        original(trainer)
        if "0001" in trainer.checkpoint_path and trainer.step == trainer.steps_per_epoch:
            (place.folder / "half way").touch()
            time.sleep(600)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", end_and_wait)
        victim = process(lambda: place.search("killed", {"pruner": "none"}, set="epochs=2"))
    while not (place.folder / "half way").exists():
        assert victim.is_alive()
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    capfd.readouterr()
    killed = place.search("killed", {"pruner": "none"}, set="epochs=2")
    said = capfd.readouterr().out
    assert f"resuming from {killed}/trials/0001/checkpoints/last.pt at step 2 of 4" in said and "(try 2)" in said
    assert table(killed) == table(found)
    assert (killed / "best" / "model.safetensors").read_bytes() == (found / "best" / "model.safetensors").read_bytes()


def test_a_trial_that_is_worse_than_half_is_pruned_after_its_first_epoch(place):
    """Fixed: the first trial has a good measure, all others are made poor."""
    calls = []

    def measure(self, net):
        calls.append(1)
        return 10.0 if len(calls) <= 2 else 40.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svq.search.worker.Eer.__call__", measure)
        out = place.search("pruned", {"trials": 2, "startup_trials": 1}, set="epochs=2")
    rows = table(out)
    assert [row[1] for row in rows[1:]] == ["complete", "pruned"] and rows[2][2] == "nan" and rows[2][5] == "1"
    assert not (out / "trials" / "0001" / "checkpoints").exists()


def test_a_loss_that_is_no_number_ends_its_trial_only(diverged):
    assert table(diverged)[1][1:3] == ["pruned", "nan"] and not (diverged / "best").exists()


def test_identification_can_be_the_objective_of_another_search_in_the_folder(place, diverged):
    shutil.copytree(diverged, place.folder / "anew")
    out = place.search("anew", {"trials": 1, "objective": "identification",
                                "identification": {"seconds": 0.3, "shortest": 0.2}}, restart="true")
    assert table(out / "old.1") == table(diverged) and len(table(out)) == 2
    error = float(table(out)[1][3])
    assert 0 <= error <= 100 and round(error * 15 / 100, 5).is_integer()  # 3 speakers of 5 probes


@pytest.mark.parametrize("options, expected", [
    ({"train": "missing.yaml"}, "missing.yaml"), ({"init": "nowhere"}, "nowhere/model.safetensors: no such file"),
    ({"dev": "nowhere"}, "nowhere: no such data directory"),
    ({"study": "/proc/study.db"}, "the study cannot be opened"),
])
def test_what_is_missing_is_one_line(place, options, expected):
    with pytest.raises(UserError, match=expected):
        place.search("missing", **options)


def test_other_data_is_another_search(place, found):
    with pytest.raises(UserError, match="holds another search .its config differs."):
        place.search("other", {"seed": 5}, study=found / "study.db", set="epochs=2")


def test_a_search_set_aside_stays_whole(place, found):
    shutil.copytree(found, place.folder / "aside", symlinks=True)
    old = Path(set_aside(place.folder / "aside", place.folder / "aside" / "study.db"))
    assert load_config(old / "best.yaml", TrainConfig) == load_config(found / "best.yaml", TrainConfig)
    assert (old / "best" / "model.safetensors").read_bytes() == (found / "best" / "model.safetensors").read_bytes()
    assert best_of(open_study(old / "study.db")).params == best_of(open_study(found / "study.db")).params


@pytest.mark.parametrize("change, expected", [
    ({"teacher": "float"}, {"teacher"}), ({"noise": "data"}, {"noise"}), ({"rir": "data"}, {"rir"}),
    ({"data": "dev"}, {"data"}), ({"dev": "data"}, {"development data"}), ({"trials": "data/utt2spk"}, {"trials"}),
    ({"init": "data"}, {"model"}), ({"train": "checkpoint_minutes=1"}, set()), ({"train": "epochs=3"}, {"training"}),
    ({"search": {"trials": 9}}, set()), ({"search": {"seed": 9}}, {"config"}),
])
def test_a_study_knows_what_its_values_depend_on(place, change, expected):
    def about(train="epochs=1", search=None, **options):
        paths = {"init": "float", "data": "data", "dev": "dev", "trials": "dev/trials", "teacher": None, "noise": None,
                 "rir": None, **options}
        found = SimpleNamespace(**{name: path and place.folder / path for name, path in paths.items()})
        config = load_config(place.train, TrainConfig, ["augment.prob=0.5", train])
        return worker.describe(found, SearchConfig({"x": {}}, **(search or {})), config)

    before, after = about(), about(**change)
    assert {key for key in before if before[key] != after[key]} == expected


def test_a_checkpoint_is_resumed_whatever_was_done_in_place_of_training(tmp_path):
    options = RunOptions("none.yaml", str(tmp_path), "out")
    config = TrainConfig(quant=QuantConfig())
    for part in ({"select": SelectConfig(bytes=1)}, {"ptq": PTQConfig(fold_batch_norm=True)},
                 {"allocate": AllocateConfig(bytes=1)}):
        assert run_id(dataclasses.replace(config, **part), options) == run_id(config, options)
    assert run_id(dataclasses.replace(config, seed=9), options) != run_id(config, options)


def test_the_report(place, found):
    out = place.folder / "report"
    run_worker(tradeoff.main, f"float={place.init}", f"qat={found / 'best'}", "--data", place.dev, "--study",
               found / "study.db", "--out", out, "--seconds", 0.5, "--times", 2, "--probe-seconds", 0.3,
               "--replicates", 20)
    rows = [line.split("\t") for line in (out / "tradeoff.tsv").read_text().splitlines()]
    first, second = (dict(zip(rows[0], row)) for row in rows[1:])
    assert first["gflops"] == second["gflops"] == first["gflops_equivalent"]
    bits = yaml.safe_load((found / "best" / "config.yaml").read_text())["quant"]["bits"]
    assert float(second["gflops_equivalent"]) / float(first["gflops"]) == pytest.approx(bits / 32, rel=1e-4)
    assert int(second["size_bytes"]) < int(first["size_bytes"]) and float(first["latency_ms"]) > 0
    row = table(found)[1 + int(os.readlink(found / "best")[-4:])]
    assert float(second["eer"]) == pytest.approx(float(row[3]), abs=1e-3)  # the search's own measure
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 4 and "GFLOPs theoretical" in page and "http" not in page.split("<body>")[1]
    for name in ("history", "slices", "parallel", "intermediate"):
        assert (out / f"{name}.svg").stat().st_size > 1000 and len((out / f"{name}.tsv").read_text().splitlines()) >= 3
    assert "Only 2 trials are complete" in page and "All systems here run in torch" in (out / "tradeoff.md").read_text()
    history = np.genfromtxt(out / "history.tsv", names=True, dtype=None, encoding=None)
    assert np.all(np.diff(history["best"]) <= 0)
