"""Workers that share a study: so many trials and no more, none lost with its worker, the same ones every time."""

import os
import signal
import time

import pytest

from svq.errors import UserError
from svq.search.config import Parameter, ParameterConfig, SearchConfig
from svq.search.storage import (
    WAITING_FOR_OTHERS,
    AnotherSearch,
    FileLock,
    begin,
    claim,
    folder_of,
    is_held,
    latest,
    open_study,
    pruner,
)
from svq.search.worker import Outcome, best_of, work, write_table
from svq.train.checkpoint import Stopped
from tests.search.conftest import process

PARAMETERS = [Parameter("schedule.lr", ParameterConfig(1e-3, 1e-1, log=True), False),
              Parameter("epochs", ParameterConfig(1, 5), True),
              Parameter("quant.bits", ParameterConfig(choices=[2, 3, 4]), True)]
ABOUT = {"config": "a", "data": "b"}


def settings(**changes):
    return SearchConfig(**{"space": {"x": {}}, "trials": 4, "startup_trials": 2, **changes})


def value(params):
    return params["quant.bits"] + params["epochs"] + params["schedule.lr"]


class Bench:
    """A search over a formula in place of training."""

    empty = b""

    def __init__(self, folder, **changes):
        self.folder, self.search = folder, settings(**changes)
        folder.mkdir(exist_ok=True)
        if not Bench.empty:  # Optuna takes a second to make its tables: once for all tests
            self.study()
            Bench.empty = (folder / "study.db").read_bytes()
        (folder / "study.db").write_bytes(Bench.empty)

    def study(self):
        study = open_study(self.folder / "study.db", ABOUT)
        study.pruner = pruner(self.search, 5)
        return study

    def work(self, run=None):
        study = self.study()
        return work(study, self.search, PARAMETERS, self.folder, run or self.run,
                    lambda: write_table(self.folder / "trials.tsv", study, PARAMETERS), poll=0.05)

    def run(self, mine):
        with open(self.folder / "done", "a") as file:
            file.write(f"{mine.index}\n")
        time.sleep(0.02)
        return Outcome(value(mine.trial.params), 1.0, 100, 1)

    def hang(self, mine):
        """Does the first trial, and never comes back from the second."""
        if mine.index == 0:
            return self.run(mine)
        (self.folder / "hangs").touch()
        time.sleep(600)

    def table(self):
        return (self.folder / "trials.tsv").read_text()


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def hanging(bench):
    """A worker that is in the middle of trial 1."""
    started = process(bench.work, bench.hang)
    while not (bench.folder / "hangs").exists():
        assert started.is_alive()
        time.sleep(0.01)
    (bench.folder / "hangs").unlink()
    return started


def kill(worker):
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()


def killed_while_hanging(bench):
    kill(hanging(bench))


