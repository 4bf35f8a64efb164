"""A worker of a search: does one trial after another until all workers together have done all trials.

A trial is a training by svq.train with the settings that were drawn, measured on development data epoch by epoch.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import shutil
import time
from typing import Callable

import numpy as np
import torch
import yaml
from torch import nn
from torch.nn.utils import parametrize

from svq.atomic import atomic_write
from svq.backend.metrics import eer
from svq.config import load_config
from svq.data.extraction import Utterances
from svq.data.frontend import FrontEnd, FrontEndConfig
from svq.errors import UserError
from svq.evaluation.development import DevelopmentList
from svq.evaluation.identification import IdentifyConfig, accuracy, embed_segments, identify, plan_segments
from svq.pack.file import packed_bytes
from svq.search.config import Parameter, SearchConfig, override
from svq.search.storage import WAITING_FOR_OTHERS, Claim, FileLock, claim, folder_of, latest, next_old, quiet_optuna
from svq.train.checkpoint import Stopped
from svq.train.config import TrainConfig
from svq.train.folders import starting_network
from svq.train.loop import NonFiniteLoss
from svq.train.run import RunOptions, run_training, total_epochs

WEIGHTS = ("model.safetensors", "head.safetensors", "speakers.txt")
COLUMNS = ("trial", "state", "value", "error", "bytes", "epochs")
POLL_SECONDS = 2.0


def for_inference(net: nn.Module) -> nn.Module:
    """Copies `net` into eval mode; `net` itself may go on training.

    The copy keeps its quantizers: it shares the class of each quantized layer with `net`, so freeze_ would take the
    weight out of both.
    """
    return copy.deepcopy(net).eval()


class Eer:
    """The EER of a network in percent, over a trial list of utterances of `data_dir`.

    Scores are cosines of embeddings after the mean of these embeddings is subtracted. trials: the list's path; None:
    the file `trials` in `data_dir`.
    """

    def __init__(self, data_dir, front_end: FrontEndConfig, trials: str | None = None):
        utterances = Utterances(data_dir, front_end)
        self.listed = DevelopmentList(data_dir, trials or os.path.join(data_dir, "trials"))
        self.utterances = self.listed.only(utterances)

    def __call__(self, net: nn.Module) -> float:
        """Measures `net`, in eval mode: features (B, T, F) -> embeddings (B, D).

        UserError naming an utterance that has no embedding.
        """
        device = device_of(net)
        self.utterances.device, self.utterances.front_end = str(device), self.utterances.front_end.to(device)
        score = self.listed.cosines(self.listed.embeddings(net, self.utterances, device=str(device)))
        return 100 * eer(score[self.listed.target], score[~self.listed.target])


class IdentificationError:
    """The error of a network in identifying the speakers of `data_dir`: 100 less the top-1 accuracy in percent."""

    def __init__(self, data_dir, front_end: FrontEndConfig, config: IdentifyConfig):
        self.data_dir, self.rate = data_dir, front_end.rate
        self.front_end = FrontEnd(front_end)
        self.plan = plan_segments(data_dir, config, front_end.rate)

    def __call__(self, net: nn.Module) -> float:
        """Measures `net`, in eval mode: features (B, T, F) -> embeddings (B, D)."""
        device = device_of(net)
        front_end = self.front_end.to(device)

        def run(waveforms: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return net(front_end(torch.from_numpy(waveforms).to(device))).float().cpu().numpy()

        segments = self.plan.enroll + [segment for _, segment in self.plan.probes]
        with parametrize.cached():
            vectors = embed_segments(self.data_dir, segments, run, self.rate)
        enrolled = len(self.plan.enroll)
        found = identify(vectors[:enrolled], vectors[enrolled:], self.plan.owner)
        return 100 - 100 * accuracy(found.rank)


def device_of(net: nn.Module) -> torch.device:
    """Gives the device that the parameters of a network are on."""
    return next(net.parameters()).device


class Pruned(Exception):
    """Raised when the pruner stops the trial."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a trial. value: the one that the search minimizes, None where the trial was stopped. error: in
    percent. size_bytes: of the packed model. epochs: how many were done. why: the reason of a stop, else empty."""

    value: float | None
    error: float | None
    size_bytes: int
    epochs: int
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Setup:
    """The setup that all trials share. run: options of the training; each trial changes `out` and adds to `set`.
    measure: a network in eval mode -> error in percent. trials_dir: holds the trials' folders."""

    search: SearchConfig
    run: RunOptions
    measure: Callable[[nn.Module], float]
    trials_dir: str
    float_bytes: int


