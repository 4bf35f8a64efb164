"""One trial: a training of svq's own with the settings that were drawn, measured on development data epoch by epoch."""

from __future__ import annotations

import dataclasses
import os
import shutil
from typing import Callable

from torch import nn

from svq.config import load_config
from svq.pack.file import packed_bytes
from svq.search.config import SearchConfig, override
from svq.search.next_trial import Claim, folder_of
from svq.search.objective import for_inference
from svq.train.config import TrainConfig
from svq.train.folders import starting_network
from svq.train.loop import NonFiniteLoss
from svq.train.run import RunOptions, run_training, total_epochs


class Pruned(Exception):
    """The pruner has seen enough of this trial."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a trial ended. value: what the search makes small, None where it was stopped; error: in percent;
    size_bytes: packed; epochs: how many were done; why: it was stopped, or nothing."""

    value: float | None
    error: float | None
    size_bytes: int
    epochs: int
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all trials share. run: options of the training, its `out` and `set` those of no trial yet.
    measure: a network in eval mode -> error in percent. trials_dir: folder of the trials' folders."""

    search: SearchConfig
    run: RunOptions
    measure: Callable[[nn.Module], float]
    trials_dir: str
    float_bytes: int


class Watch:
    """Called after each epoch: measures, reports and stops the training where the pruner says so."""

    def __init__(self, setup: Setup, claim: Claim, epochs: int, share: float):
        self.setup, self.claim, self.epochs, self.share = setup, claim, epochs, share
        self.last = 0

    def __call__(self, epoch: int, net: nn.Module) -> None:
        self.last = epoch
        if epoch >= self.epochs:
            return  # the averaged weights are measured instead
        if epoch not in self.claim.known:
            self.report(epoch, self.setup.measure(for_inference(net)))
        if self.claim.trial.should_prune():
            raise Pruned

    def report(self, epoch: int, error: float) -> float:
        """Tells the study what was measured after `epoch`; returns the value that is made small."""
        value = error + self.setup.search.size_weight * self.share
        print(f"trial {self.claim.index}: epoch {epoch} of {self.epochs}: {self.setup.search.objective} error "
              f"{error:.3f} %, value {value:.4f}", flush=True)
        if epoch not in self.claim.known:
            self.claim.trial.report(value, epoch)
            self.claim.known[epoch] = value
        return value


def run_trial(setup: Setup, claim: Claim) -> Outcome:
    """Trains from where an earlier worker was stopped, if one was; leaves the trial's model in its folder.

    A loss that is no number ends the trial, as the pruner does; any other UserError is the search's.
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
    """Bytes of the packed model that a trial with these settings ends in, but for the few that batch norm may add, and
    the trial's epochs."""
    net, full = starting_network(config, run)
    return packed_bytes(net, full.quant, dataclasses.replace(full.model, quant=full.quant)), total_epochs(full, net)


def drop_checkpoints(folder: str) -> None:
    shutil.rmtree(os.path.join(folder, "checkpoints"), ignore_errors=True)
