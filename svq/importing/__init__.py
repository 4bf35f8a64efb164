"""Checkpoints of other toolkits as networks of this one: the toolkits that wrote them, and the families of networks
that several toolkits write alike. The networks themselves are in svq/nets.

Every tensor is accounted for: it becomes one of ours, or it belongs to the classifier or the front end and is named as
left out; anything else is an error. Sizes are read off the shapes, no config of the origin is needed; where two
networks have the same shapes, the user is asked which it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import nn

from svq import nets
from svq.errors import UserError, some_of
from svq.importing.plan import Family, Options, Origin, Plan, State, read_state
from svq.importing.toolkits import ORIGINS
from svq.network import ModelConfig, load_state


@dataclass(frozen=True)
class Imported:
    """net: in eval mode. taken: how many tensors it got. left_out: what each of the others is, by name."""

    net: nn.Module
    config: ModelConfig
    taken: int
    left_out: dict[str, str]


def import_checkpoint(path, origin: str, arch: str | None = None, options: Options = Options()) -> Imported:
    """The network in the checkpoint `path`, which a toolkit of ORIGINS wrote.

    arch: the architecture that it must be. Raises UserError, with the file's name, for a file that is no checkpoint,
    for networks that are not known here and for tensors that do not fit.
    """
    whole = without_prefix(read_state(path), ORIGINS[origin].prefixes)
    family = family_of(path, origin, whole)
    try:
        plan = family.plan(whole, options)
    except (ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: looks like {origin}'s {family.name}, but {what}") from None
    model = replace(plan.model, net=uncommon(plan.model))
    check_mels(path, model, options)
    if arch is not None and arch != model.arch:
        raise UserError(f"{path}: holds {model.arch}, not {arch}; leave --arch out, or name another file")
    state, left_out = set_aside(ORIGINS[origin], whole)
    try:
        with torch.device("meta"):  # shapes are compared before memory is taken
            expected = model.build().state_dict()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    filled = fill(path, model.arch, expected, plan, state)
    net = model.build().eval()
    load_state(net, filled, path)
    with torch.inference_mode():
        if not net(torch.zeros(1, 200, model.front_end.num_mels)).isfinite().all():
            raise UserError(f"{path}: the network gives no finite embedding; copy the file again")
    return Imported(net, model, len(state), left_out)


def check_mels(path, model: ModelConfig, options: Options) -> None:
    """UserError where the user says another number of mel channels than the network has."""
    if options.num_mels not in (0, model.front_end.num_mels):
        raise UserError(f"{path}: --num-mels {options.num_mels}, but its tensors are those of "
                        f"{model.front_end.num_mels} mel channels; leave the option out")


def uncommon(model: ModelConfig) -> dict:
    """The options of the network that are not what its architecture has by default."""
    usual = nets.options_of(model.arch)
    return {name: value for name, value in model.net.items() if value != usual[name]}


def without_prefix(state: State, prefixes: tuple[str, ...]) -> State:
    """`state` with the prefixes taken off, one after another, save where that would make two names one."""
    for prefix in prefixes:
        bare = {name: name.removeprefix(prefix) for name in state}
        state = {name if bare[name] in state else bare[name]: tensor for name, tensor in state.items()}
    return state


def set_aside(origin: Origin, state: State) -> tuple[State, dict[str, str]]:
    """The tensors of the network, and what each of the others is."""
    left_out = {}
    for name in state:
        for pattern, what in origin.left_out.items():
            if re.fullmatch(pattern, name):
                left_out[name] = what
    return {name: tensor for name, tensor in state.items() if name not in left_out}, left_out


def family_of(path, origin: str, state: State) -> Family:
    """The family of `origin` that `state` belongs to; UserError that says what it may be where there is none."""
    for family in ORIGINS[origin].families:
        if all(mark in state for mark in family.marks):
            return family
    known = ", ".join(family.name for family in ORIGINS[origin].families)
    others = [name for name, other in ORIGINS.items() if name != origin and any(
        all(mark in without_prefix(state, other.prefixes) for mark in family.marks) for family in other.families)]
    hint = f"; it looks like one of {' or '.join(others)}: --from {others[0]}" if others else ""
    raise UserError(f"{path}: none of {origin}'s networks that are known here ({known}): it has tensors such as "
                    f"{some_of(state, 3)}{hint}")


def fill(path, arch: str, expected: State, plan: Plan, state: State) -> State:
    """The state dict of `arch`, shaped like `expected`, from that of the checkpoint; UserError naming tensors that do
    not fit."""
    filled, strange = {}, []
    for name, tensor in state.items():
        target, tensor = translate(name, tensor, plan)
        if target not in expected or target in filled:
            strange.append(name)
            continue
        shape = expected[target].shape
        if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
            raise UserError(f"{path}: {name} has shape {list(state[name].shape)}, where {arch} of its sizes has "
                            f"{list(shape)}")
        filled[target] = tensor.reshape(shape)
    if strange:
        raise UserError(f"{path}: {arch} has no place for {some_of(strange, 3)}: another network, or a changed one")
    for name in expected:
        if name.endswith(".num_batches_tracked"):  # which a checkpoint need not hold
            filled.setdefault(name, torch.tensor(0))
    missing = [name for name in expected if name not in filled]
    if missing:
        raise UserError(f"{path}: nothing in it for {some_of(missing, 3)} of {arch}: another network, or cut down")
    return filled


def translate(name: str, tensor: torch.Tensor, plan: Plan) -> tuple[str | None, torch.Tensor]:
    """Where a tensor of the checkpoint goes (None: no rule says so), and what goes there."""
    for rule in plan.rules:
        match = re.fullmatch(rule.pattern, name)
        if match:
            return match.expand(rule.name), tensor if rule.change is None else rule.change(tensor)
    return None, tensor
