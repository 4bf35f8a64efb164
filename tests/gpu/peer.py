"""WeSpeaker's own model, loss and loop, from a checkout of it: nothing of it is kept here."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types

import torch
from torch import nn

SOURCE = "https://github.com/wenet-e2e/wespeaker"
MODELS = {"ResNet34 w32": ("resnet", "ResNet34", {"pooling_func": "TSTP"}),
          "ECAPA-1024": ("ecapa_tdnn", "ECAPA_TDNN_GLOB_c1024", {"pooling_func": "ASTP"}),
          "ResNet18 w4": ("resnet", "ResNet18", {}), "student": ("tdnn", "XVEC", {})}


def fetched(folder: str) -> str | None:
    """A checkout of WeSpeaker in `folder`, made now; None where there is no net, or no git."""
    place = os.path.join(folder, "wespeaker")
    try:
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", SOURCE, place], check=True, timeout=60,
                       stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"GIT_TERMINAL_PROMPT": "0"})
    except (OSError, subprocess.SubprocessError):
        return None
    return place


class _Mean:
    """What torchnet's meters do with every batch, where it is not installed."""

    def __init__(self, **_):
        self.values = []

    def add(self, *values):
        if len(values) == 1:
            self.values.append(float(values[0]))
            return
        output, target = map(torch.from_numpy, values)
        self.values.append(float((output.topk(1, 1, True, True)[1][:, 0] == target).float().mean()))

    def value(self):
        return [sum(self.values) / max(1, len(self.values))]


def _modules(checkout: str) -> None:
    """Makes the checkout's modules importable, without what its package imports at the top and what only writes logs."""
    package = types.ModuleType("wespeaker")
    package.__path__ = [os.path.join(checkout, "wespeaker")]
    sys.modules["wespeaker"] = package
    try:
        importlib.import_module("torchnet")
    except ImportError:
        meter = types.SimpleNamespace(AverageValueMeter=_Mean, ClassErrorMeter=_Mean)
        sys.modules["torchnet"] = types.ModuleType("torchnet")
        sys.modules["torchnet"].meter = meter
    try:
        importlib.import_module("tableprint")
    except ImportError:
        sys.modules["tableprint"] = types.ModuleType("tableprint")
        sys.modules["tableprint"].row = lambda values, **_: str(values)


class _Alone(nn.Module):
    """Stands for DistributedDataParallel over one process."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, feats):
        return self.module(feats)


class Peer:
    """steps(count): runs its loop over so many batches of ready features, (B, T, 80) on the CPU, pinned on a GPU's machine."""

    def __init__(self, checkout: str, name: str, size, device: torch.device, amp: bool):
        _modules(checkout)
        module, model, options = MODELS[name]
        make = getattr(importlib.import_module(f"wespeaker.models.{module}"), model)
        net = make(feat_dim=80, embed_dim=256, **options)
        projections = importlib.import_module("wespeaker.models.projections")
        net.add_module("projection", projections.get_projection(
            {"project_type": "arc_margin", "embed_dim": 256, "num_class": size.speakers,
             "scale": 32.0, "easy_margin": False}))
        self.model, self.device = _Alone(net.to(device)), device
        self.run_epoch = importlib.import_module("wespeaker.utils.executor").run_epoch
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
        nothing = types.SimpleNamespace(step=lambda _: None, get_lr=lambda: 0.0, get_margin=lambda: 0.2, info=lambda _: None)
        net.projection.update(0.2)
        self.others = nothing
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp)
        self.configs = {"enable_amp": amp, "log_batch_interval": 10**9, "dataset_args": {"spec_aug": True, "spec_aug_args": {}}}
        feats = torch.randn(size.big_batch, size.big_frames, 80)
        labels = torch.arange(size.big_batch) % size.speakers
        self.batch = {"key": [""] * size.big_batch, "feat": feats.pin_memory() if device.type == "cuda" else feats, "label": labels}

    def steps(self, count: int) -> None:
        self.run_epoch([self.batch] * count, count, self.model, nn.CrossEntropyLoss(), self.optimizer, self.others, self.others, 1, self.others,
                       self.scaler, device=self.device, configs=self.configs)