class Watch:
    """A hook that the training calls after each epoch: measures, reports, raises Pruned where the pruner says so."""

    def __init__(self, setup: Setup, claim: Claim, epochs: int, share: float):
        self.setup, self.claim, self.epochs, self.share = setup, claim, epochs, share
        self.last = 0

    def __call__(self, epoch: int, net: nn.Module) -> None:
        self.last = epoch
        if epoch >= self.epochs:
            return  # run_trial measures the last epoch, after weights are averaged
        if epoch not in self.claim.known:
            self.report(epoch, self.setup.measure(for_inference(net)))
        if self.claim.trial.should_prune():
            raise Pruned

    def report(self, epoch: int, error: float) -> float:
        """Reports the error (percent) measured after `epoch` to the study; returns the value that is minimized."""
        value = error + self.setup.search.size_weight * self.share
        print(f"trial {self.claim.index}: epoch {epoch} of {self.epochs}: {self.setup.search.objective} error "
              f"{error:.3f} %, value {value:.4f}", flush=True)
        if epoch not in self.claim.known:
            self.claim.trial.report(value, epoch)
            self.claim.known[epoch] = value
        return value


def run_trial(setup: Setup, claim: Claim) -> Outcome:
    """Runs a trial: trains, and leaves the model in the trial's folder. Goes on where an earlier worker was stopped.

    A loss that is no number ends the trial as the pruner does. Any other UserError is raised: it ends the search.
    """
    drawn = tuple(override(key, value) for key, value in sorted(claim.trial.params.items()))
    run = dataclasses.replace(setup.run, out=folder_of(setup.trials_dir, claim.index), set=setup.run.set + drawn)
    config = load_config(run.config, TrainConfig, run.set)
    size, epochs = cost_of(run, config)
    watch = Watch(setup, claim, epochs, size / setup.float_bytes)
    print(f"trial {claim.index}: {' '.join(drawn)}" + (f" (try {claim.tries})" if claim.tries > 1 else ""), flush=True)
    try:
        net, _ = run_training(run, watch)
    except Pruned:
        return Outcome(None, None, size, watch.last, f"pruned after epoch {watch.last}")
    except NonFiniteLoss as error:
        return Outcome(None, None, size, watch.last, " ".join(str(error).split()))
    error = setup.measure(for_inference(net))
    return Outcome(watch.report(epochs, error), error, size, epochs)


def cost_of(run: RunOptions, config: TrainConfig) -> tuple[int, int]:
    """Gives the bytes of the packed model that a trial with these settings ends in, and the trial's epochs.

    The bytes leave out the few that batch norm may add.
    """
    net, full = starting_network(config, run)
    return packed_bytes(net, full.quant, dataclasses.replace(full.model, quant=full.quant)), total_epochs(full, net)


def drop_checkpoints(folder: str) -> None:
    shutil.rmtree(os.path.join(folder, "checkpoints"), ignore_errors=True)


def best_of(study):
    """Finds the complete trial with the lowest value, the first among equals; None before one is complete."""
    complete = [trial for trial in latest(study).values() if trial.state.name == "COMPLETE"]
    return min(complete, key=lambda trial: (trial.value, trial.user_attrs["index"]), default=None)


def tidy(study, parameters: list[Parameter], folder, train: str, sets: tuple[str, ...] = ()) -> None:
    """Brings `folder` in line with the study: trials.tsv, best (a link to the best trial's folder), best.yaml (its
    settings on top of `train`, to train by again), and no checkpoints or losers' weights in trials/.

    To be called under the search's lock.
    """
    folder = os.fspath(folder)
    trials_dir = os.path.join(folder, "trials")
    best = best_of(study)
    write_table(os.path.join(folder, "trials.tsv"), study, parameters)
    if best is not None:
        write_best(folder, best, train, sets)
    for index, trial in latest(study).items():
        if trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        drop_checkpoints(folder_of(trials_dir, index))
        if best is None or trial.number != best.number:
            for name in WEIGHTS:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder_of(trials_dir, index), name))


