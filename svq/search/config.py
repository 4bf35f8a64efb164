"""The schema of a search, and the check of its space against the settings that a training has."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import types
import typing
from typing import Literal

from torch import nn

from svq.config import check_choices, from_dict, load_config
from svq.errors import UserError
from svq.evaluation.identification import IdentifyConfig
from svq.train.config import TrainConfig
from svq.train.run import total_epochs

LENGTH_KEYS = ("epochs", "stage_epochs", "multi_stage", "quant.bits")  # settings that a trial's epochs depend on


@dataclasses.dataclass(frozen=True)
class ParameterConfig:
    """The range in which a setting is searched: `low` to `high` inclusive, logarithmic with `log`; or `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list | None = None

    def __post_init__(self):
        if self.choices is not None:
            if (self.low, self.high, self.log) != (None, None, False):
                raise ValueError("choices stand alone; leave out low, high and log")
            if len(self.choices) < 1 or any(self.choices.count(choice) > 1 for choice in self.choices):
                raise ValueError(f"choices are {self.choices}; name one at least, and none twice")
            return
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; low must be below high, both finite")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}; on a logarithmic scale it must be above 0")


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The settings of a search.

    space: ParameterConfig by dotted key of svq.train.config.TrainConfig, such as schedule.lr or quant.bits.
    trials: how many in all, whatever the number of workers. seed: of the sampler; a search by one worker always draws
        the same settings for its k-th trial.
    objective: the error that the search minimizes, in percent on the development data: `eer` of its trials, or 100
        less the top-1 accuracy of `identification`. The value of a trial is this error plus `size_weight` x packed
        bytes / float bytes: a model as large as the float one pays `size_weight` percent points.
    sampler: `tpe` (tree-structured Parzen estimator, after `startup_trials` random ones) or `random`.
    pruner: `median` stops a trial when it is worse after an epoch than the median of earlier trials at that epoch,
        once `startup_trials` are complete; `hyperband` lets few trials train for all epochs; `none` stops no trial.
        No trial is stopped within its first `warmup_epochs`.
    retries: how often a trial is taken up again when its worker died.
    """

    space: dict
    trials: int = 20
    seed: int = 1
    objective: Literal["eer", "identification"] = "eer"
    size_weight: float = 2.0
    sampler: Literal["tpe", "random"] = "tpe"
    startup_trials: int = 5
    pruner: Literal["median", "hyperband", "none"] = "median"
    warmup_epochs: int = 0
    retries: int = 2
    identification: IdentifyConfig = dataclasses.field(default_factory=IdentifyConfig)

    def __post_init__(self):
        check_choices(self)
        for name, least in (("trials", 1), ("seed", 0), ("startup_trials", 1), ("warmup_epochs", 0), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.size_weight < math.inf:
            raise ValueError(f"size_weight is {self.size_weight}; it must not be negative")
        if not self.space:
            raise ValueError("space is empty; name a setting of the training, such as schedule.lr")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A setting to search. integer: it takes whole numbers only."""

    key: str
    range: ParameterConfig
    integer: bool


def load_search(path, train, sets: typing.Sequence[str] = ()) -> tuple[SearchConfig, list[Parameter]]:
    """Reads a search and checks it against the training that it tunes; gives the search and its parameters.

    path: YAML file of a SearchConfig. train: YAML file of a TrainConfig. sets: overrides of it, `key=value`.
    UserError, one line, for a training without `quant` or with `allocate` or `select`, for a key that is unknown or no
    single setting, and for a range with an end that the training refuses.
    """
    search = load_config(path, SearchConfig)
    config = load_config(train, TrainConfig, sets)
    if config.quant is None:
        raise UserError(f"{train}: no `quant` in the config, so there is nothing to finetune to; add it")
    for part in ("allocate", "select"):
        if getattr(config, part) is not None:
            raise UserError(f"{train}: `{part}` gives layers bits of their own, but trials would be trained with the "
                            f"same in all; search with a config without it ({part}: null on top of this one)")
    parameters = [_parameter(path, str(key), value) for key, value in search.space.items()]
    ends = [_ends(parameter) for parameter in parameters]
    for pairs in [*([pair] for values in ends for pair in values), [values[0] for values in ends],
                  [values[-1] for values in ends]]:
        try:
            load_config(train, TrainConfig, [*sets, *pairs])
        except UserError as error:
            raise UserError(f"{path}: space with {', '.join(pairs)} is not possible: {error}") from None
    return search, parameters


def most_epochs(train, parameters: typing.Sequence[Parameter], sets: typing.Sequence[str], net: nn.Module) -> int:
    """Computes the most epochs that a trial from `net` can take, over all choices and ends of ranges of `parameters`.

    train, sets: see `load_search`. UserError for settings that go together in the file `train` but do not suit the
    layers of `net`.
    """
    ends = [_ends(parameter) for parameter in parameters if parameter.key in LENGTH_KEYS]
    return max(total_epochs(load_config(train, TrainConfig, [*sets, *pairs]), net)
               for pairs in itertools.product(*ends))


def override(key: str, value) -> str:
    """Writes a setting as the text `key=value` that svq.config takes as an override."""
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def _ends(parameter: Parameter) -> list[str]:
    found = parameter.range
    if found.choices is not None:
        return [override(parameter.key, choice) for choice in found.choices]
    return [override(parameter.key, int(value) if parameter.integer else value) for value in (found.low, found.high)]


def _parameter(path, key: str, value) -> Parameter:
    found = from_dict(value, ParameterConfig, str(path), f"space.{key}: ")
    kind = _type_of(path, key)
    if found.choices is not None:
        if not all(isinstance(choice, (bool, int, float, str)) for choice in found.choices):
            raise UserError(f"{path}: space.{key}: choices are {found.choices}; give numbers, words, true or false")
    elif kind not in (int, float):
        raise UserError(f"{path}: space.{key} takes no numbers between low and high; give choices")
    elif kind is int and (found.low % 1 or found.high % 1):
        raise UserError(f"{path}: space.{key} takes whole numbers; low is {found.low:g} and high {found.high:g}")
    return Parameter(key, found, kind is int)


def _type_of(path, key: str):
    """Finds the type of a dotted key of TrainConfig; UserError where there is none or it is not a single setting."""
    schema, seen = TrainConfig, ""
    for name in key.split("."):
        hints = typing.get_type_hints(schema) if dataclasses.is_dataclass(schema) else {}
        if name not in hints:
            close = difflib.get_close_matches(name, hints, 1)
            known = f"; known: {', '.join(hints)}" if hints else ""
            hint = f"; did you mean '{seen}{close[0]}'?" if close else known
            raise UserError(f"{path}: space.{key}: a training has no setting '{seen}{name}'{hint}")
        schema, seen = _without_none(hints[name]), f"{seen}{name}."
    if dataclasses.is_dataclass(schema) or schema is dict:
        raise UserError(f"{path}: space.{key} is not a single setting but a group of them; name one of them")
    return schema


def _without_none(hint):
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    return hint
