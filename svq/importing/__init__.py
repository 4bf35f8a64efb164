"""Imports checkpoints of other toolkits as networks of svq/nets.

source.py opens files and archives. toolkits.py describes the toolkits and architectures.py the networks that several of
them write alike. plan.py reads state dicts and defines plans and rules. The modules onnx_*.py recognise the networks in
ONNX files, whose weights have no names.

Every tensor is accounted for: it becomes one of ours, or it belongs to the classifier or the front end and is named as
left out. Anything else is an error. Sizes are read off the shapes, so the origin's config is not needed. Where two
networks have the same shapes, the user is asked which it is.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from svq.errors import UserError, some_of
from svq.importing.foreign import foreign
from svq.importing.made import Imported, check_arch, check_mels, uncommon
from svq.importing.onnx_import import ORIGIN as ONNX
from svq.importing.onnx_import import import_onnx
from svq.importing.plan import Family, Options, Origin, Plan, State, read_checkpoint
from svq.importing.toolkits import ORIGINS
from svq.network import load_state

KNOWN = (*ORIGINS, ONNX)
# What programs put before the names of a network: torch's parallel training and compiler, Lightning, a larger model.
PREFIXES = ("module.", "_orig_mod.", "model.", "speaker_encoder.")


def import_checkpoint(path, origin: str, arch: str | None = None, options: Options = Options()) -> Imported:
    """Imports the network in the checkpoint `path`.

    origin: the toolkit that wrote it, or onnx: one of KNOWN. arch: the architecture that it must be; None: any.
    UserError, naming the file, for a file that is no checkpoint, a network that is not known here, and tensors that do
    not fit.
    """
    if origin == ONNX:
        return import_onnx(path, arch, options)
    if options.front_end:
        raise UserError(f"--front-end is for --from {ONNX} alone: {origin}'s checkpoints have the front end of {origin}")
    state, told = read_checkpoint(path)
    options = replace(options, model_config=told)
    whole = without_prefix(state, ORIGINS[origin].prefixes)
    family = family_of(path, origin, whole)
    try:
        plan = family.plan(whole, options)
    except (ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: looks like {origin}'s {family.name}, but {what}") from None
    model = replace(plan.model, net=uncommon(plan.model))
    check_mels(path, model, options)
    check_arch(path, model, arch)
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


def without_prefix(state: State, prefixes: tuple[str, ...] = ()) -> State:
    """Takes prefixes off the names of a state dict, PREFIXES and those given, in any order and one behind another.

    A prefix stays where two names would become one.
    """
    before = None
    while before != list(state):
        before = list(state)
        for prefix in (*PREFIXES, *prefixes):
            bare = {name: name.removeprefix(prefix) for name in state}
            state = {name if bare[name] in state else bare[name]: tensor for name, tensor in state.items()}
    return state


def set_aside(origin: Origin, state: State) -> tuple[State, dict[str, str]]:
    """Separates the tensors of the network from the others; gives the former, and what each of the others is."""
    left_out = {}
    for name in state:
        for pattern, what in origin.left_out.items():
            if re.fullmatch(pattern, name):
                left_out[name] = what
    return {name: tensor for name, tensor in state.items() if name not in left_out}, left_out


def family_of(path, origin: str, state: State) -> Family:
    """Finds the family of networks of `origin` that a state dict belongs to.

    UserError where there is none; it names what else the state dict is, or another toolkit that it looks like.
    """
    for family in ORIGINS[origin].families:
        if all(mark in state for mark in family.marks):
            return family
    known = ", ".join(family.name for family in ORIGINS[origin].families)
    told = foreign(state)
    if told:
        raise UserError(f"{path}: {told} (known of {origin}: {known})")
    others = [name for name, other in ORIGINS.items() if name != origin and any(
        all(mark in without_prefix(state, other.prefixes) for mark in family.marks) for family in other.families)]
    hint = f"; it looks like one of {' or '.join(others)}: --from {others[0]}" if others else ""
    raise UserError(f"{path}: none of {origin}'s networks that are known here ({known}): it has tensors such as "
                    f"{some_of(state, 3)}{hint}")


def fill(path, arch: str, expected: State, plan: Plan, state: State) -> State:
    """Fills the state dict of `arch`, shaped like `expected`, from the checkpoint's `state` by the rules of `plan`.

    UserError naming tensors that do not fit or are missing.
    """
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
        if name.endswith(".num_batches_tracked"):  # a checkpoint need not hold it
            filled.setdefault(name, torch.tensor(0))
    missing = [name for name in expected if name not in filled]
    if missing:
        raise UserError(f"{path}: nothing in it for {some_of(missing, 3)} of {arch}: another network, or cut down")
    return filled


def translate(name: str, tensor: torch.Tensor, plan: Plan) -> tuple[str | None, torch.Tensor]:
    """Gives the name that a tensor of the checkpoint gets in our network, None without a rule, and its new value."""
    for rule in plan.rules:
        match = re.fullmatch(rule.pattern, name)
        if match:
            return match.expand(rule.name), tensor if rule.change is None else rule.change(tensor)
    return None, tensor
