"""A step that counts for nothing, before the first one: whether the memory suffices, and whether the network compiles."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import torch
from torch import nn

from svq.data.dataset import TrainSet
from svq.data.mixing import Unmixed
from svq.errors import UserError
from svq.train.config import TrainConfig


def largest_batch(config: TrainConfig, train_set: TrainSet, size: int) -> tuple:
    """Makes a batch of `size` items as a loader gives it, with as much in it as there can be.

    With augmentation on the device, every waveform is in a room and in noise.
    """
    first, label, *targets = train_set.item(0, 0)
    first = first[0] if isinstance(first, tuple) else first
    inputs = torch.from_numpy(first).expand(size, *first.shape).contiguous()
    if config.augment is not None and config.augment.on_device:
        every, longest = torch.arange(size), int(config.augment.rir_seconds * config.model.front_end.rate)
        inputs = Unmixed(inputs, torch.ones(size, longest), every, inputs.clone(), torch.full((size,), 10.0, dtype=torch.float64),
                         every)
    return inputs, torch.full((size,), label), *(torch.from_numpy(one).expand(size, *one.shape) for one in targets)


def try_step(objective: nn.Module, step: Callable[[], None], more: Callable[[], list]) -> None:
    """Runs `step`, forward and backward, and leaves `objective` as it was, and the random numbers too.

    more: allocates what a real step needs besides, such as what the optimizer keeps.
    """
    before = {name: value.detach().clone() for name, value in objective.state_dict().items()}
    random = torch.get_rng_state()
    held = more()
    try:
        step()
    finally:
        del held
        objective.zero_grad(set_to_none=True)
        objective.load_state_dict(before)
        torch.set_rng_state(random)


def compile_or_not(net: nn.Module, attempt: Callable[[], None]) -> None:
    """Compiles `net` in place and makes the attempt, which uses it; where that fails says so and takes `net` as it is.

    A lack of memory is not the compiler's.
    """
    net.compile()
    try:
        attempt()
    except (torch.OutOfMemoryError, UserError):
        raise
    except Exception as error:  # dynamo, inductor and the compilers they call have no class in common
        net._compiled_call_impl = None
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        print(f"compile: the network cannot be compiled here ({type(error).__name__}: {reason}); it runs as it is",
              file=sys.stderr, flush=True)
        attempt()


@contextlib.contextmanager
def one_line_for_memory(config: TrainConfig, device: torch.device, share: int, when: str):
    """Makes a context in which a lack of the device's memory becomes a UserError that says what to lower."""
    try:
        yield
    except torch.OutOfMemoryError:
        total = f"{torch.cuda.get_device_properties(device).total_memory / 1e9:.0f} GB " if device.type == "cuda" else ""
        lower = [f"batch_size ({config.batch_size})", f"data.crop_seconds ({config.data.crop_seconds:g})"]
        others = [] if config.precision in ("bf16", "fp16", "auto") else ["set precision: bf16"]
        if share < config.batch_size:
            others.append("take more GPUs")
        raise UserError(f"{device}: its {total}memory does not suffice {when}, for {share} crops of "
                        f"{config.data.crop_seconds:g} s at a time; lower {' or '.join(lower)}"
                        f"{''.join(f', or {other}' for other in others)}") from None
