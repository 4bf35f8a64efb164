"""What must hold on a GPU: each check returns what it found as a line; AssertionError says what is wrong."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from svq.bits.sensitivity import StoppingRule, TraceEstimator
from svq.data.extraction import embed
from svq.data.frontend import FrontEnd
from svq.data.mixing import Unmixed
from svq.errors import UserError
from svq.quant import QuantConfig
from svq.quant.ptq_config import PTQConfig
from svq.quant.ptq import quantize_without_training_
from svq.train.distributed import World
from svq.train.loop import Trainer
from svq.train.objective import AAMSoftmax
from svq.train.sensitivity import LabelLoss
from tests.gpu.synthetic import FULL, TOY, Size, Speech, config_of, losses, settled, trainer_of

CPU = torch.device("cpu")


class Stop(Exception):
    pass


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float, what: str) -> str:
    assert found.shape == wanted.shape and len(found), f"{what}: {found.shape} in place of {wanted.shape}"
    assert np.isfinite(found).all(), f"{what}: not finite"
    off = float(np.max(np.abs(found - wanted) / np.maximum(np.abs(wanted), 1e-6)))
    assert off <= tolerance, f"{what}: {off:.2g} apart, allowed are {tolerance:g}"
    return f"largest relative difference {off:.1e}"


def cosines_close(found: torch.Tensor, wanted: torch.Tensor, least: float) -> str:
    cosine = F.cosine_similarity(found.cpu().float(), wanted.cpu().float(), dim=-1).min().item()
    assert cosine >= least, f"a cosine of {cosine:.6f}, at least {least} is asked for"
    return f"least cosine {cosine:.7f}"


def tolerance(device: torch.device, on_gpu: float) -> float:
    """On the CPU runs are the same to the last bit."""
    return 1e-9 if device.type == "cpu" else on_gpu


def trained(size: Size, device, steps: int = 4, folder=None, stop_at: int = 0, world=None, **others) -> Trainer:
    """A short training of the network that is checked, ended as if killed after `stop_at` steps."""
    config = config_of(*size.checked, size.batch, size.frames, checkpoint_minutes=0, **others)
    augmented = bool(others.get("augment"))
    speech = Speech(4, steps * size.batch, size.frames, augmented)
    with tempfile.TemporaryDirectory() as made:
        trainer = trainer_of(config, speech, folder or made, device, world)
        if not stop_at:
            trainer.run()
            return trainer
        save = trainer._save_if_due

        def save_or_stop():
            save()
            if trainer.step == stop_at:
                raise Stop

        trainer._save_if_due = save_or_stop
        try:
            trainer.run()
        except Stop:
            return trainer
    raise AssertionError("the training was not stopped")


def resumption(size: Size, device) -> str:
    """A training that was killed and goes on gives the loss curve of an undisturbed one."""
    whole = losses(trained(size, device))
    with tempfile.TemporaryDirectory() as folder:
        trained(size, device, folder=folder, stop_at=5)
        resumed = trained(size, device, folder=folder)
    return close(losses(resumed), whole, tolerance(device, 0.02), "loss curve")


def precisions(size: Size, device) -> str:
    """Trainings in bfloat16 and float16 follow the one in float32."""
    wanted = losses(trained(size, device))
    return "; ".join(f"{name}: " + close(losses(trained(size, device, precision=name)), wanted, most, name)
                     for name, most in (("bf16", 0.2), ("fp16", 0.5)))  # float16 leaves out steps that overflow


def compilation(size: Size, device) -> str:
    """A compiled network trains as it does when it runs as it is written."""
    wanted = losses(trained(size, device))
    compiled = []
    original = torch.nn.Module.compile

    def noted(net):
        compiled.append(net)
        original(net)

    torch.nn.Module.compile = noted
    try:
        found = losses(trained(size, device, compile=True))
    finally:
        torch.nn.Module.compile = original
    assert compiled, "nothing was compiled"
    return close(found, wanted, 0.02, "loss curve")


def augmentation(size: Size, device) -> str:
    """Rooms and noise put on here are those of the CPU; features of the same waveforms too."""
    speech = Speech(4, 8, size.frames, augmented=True)
    batch = Unmixed.of([speech.item(0, i)[0] for i in range(8)])
    wanted, found = batch.mixed(), batch.to(device).mixed().cpu()
    off = (found - wanted).abs().max().item()
    assert off < 1e-4, f"waveforms are {off:.2g} apart"
    front_end = FrontEnd(config_of(*size.checked, 4, size.frames).model.front_end)
    here = front_end(wanted)
    there = front_end.to(device)(wanted.to(device)).cpu()
    mels = (here - there).abs().max().item()
    assert mels < 1e-3, f"log-mels are {mels:.2g} apart"
    trained(size, device, steps=1, augment={"on_device": True, "noise_dir": "synthetic"})
    return f"waveforms {off:.1e}, log-mels {mels:.1e} apart"


def extraction(size: Size, device) -> str:
    """Embeddings of utterances of many lengths are those of the CPU."""
    torch.manual_seed(3)
    net = settled(config_of(*size.checked, 4, size.frames).model.build(), CPU)
    utterances = [(f"utt{i}", torch.randn(20 + 17 * (i % 9), 80)) for i in range(27)]

    def embedded(where):
        on = [(key, feats.to(where)) for key, feats in utterances]
        found = dict(embed(copy.deepcopy(net), on, 400, where))
        return torch.from_numpy(np.stack([found[key] for key, _ in utterances]))

    torch.backends.cudnn.allow_tf32 = False
    return cosines_close(embedded(device), embedded("cpu"), 0.99999)


def sensitivities(size: Size, device) -> str:
    """Average traces of the Hessian are those of the CPU."""
    config = config_of(*size.checked, 4, size.frames)
    torch.manual_seed(3)
    net = settled(config.model.build(), CPU)
    head = AAMSoftmax(config.model.embed_dim, 4)
    speech = Speech(4, 8, size.frames)
    batches = [(torch.from_numpy(np.stack([speech.item(e, i)[0] for i in range(4)])), torch.arange(4)) for e in range(2)]

    def traces(where):
        here = copy.deepcopy(net).to(where)
        loss = LabelLoss(here, copy.deepcopy(head), config.model.front_end, speech, 0.2, where)
        estimator = TraceEstimator(here, loss, StoppingRule(2, 2, 0.0), seed=1)
        for _ in estimator.run(batches):
            pass
        return np.array([row.trace for row in estimator.results()])

    found, wanted = traces(device), traces("cpu")
    return close(found, wanted, tolerance(device, 0.05), "traces")


def calibration(size: Size, device) -> str:
    """A network calibrated here to 4 bits embeds as one that was calibrated on the CPU."""
    torch.manual_seed(3)
    net = settled(config_of(*size.checked, 4, size.frames).model.build(), CPU)
    feats = torch.randn(4, 60, 80, generator=torch.Generator().manual_seed(6))

    def calibrated(where):
        made = copy.deepcopy(net).to(where)
        quantize_without_training_(made, QuantConfig(bits=4), PTQConfig(calibrate=True), feats.to(where))
        with torch.no_grad():
            return made.eval()(feats.to(where))

    return cosines_close(calibrated(device), calibrated("cpu"), 0.98)


def memory(size: Size, device) -> str:
    """Too little memory is one line before the first step."""
    if device.type != "cuda":
        return "left out: only a GPU's memory is tried"
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.3e9 / torch.cuda.get_device_properties(device).total_memory))
    try:
        config = config_of(*size.checked, 512, 400)
        with tempfile.TemporaryDirectory() as folder:
            trainer_of(config, Speech(4, 512, 400), folder, device).run()
    except UserError as error:
        assert "in a trial step" in str(error) and "\n" not in str(error), str(error)
        return f"said: {error}"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    raise AssertionError("0.3 GB sufficed for 512 crops of 4 s")


def two_processes(size: Size, device) -> str:
    """Two processes on one device give the losses of one with the whole batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, os.path.abspath(__file__), "toy" if size is TOY else "full", str(device)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}) for rank in (0, 1)]
    wanted = losses(trained(size, device, steps=2))
    said = [process.communicate(timeout=300)[0] for process in started]
    assert all(process.returncode == 0 for process in started), "a process failed"
    found = np.array([float(word) for word in said[0].split()[-len(wanted):]])
    return close(found, wanted, 0.02, "losses") + " (gloo)"


def worker(size: Size, device: torch.device) -> None:
    """One of the two; gloo, for NCCL takes no two processes on one card."""
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", rank=rank, world_size=2)
    trainer = trained(size, device, steps=2, world=World(rank, 2, device))
    print(*(f"{loss:.12g}" for loss in losses(trainer)))
    dist.destroy_process_group()


CHECKS = (resumption, precisions, compilation, two_processes, augmentation, extraction, sensitivities, calibration, memory)


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker(TOY if sys.argv[1] == "toy" else FULL, torch.device(sys.argv[2]))
