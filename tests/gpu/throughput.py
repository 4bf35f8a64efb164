"""What a GPU does in a second: training steps, quantized ones, extraction."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

from svq.data.mixing import Unmixed
from svq.nets import build
from svq.quant import QuantConfig
from svq.train.trial import compile_or_not
from tests.gpu.peer import Peer
from tests.gpu.synthetic import Size, Speech, config_of, settled, trainer_of


class Clock:
    """Seconds of a step on a device: `per_step(steps)` runs steps until `seconds` are over, at least two."""

    def __init__(self, device: torch.device, seconds: float):
        self.device, self.seconds = device, seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def per_step(self, steps: Callable[[int], None], warm: int = 3) -> float:
        """The median of turns of a few steps each."""
        steps(warm if self.seconds else 1)
        self._wait()
        taken, began = [], time.perf_counter()
        while not taken or time.perf_counter() - began < self.seconds:
            start = time.perf_counter()
            steps(2)
            self._wait()
            taken.append((time.perf_counter() - start) / 2)
        return float(np.median(taken))


class Steps:
    """Steps of svq's own loop over one batch that is ready in memory: what the device does, without what reads."""

    def __init__(self, size: Size, arch: str, net: dict, device, folder, features: bool = False, quant=None, **others):
        augmented = "augment" in others
        config = config_of(arch, net, size.big_batch, size.big_frames, **others)
        if features:
            config = config_of(arch, net, size.big_batch, size.big_frames,
                               **others | {"data": {"input": "feats", "crop_seconds": size.big_frames / 100, "num_workers": 0}})
        speech = Speech(size.speakers, size.big_batch, size.big_frames, augmented)
        self.trainer = trainer_of(config, speech, folder, device, quant=quant)
        items = [speech.item(0, i) for i in range(size.big_batch)]
        labels = torch.tensor([label for _, label in items])
        if features:
            inputs = torch.randn(size.big_batch, size.big_frames, 80)
        elif augmented:
            inputs = Unmixed.of([item for item, _ in items])
        else:
            inputs = torch.from_numpy(np.stack([item for item, _ in items]))
        self.batch = tuple(part.pin_memory() if device.type == "cuda" else part for part in (inputs, labels))
        if others.get("compile"):
            compile_or_not(self.trainer.objective.net, lambda: self(1))

    def __call__(self, count: int) -> None:
        for _ in range(count):
            self.trainer._train_step(self.batch, _Silent)


class _Silent:
    @staticmethod
    def update(*_):
        pass


def training(size: Size, device, clock: Clock, name: str, arch: str, net: dict, checkout: str | None, left) -> list[list[str]]:
    """Rows: what ran, samples/s, times the best of WeSpeaker's."""
    kinds = [("fp32, features ready", {"features": True}), ("bf16, features ready", {"features": True, "precision": "bf16"}),
             ("bf16, waveforms", {"precision": "bf16"}),
             ("bf16, waveforms, rooms and noise here", {"precision": "bf16", "augment": {"on_device": True, "noise_dir": "x"}}),
             ("bf16, features ready, cudnn_benchmark", {"features": True, "precision": "bf16", "cudnn_benchmark": True}),
             ("bf16, features ready, compiled", {"features": True, "precision": "bf16", "compile": True})]
    rates: dict[str, float] = {}
    torch.backends.cudnn.allow_tf32 = True  # of convolutions in float32, as torch has it
    for amp in (False, True) if checkout else ():
        title = f"WeSpeaker, {'AMP (float16)' if amp else 'fp32'}, features ready"
        if amp and device.type == "cpu":
            continue
        rates[title] = size.big_batch / clock.per_step(Peer(checkout, name, size, device, amp).steps)
        free(device)
    best = max(rates.values(), default=None)
    for title, options in kinds:
        if left() < 20:
            rates[f"svq, {title}"] = float("nan")
            continue
        with tempfile.TemporaryDirectory() as folder:
            rates[f"svq, {title}"] = size.big_batch / clock.per_step(Steps(size, arch, net, device, folder, **options))
        free(device)
    return [[name, title, "left out: no time" if rate != rate else f"{rate:,.1f}",
             "-" if best is None or rate != rate else f"{rate / best:.2f}"] for title, rate in rates.items()]


def quantized(size: Size, device, clock: Clock, name: str, arch: str, net: dict) -> list[str]:
    """Row: a step of quantization-aware training over a float one."""
    seconds = []
    for quant in (None, QuantConfig(bits=4)):
        with tempfile.TemporaryDirectory() as folder:
            steps = Steps(size, arch, net, device, folder, features=True, quant=quant, precision="bf16")
            seconds.append(clock.per_step(steps))
        del steps
        free(device)
    return [name, f"{1000 * seconds[0]:.1f}", f"{1000 * seconds[1]:.1f}", f"{seconds[1] / seconds[0]:.3f}"]


def extraction(size: Size, device, clock: Clock, name: str, arch: str, net: dict) -> list[str]:
    """Row: hours of speech a second through the network, batches of 80 s of utterances of 3 s."""
    torch.backends.cudnn.allow_tf32 = False
    made = settled(build(arch, 80, 256, **net), device).to(memory_format=torch.channels_last)
    frames = 300 if clock.seconds else 40
    rates = []
    for total in (8000, 64000) if clock.seconds else (80,):
        feats = torch.randn(max(1, total // frames), frames, 80)

        @torch.inference_mode()
        def steps(count):
            for _ in range(count):
                made(feats.to(device, non_blocking=True)).float().cpu()

        rates.append(f"{total}: {len(feats) * frames / 100 / 3600 / clock.per_step(steps):.4f}")
    free(device)
    return [name, "; ".join(rates)]


def free(device) -> None:
    """Memory that is no longer used, for what is measured next."""
    torch.backends.cudnn.benchmark = False
    if device.type == "cuda":
        torch.cuda.empty_cache()