def write_table(path, study, parameters: list[Parameter]) -> None:
    """Writes the table of trials, trials.tsv: a line for each trial with its settings, nan for what is not known."""
    keys = [parameter.key for parameter in parameters]
    with atomic_write(path) as file:
        file.write("\t".join([*COLUMNS, *keys]) + "\n")
        for index, trial in latest(study).items():
            about = trial.user_attrs
            row = [index, trial.state.name.lower(), trial.value if trial.state.name == "COMPLETE" else None,
                   about.get("error"), about.get("size_bytes"), about.get("epochs"),
                   *(trial.params.get(key) for key in keys)]
            file.write("\t".join(_field(value) for value in row) + "\n")


def _field(value) -> str:
    return "nan" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)


def write_best(folder: str, best, train: str, sets: tuple[str, ...]) -> None:
    """Writes best.yaml and, replacing it in one step, `best`, a link to the best trial's folder, into `folder`."""
    settings: dict = {}
    pairs = [text.partition("=")[::2] for text in sets]
    for key, value in [*pairs, *sorted(best.params.items())]:
        # The trial read a word as YAML, so it is read as YAML here: "[2, 4]" is a list.
        value = yaml.safe_load(value) if isinstance(value, str) else value
        *path, last = key.split(".")
        branch = settings
        for name in path:
            branch = branch.setdefault(name, {})
        branch[last] = value
    with atomic_write(os.path.join(folder, "best.yaml")) as file:
        file.write(f"# Trial {best.user_attrs['index']} of the search in trials.tsv: value {best.value:.6g}.\n")
        yaml.safe_dump({"base": os.path.relpath(train, folder), **settings}, file, sort_keys=False, width=math.inf)  # no line is broken
    link, temporary = os.path.join(folder, "best"), os.path.join(folder, ".best.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(os.path.relpath(folder_of(os.path.join(folder, "trials"), best.user_attrs["index"]), folder), temporary)
    os.replace(temporary, link)


def work(study, search: SearchConfig, parameters: list[Parameter], folder, run: Callable[[Claim], Outcome],
         settle: Callable[[], None], poll: float = POLL_SECONDS) -> int:
    """Works on trials until all are done; returns how many this worker did.

    folder: of the search; trials are in folder/trials. run: does one trial. settle: brings the folder in line with the
    study; it is called under the search's lock. poll: seconds between looks for a free trial. A worker that finds no
    free trial waits for the others: it takes up the trial of any that dies. UserError where the search has been set
    aside meanwhile.
    """
    trials_dir = os.path.join(os.fspath(folder), "trials")
    lock, done = FileLock(os.path.join(os.fspath(folder), ".lock")), 0
    old = next_old(folder)
    while True:
        with lock:
            if next_old(folder) != old:
                raise UserError(f"{old}: the search was set aside here, and another began")
            mine = claim(study, search, parameters, trials_dir)
        if mine is None:
            with lock:
                settle()
            return done
        if mine == WAITING_FOR_OTHERS:
            time.sleep(poll)
            continue
        try:
            outcome = run(mine)
            with lock:
                tell(study, mine, outcome)
                settle()
        except Stopped:
            mine.trial.set_user_attr("tries", mine.tries - 1)  # the worker was asked to end: no try has failed
            raise
        finally:
            mine.lock.release()
        done += 1
        said = outcome.why or f"value {outcome.value:.4f}, {outcome.size_bytes} bytes"
        print(f"trial {mine.index}: {said}", flush=True)


def tell(study, mine: Claim, outcome: Outcome) -> None:
    """Ends the trial in the study: complete, or pruned where it has no value."""
    states = quiet_optuna().trial.TrialState
    for key in ("error", "size_bytes", "epochs", "why"):
        if getattr(outcome, key) not in (None, ""):
            mine.trial.set_user_attr(key, getattr(outcome, key))
    if outcome.value is None:
        study.tell(mine.trial, state=states.PRUNED)
    else:
        study.tell(mine.trial, outcome.value)


def settler(study, parameters: list[Parameter], folder, train: str, sets: tuple[str, ...]) -> Callable[[], None]:
    """Makes the function `settle` that `work` calls to bring the folder in line with the study, see `tidy`."""
    return lambda: tidy(study, parameters, folder, train, sets)
