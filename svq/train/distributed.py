"""Training by several processes as one: the environment of torchrun or srun, and batch norm over the whole batch."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.errors import UserError


@dataclass(frozen=True)
class World:
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0


def place() -> tuple[int, int, int]:
    """Returns this process's rank, the number of processes, and its number among those of its machine.

    Reads the environment that torchrun sets, else the one that srun sets for each process of a step (SLURM_PROCID,
    SLURM_STEP_NUM_TASKS, SLURM_LOCALID). Returns (0, 1, 0) where neither started this process. The script of a Slurm
    job is no step: it has the environment of all of the job's tasks but is one process.
    """
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", 0))
    if os.environ.get("SLURM_STEP_ID", "").isdigit() and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return tuple(int(os.environ[name]) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))
    return 0, 1, 0


def join_world() -> World:
    """Joins the process group that torchrun or srun announces in the environment; without one the process is alone.

    Uses CUDA with NCCL where there are GPUs, else CPU with Gloo. The processes meet at MASTER_ADDR and MASTER_PORT,
    which torchrun sets itself, and utils/slurm_task.py before it calls srun. Raises UserError where they are not set.
    """
    rank, size, local = place()
    cuda = torch.cuda.is_available()
    # Under srun --gpus-per-task each process sees only its own GPU.
    device = torch.device("cuda", local % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        return World(device=device)
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        raise UserError(f"this is process {rank} of {size}, and MASTER_ADDR and MASTER_PORT do not say where they "
                        "meet: start them by steps/train.sh --num-nodes, or by torchrun")
    dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=size)
    return World(rank, size, device)


def leave_world(world: World) -> None:
    """Leaves the processes of a training, if there are several."""
    if world.size > 1:
        dist.destroy_process_group()


class _SumOverProcesses(torch.autograd.Function):
    """Sums a tensor over all processes, and its gradient too, because every process's loss sees the sum."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        total = grad.clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm(_BatchNorm):
    """Batch norm whose statistics cover the batch of all processes, on any device.

    torch's SyncBatchNorm needs GPUs; this one runs wherever all_reduce does, in float32.
    """

    def _check_input_dim(self, x):
        if x.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {x.dim()}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x.float()
        count = x.numel() // x.shape[1] * dist.get_world_size()  # equal slices: see EpochBatches
        mean = _SumOverProcesses.apply(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._track(mean, variance * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (centred * scale.view(shape)).to(x.dtype)
        return (centred * (self.weight * scale).view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Updates the running statistics; without a momentum they are the means over all batches, as in torch."""
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronize_batch_norm(net: nn.Module, world: World) -> nn.Module:
    """Gives the batch norms of `net` statistics over all processes, as one process with the whole batch has.

    Returns `net`, changed in place or, on GPUs, converted to SyncBatchNorm.
    """
    if world.size == 1:
        return net
    if world.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
                other = GlobalBatchNorm(child.num_features, child.eps, child.momentum, child.affine,
                                        child.track_running_stats)
                other.load_state_dict(child.state_dict())
                setattr(module, name, other)
    return net
