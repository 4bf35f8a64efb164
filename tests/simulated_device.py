"""A device that is none: what runs on it runs on the CPU, but tensors of both cannot meet, as with a GPU.

    with simulated_device() as device:
        net.to(device)(feats.to(device)).cpu()

PyTorch calls the device `meta`. What mixes tensors of both devices in one operation raises RuntimeError, as CUDA does;
where CUDA lets them meet (numbers without dimensions, indices, copies) they may here.
"""

from __future__ import annotations

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

MAY_MIX = {"aten::copy_", "aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}


class There(torch.Tensor):
    """A tensor on the simulated device; `values` has its numbers."""

    @staticmethod
    def __new__(cls, values: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device="meta", requires_grad=False)

    def __init__(self, values: torch.Tensor):
        self.values_here = values

    def __repr__(self):
        return f"There({self.values_here!r})"

    def __reduce_ex__(self, protocol):
        return self.values_here.__reduce_ex__(protocol)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, **_):
        raise TypeError("can't convert a tensor of the simulated device to numpy; copy it with .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def here(value):
    return value.values_here if isinstance(value, There) else value


def run(func, args, kwargs):
    """What `func` gives, on the device that its tensors are on, or that it is told."""
    flat = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    there = any(isinstance(value, There) for value in flat)
    name = func._schema.name
    if there and name not in MAY_MIX:
        strange = [value for value in flat if not isinstance(value, There) and value.dim()]
        if strange:
            raise RuntimeError(f"{name}: expected all tensors on one device; one of shape {tuple(strange[0].shape)} is on "
                               "the CPU")
    told = kwargs.get("device")
    target = there if told is None else torch.device(told).type == "meta"
    if name == "aten::copy_":
        target = isinstance(args[0], There)
    plain = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
    if told is not None:
        plain["device"] = "cpu"
    results = func(*tree_map_only(There, here, args), **tree_map_only(There, here, plain))
    if not target:
        return results
    wrapped = tree_map_only(torch.Tensor, There, results)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


@contextlib.contextmanager
def simulated_device():
    """Yields the device; on it only within the block. There inference_mode is no_grad, for wrapped tensors know no other, and
    autocast on the device does nothing."""
    inference_mode, autocast = torch.inference_mode, torch.autocast

    def autocast_here(device, *args, **kwargs):
        return contextlib.nullcontext() if device == "meta" else autocast(device, *args, **kwargs)

    torch.inference_mode, torch.autocast = torch.no_grad, autocast_here
    try:
        with _Mode():
            yield torch.device("meta")
    finally:
        torch.inference_mode, torch.autocast = inference_mode, autocast