def test_two_workers_share_a_study_and_do_so_many_trials_in_all(bench):
    workers = [process(bench.work) for _ in range(2)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    study = bench.study()
    assert sorted(map(int, (bench.folder / "done").read_text().split())) == list(range(4))
    assert len(study.get_trials()) == 4 and {trial.state.name for trial in study.get_trials()} == {"COMPLETE"}
    assert bench.work() == 0  # and a worker that comes late finds nothing to do
    assert len(study.get_trials()) == 4
    assert list(latest(study)) == list(range(4))


def test_a_killed_workers_trial_is_done_again_and_all_is_as_without_it(bench, tmp_path):
    undisturbed = Bench(tmp_path / "undisturbed")
    undisturbed.work()
    killed_while_hanging(bench)
    assert bench.work() == 3
    trials = latest(bench.study())
    assert len(trials) == 4 and all(trial.state.name == "COMPLETE" for trial in trials.values())
    assert [trial.user_attrs["tries"] for trial in trials.values()] == [1, 2, 1, 1]
    assert [trial.state.name for trial in bench.study().get_trials()].count("FAIL") == 1
    assert [t.params for t in trials.values()] == [t.params for t in latest(undisturbed.study()).values()]
    lowest = min(value(trial.params) for trial in trials.values())
    assert best_of(bench.study()).value == best_of(undisturbed.study()).value == lowest


def test_a_worker_waits_for_the_others_and_takes_up_the_trial_of_one_that_dies(bench):
    bench.search = settings(trials=2)
    victim = hanging(bench)
    waiting = process(bench.work)
    time.sleep(0.6)
    assert waiting.is_alive()  # nothing to do, but trial 1 may come back
    kill(victim)
    waiting.join(20)
    assert waiting.exitcode == 0
    assert [trial.state.name for trial in latest(bench.study()).values()] == ["COMPLETE"] * 2


def test_a_trial_whose_worker_was_asked_to_end_has_not_failed(tmp_path):
    bench = Bench(tmp_path, trials=2, retries=0)

    def asked(mine):
        raise Stopped(143)

    for _ in range(3):
        with pytest.raises(SystemExit):
            bench.work(asked)
    assert bench.work() == 2
    trials = latest(bench.study()).values()
    assert [(trial.state.name, trial.user_attrs["tries"]) for trial in trials] == [("COMPLETE", 1)] * 2


def test_a_trial_that_kills_its_worker_every_time_is_given_up(tmp_path):
    bench = Bench(tmp_path, trials=3, retries=1)
    killed_while_hanging(bench)
    killed_while_hanging(bench)
    assert bench.work() == 1
    states = [trial.state.name for trial in latest(bench.study()).values()]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert bench.table().splitlines()[2].split("\t")[:3] == ["1", "fail", "nan"]


@pytest.mark.parametrize("step", ["asked", "tried", "failed"])
def test_a_worker_killed_while_it_takes_a_trial_loses_none(bench, monkeypatch, step):
    """asked: the trial is in the study, its index not yet; tried: but its lock is not; failed: not put up again."""
    bench.search = settings(trials=2)
    study = bench.study()

    class Killed(Exception):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if step == "failed":
            first = claim(study, bench.search, PARAMETERS, bench.folder / "trials")
            first.lock.release()
            patch.setattr(study, "add_trial", die)
        elif step == "asked":
            patch.setattr("svq.search.storage.lock_of", die)
        else:
            patch.setattr("optuna.trial.Trial.set_user_attr", die)
        claim(study, bench.search, PARAMETERS, bench.folder / "trials")
    assert bench.work() == 2
    found = latest(bench.study())
    assert len(found) == 2 and all(trial.state.name == "COMPLETE" for trial in found.values())


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_the_same_search_draws_the_same_settings(tmp_path, kind):
    drawn = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        bench = Bench(tmp_path / name, sampler=kind, seed=seed, trials=3)
        bench.work()
        drawn.append([trial.params for trial in latest(bench.study()).values()])
    assert drawn[0] == drawn[1] != drawn[2]
    assert (tmp_path / "one" / "trials.tsv").read_bytes() == (tmp_path / "again" / "trials.tsv").read_bytes()


@pytest.mark.parametrize("kind", ["median", "hyperband", "none"])
def test_poor_trials_are_pruned(tmp_path, kind):
    """Trials are in the same order after every epoch: none may be stopped that is the best so far."""
    bench = Bench(tmp_path, trials=8, pruner=kind, startup_trials=1, sampler="random")

    def run(mine):
        for epoch in range(1, 5):
            mine.trial.report(value(mine.trial.params) + 1 / epoch, epoch)
            if mine.trial.should_prune():
                return Outcome(None, None, 100, epoch, "pruned")
        return Outcome(value(mine.trial.params), 1.0, 100, 4)

    bench.work(run)
    found = latest(bench.study()).values()
    pruned = [trial for trial in found if trial.state.name == "PRUNED"]
    assert len(found) == 8 and bool(pruned) == (kind != "none")
    for trial in pruned:
        assert trial.last_step < 4 and min(value(other.params) for other in found) < value(trial.params)
    assert best_of(bench.study()).value == min(value(trial.params) for trial in found)


def test_warmup_epochs_are_not_pruned(tmp_path):
    bench = Bench(tmp_path, startup_trials=1, warmup_epochs=2, trials=3)
    seen = []

    def run(mine):
        for epoch in range(1, 4):
            mine.trial.report(mine.index, epoch)
            seen.append((mine.index, epoch, mine.trial.should_prune()))
        return Outcome(float(mine.index), 1.0, 100, 3)

    bench.work(run)
    assert [(index, epoch) for index, epoch, prune in seen if prune] == [(1, 3), (2, 3)]


def test_more_trials_later_go_on_with_the_study(bench):
    bench.search = settings(trials=2)
    assert bench.work() == 2
    bench.search = settings(trials=5)
    assert bench.work() == 3
    assert len(bench.table().splitlines()) == 1 + 5


def test_a_lock_is_held_by_one_process_until_it_ends(tmp_path):
    path = tmp_path / "lock"
    assert not is_held(path)

    def hold():
        lock = FileLock(path)
        lock.take()
        (tmp_path / "held").touch()
        time.sleep(600)
        lock.release()

    holder = process(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    assert is_held(path) and not FileLock(path).take(wait=False)
    kill(holder)
    assert not is_held(path)


@pytest.mark.parametrize("content, expected", [
    (b"SQLite format 3\0" + bytes(50), "the study cannot be opened"),
    (b"not a database at all, but long enough to look like one" * 30, "file is not a database"),
    (None, "the study cannot be opened (unable to open database file)"),
])
def test_a_damaged_or_unwritable_study_is_one_line(tmp_path, content, expected):
    path = tmp_path / "study.db"
    path.write_bytes(content) if content else path.mkdir()
    with pytest.raises(UserError) as refusal:
        open_study(path, ABOUT)
    assert expected in str(refusal.value) and str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_study_in_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="study cannot be opened"):
        open_study(tmp_path / "file" / "study.db", ABOUT)
    with pytest.raises(UserError, match="no such study"):
        open_study(tmp_path / "none.db")


OTHER = {**ABOUT, "data": "other"}


def test_the_study_of_another_search_is_refused(bench):
    with pytest.raises(UserError, match="holds another search .its data differs."):
        open_study(bench.folder / "study.db", OTHER)


def test_another_search_begins_anew_and_the_same_one_goes_on(tmp_path):
    bench = Bench(tmp_path, trials=1)
    bench.work()
    begun = [bench.folder, bench.folder / "study.db"]
    assert len(begin(*begun, ABOUT, "true").trials) == 1 and not (tmp_path / "old.1").exists()
    with pytest.raises(AnotherSearch):
        begin(*begun, OTHER)
    assert begin(*begun, OTHER, "true").trials == []
    assert sorted(os.listdir(tmp_path / "old.1")) == ["study.db", "trials", "trials.tsv"]
    assert len(open_study(tmp_path / "old.1" / "study.db", ABOUT).trials) == 1


def test_any_search_begins_anew_but_once_for_its_workers(tmp_path):
    bench = Bench(tmp_path, trials=1)
    for number, (word, trials) in enumerate([("a", 0), ("a", 1), ("b", 0), (None, 0)]):
        assert len(begin(bench.folder, bench.folder / "study.db", ABOUT, "always", word).trials) == trials, number
        bench.work()
    assert sorted(path.name for path in tmp_path.glob("old.*")) == ["old.1", "old.2"]


def test_a_search_with_a_trial_at_work_is_not_set_aside(tmp_path):
    bench = Bench(tmp_path, trials=2)
    victim = hanging(bench)
    for about, restart in ((OTHER, "true"), (ABOUT, "always")):
        with pytest.raises(UserError, match="study.db: workers of the search .* are at work on trials 0001; wait"):
            begin(bench.folder, bench.folder / "study.db", about, restart)
    assert not (tmp_path / "old.1").exists()
    kill(victim)


def test_a_worker_that_waited_while_its_search_was_set_aside_ends(bench, monkeypatch):
    bench.work()
    monkeypatch.setattr("svq.search.worker.claim", lambda *_: WAITING_FOR_OTHERS)
    monkeypatch.setattr("time.sleep", lambda _: begin(bench.folder, bench.folder / "study.db", OTHER, "true"))
    with pytest.raises(UserError, match="old.1: the search was set aside here, and another began"):
        bench.work()


def test_one_killed_while_it_sets_a_search_aside_does_no_harm(bench, monkeypatch):
    bench.work()
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr("shutil.move", lambda *_: {}["killed"])
        begin(bench.folder, bench.folder / "study.db", OTHER, "true")
    assert begin(bench.folder, bench.folder / "study.db", OTHER, "true").trials == []
    assert [sorted(os.listdir(bench.folder / name)) for name in ("old.1", "old.2")] == [["trials", "trials.tsv"],
                                                                                       ["study.db"]]


def test_folders_of_trials_sort(tmp_path):
    assert folder_of(tmp_path, 7).endswith("/0007")
