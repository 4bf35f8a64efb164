"""The one training loop, for teachers, students and quantization-aware finetuning."""

from __future__ import annotations

import os
import time
from typing import Callable, Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from svq.atomic import remove_leftovers
from svq.config import to_dict
from svq.data.augment import spec_augment
from svq.data.dataset import TrainSet, epoch_batches, make_loader
from svq.data.frontend import FrontEnd, check_stored
from svq.data.mixing import Unmixed
from svq.distill.objective import Teacher
from svq.errors import UserError, some_of
from svq.quant.api import outer_update_, refit_
from svq.train.arithmetic import LEAST_SCALE, as_written, autocast, gradient_scaler, low_precision, memory_format
from svq.train.checkpoint import RunningAverage, StopRequest, load_checkpoint, save_checkpoint
from svq.train.config import TrainConfig
from svq.train.curves import Curves, Progress
from svq.train.distributed import World, synchronize_batch_norm
from svq.train.objective import Objective
from svq.train.optimizer import learning_rate, load_optimizer, make_optimizer, margin, set_learning_rate
from svq.train.trial import compile_or_not, largest_batch, one_line_for_memory, try_step


class NonFiniteLoss(UserError):
    """The loss or its gradient is no longer a number; the message names the batch."""


class Trainer:
    """Trains an Objective and leaves the averaged weights in it.

    Args:
        config: the run's settings.
        objective: network, head and losses, on any device; moved to the world's.
        train_set: the data to train on.
        folder: `<checkpoints>/last.pt` and `curves.csv` go here.
        run_id: digest of all that the result depends on; a checkpoint of another run is not resumed.
        teacher: the teacher that the objective learns from beside the labels, or None; it is frozen here.
        after: the trainer of the stage before in the same run; steps, epochs and curves go on from there, the schedule
            begins anew.
        after_epoch: called with the number of the epoch, from 1, and the network in training, once an epoch and its
            checkpoint are done, and again where a run is resumed there; it must leave the network as it is.

    Raises UserError where the data do not fill one batch, or where stored features do not fit the model's front end.
    """

    def __init__(self, config: TrainConfig, objective: Objective, train_set: TrainSet, folder, run_id: str,
                 world: World = World(), teacher: Teacher | None = None, checkpoints: str = "checkpoints",
                 after: Trainer | None = None, after_epoch: Callable[[int, nn.Module], None] | None = None):
        self.after_epoch = after_epoch
        self.config, self.train_set, self.world, self.run_id = config, train_set, world, run_id
        self.steps_per_epoch = len(self._batches(0))
        if not self.steps_per_epoch:
            raise UserError(f"{len(train_set)} utterances do not fill one batch of {config.batch_size}: "
                            "lower batch_size")
        self.first_step = 0 if after is None else after.total_steps
        self.total_steps = self.first_step + self.steps_per_epoch * config.epochs
        self.checkpoint_path = os.path.join(folder, checkpoints, "last.pt")
        self.low = low_precision(config.precision, world.device)
        self.scaler = gradient_scaler(self.low, world.device)
        layout = memory_format(objective.net, config.channels_last and self.low is not None, world.device)
        if world.device.type == "cuda":
            torch.backends.cudnn.benchmark = bool(config.cudnn_benchmark)
        objective.net = synchronize_batch_norm(objective.net, world)
        self.objective = objective.to(world.device, memory_format=layout).train()
        if config.freeze_batch_norm:
            for module in self.objective.net.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        self.parallel = self._wrap(self.objective)
        self.teacher = None
        if teacher is not None:
            self.teacher = teacher.to(world.device, memory_format=layout).eval().requires_grad_(False)
        if train_set.input == "feats":
            check_stored(config.model.front_end, train_set.data_dir)
        self.front_end = FrontEnd(config.model.front_end).to(world.device)
        self.optimizer = make_optimizer(config.optimizer, self.objective)
        self.average = RunningAverage()
        self.step = self.first_step
        self.curves = Curves(os.path.join(folder, "curves.csv"), every=max(1, min(20, self.steps_per_epoch)),
                             **({} if after is None else after.curves.state()))
        self.saved_at = time.monotonic()
        self.saved_step = self.first_step
        self.request, self.must_stop = StopRequest(), False

    def run(self) -> None:
        """Trains to the end, from the last checkpoint where this run has one.

        Raises svq.train.checkpoint.Stopped where SIGTERM or SIGUSR1 asked this process, or one that trains with it, to
        end, once the step is done and its checkpoint is written. Raises NonFiniteLoss for a loss that is not a number.
        """
        with self.request:
            self._run()

    def _run(self) -> None:
        self._resume()
        with one_line_for_memory(self.config, self.world.device, self._share, "in a trial step"):
            self._try_out()
        try:
            with one_line_for_memory(self.config, self.world.device, self._share, "in the training"):
                self._steps()
        finally:
            self.objective.net._compiled_call_impl = None  # it was for crops of one length
        if self.world.is_main:
            self.curves.write()
        self.objective.load_state_dict(self.average.mean())
        refit_(self.objective.net)

    def _steps(self) -> None:
        self._end_epoch()
        progress = Progress(self.total_steps, self.step, self.config.batch_size, silent=not self.world.is_main)
        while self.step < self.total_steps:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            loader = make_loader(self.train_set, self._batches(epoch, done), epoch, self.config.data.num_workers)
            for batch in self._while_wanted(loader):
                self._train_step(batch, progress)
                if self.step % self.steps_per_epoch == 0:
                    outer_update_(self.objective.net)
                self._save_if_due()
                self._stop_if_asked()
                self._end_epoch()
            self._stop_if_asked()
        progress.close()

    @property
    def _share(self) -> int:
        """Samples of a step in this process."""
        return self.config.batch_size // self.world.size

    def _try_out(self) -> None:
        """A trial step, where memory is short (on a GPU), or something is to be compiled."""
        if self.step == self.total_steps or not (self.config.compile or self.world.device.type == "cuda"):
            return
        batch = largest_batch(self.config, self.train_set, self._share)

        def state_of_optimizer() -> list[torch.Tensor]:
            copies = 0 if self.optimizer.state else 2 if self.config.optimizer.name == "adamw" else 1
            return [torch.empty_like(parameter) for parameter in self.objective.parameters() for _ in range(copies)]

        def attempt() -> None:
            try_step(self.objective, lambda: self._loss(batch, self.config.schedule.margin)[0].backward(), state_of_optimizer)

        if self.config.compile:
            compile_or_not(self.objective.net, attempt)
        else:
            attempt()

    def _loss(self, batch: tuple, now_margin: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and right answers of a batch as the loader gives it."""
        inputs, labels, *targets = (part.to(self.world.device, non_blocking=True) for part in batch)
        feats = self._features(inputs)
        with autocast(self.low, self.world.device):
            return self.parallel(feats, labels, now_margin, *self._teach(feats, labels, *targets))

    def _train_step(self, batch: tuple[torch.Tensor, ...], progress: Progress) -> None:
        config = self.config
        since = self.step - self.first_step
        lr = learning_rate(config.schedule, since, self.steps_per_epoch, config.epochs)
        now_margin = margin(config.schedule, since, self.steps_per_epoch)
        set_learning_rate(self.optimizer, lr)
        loss, correct = self._loss(batch, now_margin)
        mean_loss, all_correct, asked = self._over_processes(loss.detach(), correct)
        self._check_finite(mean_loss, "loss")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = self.objective.clip_gradients(config.optimizer.grad_clip)
        if not self.scaler.is_enabled() or self.scaler.get_scale() < LEAST_SCALE:
            self._check_finite(norm, "gradient")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.must_stop = bool(asked)
        epoch = self.step / self.steps_per_epoch
        samples = config.batch_size
        self.curves.add(self.step, epoch, lr, now_margin, float(mean_loss), int(all_correct), samples)
        progress.update(self.step, epoch, float(mean_loss), int(all_correct) / samples, lr)

    def _over_processes(self, loss: torch.Tensor, correct: torch.Tensor) -> torch.Tensor:
        """Adds up over all processes: gives the batch's mean loss, its right answers, and how many were asked to end.

        Each process has the loss and right answers of its slice. With the sums all processes see a loss that is no
        number at the same step and end after the same step, so that none is left waiting.
        """
        found = torch.stack([loss.float() / self.world.size, correct.float(), self.request.flag(correct.float())])
        if self.world.size > 1:
            dist.all_reduce(found)
        return found

    @torch.no_grad()
    def _features(self, inputs: torch.Tensor | Unmixed) -> torch.Tensor:
        """Computes normalised, masked features (B, T, F) from waveforms (B, samples) or log-mels (B, T, F)."""
        if isinstance(inputs, Unmixed):
            inputs = inputs.mixed()
        if self.config.data.input == "wav":
            feats = self.front_end(inputs)
        else:
            num_mels = self.config.model.front_end.num_mels
            if inputs.shape[-1] != num_mels:
                raise UserError(f"{self.train_set.data_dir}/feats.scp: features of {inputs.shape[-1]} dimensions, the "
                                f"config's model.front_end.num_mels is {num_mels}; make the two agree")
            feats = self.front_end.normalize(inputs.float())
        if self.config.spec_augment is not None:
            # Masks depend on the step alone, so that a resumed run draws the same ones.
            seed = self.config.seed * 1_000_003 + self.step
            feats = spec_augment(feats, seed, self.config.spec_augment, self.world.rank, self.world.size)
        return feats

    @torch.no_grad()
    def _teach(self, feats: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None = None) -> tuple:
        """Gives the teacher's part: its embeddings, or cached `targets` in their place, and logits, where asked for."""
        taught = () if self.teacher is None else self.teacher(feats, labels)
        return taught if targets is None else (targets, *taught[1:])

    def _check_finite(self, value: torch.Tensor, what: str, step: int | None = None) -> None:
        """Raises NonFiniteLoss, naming the batch of `step` (from 0; None: the present), unless `value` is finite."""
        if torch.isfinite(value):
            return
        step = self.step if step is None else step
        epoch, batch = divmod(step, self.steps_per_epoch)
        whole = epoch_batches(self.train_set, self.config.batch_size, epoch, start_batch=batch)
        items = next(iter(whole))
        names = some_of([self.train_set.utterance(i) for i in items])
        kept = self.checkpoint_path if os.path.exists(self.checkpoint_path) else "no checkpoint yet"
        raise NonFiniteLoss(f"the {what} is {value.item()} at step {step + 1} (epoch {epoch + 1}, batch "
                            f"{batch + 1}: {names}); lower schedule.lr or look at these recordings. "
                            f"Last good state: {kept}")

    def _batches(self, epoch: int, start: int = 0):
        return epoch_batches(self.train_set, self.config.batch_size, epoch, start, self.world.rank, self.world.size)

    def _wrap(self, objective: Objective) -> nn.Module:
        if self.world.size == 1:
            return objective
        devices = [self.world.device] if self.world.device.type == "cuda" else None
        # Batch norm is synchronised already; broadcasting its buffers would only cost time.
        return DistributedDataParallel(objective, device_ids=devices, broadcast_buffers=False)

    def _save_if_due(self) -> None:
        """Writes a checkpoint after every epoch and every `checkpoint_minutes`; averages weights of the last epochs."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        if done == 0 and epoch > self.total_steps // self.steps_per_epoch - self.config.average:
            self.average.add(self.objective.state_dict())
        due = time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes
        if self.world.is_main and (done == 0 or due):
            self._save()

    def _save(self) -> None:
        # The last step may have made weights infinite or NaN; the checkpoint before it must then stay.
        for name, parameter in self.objective.named_parameters():
            self._check_finite(parameter.detach().abs().amax(), f"largest weight of {name}", self.step - 1)
        save_checkpoint(self.checkpoint_path, self._state())
        self.curves.write()
        self.saved_at, self.saved_step = time.monotonic(), self.step

    def _while_wanted(self, loader) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yields the batches, and ends without an error where reading fails in a run that is asked to end.

        A program that recordings are read through may get the signal before this process does.
        """
        try:
            yield from loader
        except (UserError, OSError):
            if not self.request.signal or self.world.size > 1:  # other processes would wait for this one's slice
                raise
            self.must_stop = True

    def _stop_if_asked(self) -> None:
        if not self.must_stop:
            return
        if self.world.is_main and self.saved_step != self.step:
            self._save()
        if self.world.size > 1:
            dist.barrier()  # the first process to end would make torchrun end the one that writes
        self.request.stop(self.checkpoint_path)

    def _end_epoch(self) -> None:
        epoch, done = divmod(self.step, self.steps_per_epoch)
        if self.after_epoch is not None and self.world.is_main and done == 0 and self.step > self.first_step:
            with as_written(self.objective.net) as net:
                self.after_epoch(epoch, net)

    def _state(self) -> dict:
        return {
            "run_id": self.run_id,
            "config": to_dict(self.config),
            "step": self.step,  # with the seed, the position of sampler and schedules
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),  # empty but in float16
            "average": self.average.state(),
            "curves": self.curves.state(),
            "rng": torch.get_rng_state(),
        }

    def _resume(self) -> None:
        if self.world.is_main:
            remove_leftovers(self.checkpoint_path)
        state = load_checkpoint(self.checkpoint_path)
        if state is None:
            return
        if state["run_id"] != self.run_id:
            print(f"{self.checkpoint_path} belongs to another config or other data: starting anew", flush=True)
            return
        self.step = self.saved_step = state["step"]
        self.objective.load_state_dict(state["objective"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.average = RunningAverage(**state["average"])
        self.curves.rows, self.curves.sums = state["curves"]["rows"], state["curves"]["sums"]
        torch.set_rng_state(state["rng"])
        print(f"resuming from {self.checkpoint_path} at step {self.step} of {self.total_steps}", flush=True)
