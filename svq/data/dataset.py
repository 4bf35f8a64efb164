"""Training items: random crops of speech with their speakers' labels.

An item is a pure function of (seed, epoch, index), and the order of batches is one
of (seed, epoch). So neither the number of workers nor a resumed run changes
what the network sees. Everything that grows with the corpus lies in arrays:
forked workers share 3.3 million utterances without copying them.

A data directory of shards (svq.data.shard_index) has an order in which these are read in long pieces.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
from typing import Iterator, Literal, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from svq.data import audio
from svq.data.augment_config import AugmentConfig
from svq.data.augment import Augment, wrap
from svq.data.datadir import DataDir, index_speakers
from svq.data.fbank import num_samples
from svq.data.features import Matrix, job_slice
from svq.data.mixing import Unmixed
from svq.data.rxfilename import Rx
from svq.data.shard_index import ShardIndex, has_shards
from svq.data.shard_order import Blocks, ShardBatches
from svq.data.shard_reader import LaneReader
from svq.data.speeds import check_speeds, faster, prefix, speeds_of
from svq.data.table import Table
from svq.errors import UserError, some_of

FRAMES_PER_SECOND = 100
# Keeps the random streams of items and of batch orders apart.
_ITEMS, _ORDER = 1, 2


class TrainSet:
    """Training crops of `crop_seconds` from a Kaldi data directory.

    input: "wav" reads only the crop from the recordings of wav.scp (with utt2dur)
    and gives (samples,) float32 in [-1, 1], just enough samples for the frames;
    "feats" reads only the rows of the crop by feats.scp and gives (frames, F) float32.
    Shorter utterances are repeated up to the crop.
    augment: an `Augment`, or its config, for "wav". keep_speakers: the speakers to keep, all by default.
    speeds: for "wav", each utterance is an item at each of these, by default at those of the directory's file `speeds`.
    An utterance at another speed than 1 has a speaker of its own, with the id of utils/perturb_data_dir_speed.sh.
    Utterance i at the s-th speed is item s * (number of utterances) + i.
    `.shards` says where recordings lie in the shards of `data_dir`, or is None.
    `.speakers` are the sorted ids that the labels 0..num_speakers-1 stand for.
    `.targets`, None at first, gives each item a third part by `targets.item(index, first frame, frames)`;
    svq.distill.cache.Targets is one.
    UserError, naming the file and the id, where the directory does not fit together.
    """

    def __init__(self, data_dir, input: Literal["wav", "feats"] = "wav", crop_seconds: float = 2.0,
                 seed: int = 0, augment: Augment | AugmentConfig | None = None,
                 keep_speakers: Sequence[str] | None = None, rate: int = 16000, speeds: Sequence[float] | None = None):
        if input not in ("wav", "feats"):
            raise ValueError(f"input must be wav or feats, not {input!r}")
        if augment is not None and input == "feats":
            raise UserError("noise and reverberation need waveforms: train with input wav, or without augmentation")
        speeds = (1.0,) if input == "feats" and speeds is None else speeds_of(data_dir) if speeds is None else speeds
        check_speeds(speeds)
        if list(speeds) != [1.0] and input == "feats":
            raise UserError("speeds need waveforms: train with input wav, or at speed 1 alone")
        if isinstance(augment, AugmentConfig):
            augment = Augment.from_config(augment, rate)
        self.data_dir, self.input, self.seed, self.augment = os.fspath(data_dir), input, seed, augment
        self.rate, self.speeds = rate, tuple(speeds)
        self.frames = round(crop_seconds * FRAMES_PER_SECOND)
        if self.frames < 1:
            raise UserError(f"crop_seconds is {crop_seconds}; a crop is at least one frame of 0.01 s")
        self.samples = num_samples(self.frames, rate)

        utt2spk = self._table("utt2spk", "stage 1")
        names, labels = index_speakers(utt2spk.value_array())
        kept = self._kept(names, keep_speakers)
        new_label = np.cumsum(kept) - 1
        lines = np.flatnonzero(kept[labels])
        self.speakers, of_speed = self._speakers_at([name.decode() for name in names[kept]])
        self.labels = of_speed[:, new_label[labels[lines]]].reshape(-1)
        self.utterances, self.lines = utt2spk, lines
        keys = utt2spk.key_array[lines]
        self.targets = None
        if input == "wav":
            durations = self._table("utt2dur", "stage 1")
            self.seconds = durations.float_array()[self._align(durations, keys)].astype(np.float32)
            del durations
        self.shards = ShardIndex(data_dir, keys) if input == "wav" and has_shards(data_dir) else None
        self.recordings = self.recording = None
        if self.shards is None:  # else the index says where they are, in a quarter of the memory
            self.recordings = self._table("wav.scp" if input == "wav" else "feats.scp",
                                          "stage 1" if input == "wav" else "stage 2")
            self.recording = self._align(self.recordings, keys)
            self.recordings.forget()
        utt2spk.forget()

    def _speakers_at(self, names: list[str]) -> tuple[list[str], np.ndarray]:
        """The sorted speakers of all speeds, and where each of `names` is among them, (speeds, names) int32."""
        every = [prefix(speed) + name for speed in self.speeds for name in names]
        speakers = sorted(set(every), key=str.encode)
        if len(speakers) < len(every):
            raise UserError(f"{self.data_dir}/utt2spk: has copies at other speeds already; train without `speeds`")
        place = {name: i for i, name in enumerate(speakers)}
        return speakers, np.array([place[name] for name in every], np.int32).reshape(len(self.speeds), -1)

    def _table(self, name: str, maker: str) -> Table:
        path = os.path.join(self.data_dir, name)
        if not os.path.exists(path):
            raise UserError(f"{path} is missing; {maker} of the recipe makes it")
        folder = DataDir(self.data_dir)
        if name == "wav.scp":
            return folder.wav
        return folder.feats if name == "feats.scp" else folder.table(name)

    def _kept(self, names: np.ndarray, keep: Sequence[str] | None) -> np.ndarray:
        if keep is None:
            return np.ones(len(names), dtype=bool)
        wanted = np.unique(np.array([name.encode() for name in keep]))
        strange = wanted[~np.isin(wanted, names)]
        if len(strange):
            raise UserError(f"{self.data_dir}/utt2spk: no utterances of speaker "
                            f"{some_of(name.decode() for name in strange)}")
        return np.isin(names, wanted)

    @staticmethod
    def _align(table: Table, keys: np.ndarray) -> np.ndarray:
        try:
            return table.indices(keys)
        except KeyError as error:
            raise UserError(f"{table.path}: no line for {error.args[0]}, which is in utt2spk") from None

    @property
    def num_speakers(self) -> int:
        """The number of speakers; copies at another speed count as speakers of their own."""
        return len(self.speakers)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def keys(self) -> np.ndarray:
        """The utterances' ids in the order of the items, (N,) bytes."""
        keys = self.utterances.key_array[self.lines]
        return np.concatenate([np.char.add(prefix(speed).encode(), keys) for speed in self.speeds])

    def utterance(self, index: int) -> str:
        """Names the utterance of a sample, with the prefix of its speed."""
        speed, row = divmod(int(index), len(self.lines))
        return prefix(self.speeds[speed]) + self.utterances.key(self.lines[row])

    def item(self, epoch: int, index: int, data: bytes | None = None) -> tuple:
        """Reads an item: (samples,) or (frames, F) float32, its speaker's label and, if there are targets, its target.

        data: the bytes of the recording's file, if they have been read already. If the augmentation is left to the
        device, the samples come as a pair with what is drawn for them (svq.data.augment.Drawn). UserError names the
        utterance.
        """
        rng = np.random.default_rng([_ITEMS, self.seed, epoch, index])
        where = rng.random()
        speed, row = divmod(int(index), len(self.lines))
        specifier = self.shards.place(row) if self.recordings is None else self.recordings.value(self.recording[row])
        try:
            if self.input == "feats":
                crop, first = self._feats(specifier, where)
            else:
                recording = specifier if data is None else Rx("held", str(specifier), data=data)
                crop, first = self._wav(recording, float(self.seconds[row]), where, self.speeds[speed])
            target = () if self.targets is None else (self.targets.item(index, first, self.frames),)
        except UserError as error:
            raise UserError(f"{self.data_dir}: utterance {self.utterance(index)}: {error}") from None
        drawn = None
        if self.augment is not None and self.augment.config.on_device:
            drawn = self.augment.draw(len(crop), rng)
        elif self.augment is not None:
            crop = self.augment(crop, rng)
        crop = np.ascontiguousarray(crop, dtype=np.float32)
        return crop if drawn is None else (crop, drawn), int(self.labels[index]), *target

    def _wav(self, recording: str | Rx, seconds: float, where: float, speed: float) -> tuple[np.ndarray, int]:
        """Reads a crop at `speed`; gives it and the frame of the utterance, at `speed`, nearest to its first frame."""
        start = int(where * (max(0, math.floor(seconds / speed * self.rate) - self.samples) + 1))

        def read(first: int, count: int) -> np.ndarray:
            return audio.load(recording, self.rate, first / self.rate, count / self.rate)

        wav = faster(read, start, self.samples, speed)
        # utt2dur is rounded: some samples may be missing at the end.
        return wrap(wav, self.samples), round(start * FRAMES_PER_SECOND / self.rate)

    def _feats(self, specifier: str, where: float) -> tuple[np.ndarray, int]:
        """Reads a crop, and gives it with the number of its first frame in the whole utterance."""
        with Matrix(specifier) as matrix:
            start = int(where * (max(0, matrix.shape[0] - self.frames) + 1))
            rows = matrix.rows(start, self.frames)
        if not len(rows):
            raise UserError(f"{specifier}: no frames")
        return wrap(rows, self.frames), start


class EpochBatches:
    """Batches of item indices, int64 arrays, for one epoch: a seeded permutation cut into pieces.

    batch_size counts the items of all ranks together; rank r of world_size takes the r-th
    contiguous slice of each batch. The last, incomplete batch is dropped.
    start_batch: the number of batches already done (a resumed epoch goes on with the next one).
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, epoch: int, start_batch: int = 0,
                 rank: int = 0, world_size: int = 1):
        if batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be shared evenly by {world_size} processes")
        if num_items < batch_size:
            raise UserError(f"{num_items} training utterances do not fill a batch of {batch_size}; "
                            "choose a smaller batch")
        self.num_items, self.batch_size, self.seed, self.epoch = num_items, batch_size, seed, epoch
        self.start_batch, self.rank, self.world_size = start_batch, rank, world_size

    def __len__(self) -> int:
        return max(0, self.num_items // self.batch_size - self.start_batch)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng([_ORDER, self.seed, self.epoch]).permutation(self.num_items)
        share = self.batch_size // self.world_size
        for batch in range(self.start_batch, self.start_batch + len(self)):
            first = batch * self.batch_size + self.rank * share
            yield order[first:first + share]


def epoch_batches(train_set: TrainSet, batch_size: int, epoch: int, start_batch: int = 0, rank: int = 0,
                  world_size: int = 1) -> EpochBatches | ShardBatches:
    """Gives the batches of an epoch, in an order that suits where the recordings are; arguments as of `EpochBatches`."""
    if train_set.shards is None:
        return EpochBatches(len(train_set), batch_size, train_set.seed, epoch, start_batch, rank, world_size)
    blocks = Blocks.of(train_set.shards.shard, train_set.shards.offset)
    return ShardBatches(blocks, len(train_set.speeds), batch_size, train_set.seed, epoch, start_batch, rank, world_size)


def make_loader(train_set: TrainSet, batches, epoch: int, num_workers: int) -> "Loader":
    """Makes an iterable over `batches` of (inputs (B, ...) float32, labels (B,) int64), the same for any num_workers.

    If the set has targets, they come third, (B, ...) float32. If the augmentation is left to the device, the inputs are
    a svq.data.mixing.Unmixed. A UserError of an item (an unreadable recording) is
    raised in the caller's process.
    """
    return Loader(train_set, batches, epoch, num_workers)


class Loader:
    """The iterable that `make_loader` gives; every iteration starts its own workers."""

    def __init__(self, train_set: TrainSet, batches, epoch: int, num_workers: int):
        self.batches = batches
        if isinstance(batches, ShardBatches):
            num_workers = min(num_workers, len(batches.lanes))
            self.pieces = max(1, num_workers)  # of a batch, each from a worker that reads these lanes alone
            dataset, sampler = _ShardPieces(train_set, batches, epoch), Pieces(batches, self.pieces)
        else:
            self.pieces, dataset, sampler = 1, _Batches(train_set, epoch), batches
        self.loader = DataLoader(
            dataset, batch_size=None, sampler=sampler, num_workers=num_workers,
            worker_init_fn=_worker_init if num_workers else None,
            # Forked workers share the tables; they never touch the accelerator.
            multiprocessing_context="fork" if num_workers else None,
            prefetch_factor=4 if num_workers else None,
            pin_memory=torch.cuda.is_available() and self.pieces == 1)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        pieces = []
        for piece in self._started():
            if isinstance(piece, str):
                raise UserError(piece)
            pieces.append(piece)
            if len(pieces) == self.pieces:
                yield pieces[0] if self.pieces == 1 else tuple(map(_joined, zip(*pieces)))
                pieces = []

    def _started(self):
        """Gives the DataLoader's iterator. Its workers are born with ENDING blocked; `_worker_init` has it ignored."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            return iter(self.loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Batches(Dataset):
    """Whole batches by the indices of their items; where an item raises UserError, its message comes back instead.

    As an exception, it would reach the caller with the worker's traceback pasted into the message.
    """

    def __init__(self, train_set: TrainSet, epoch: int):
        self.train_set, self.epoch = train_set, epoch

    def __getitem__(self, indices):
        try:
            return _stacked([self.train_set.item(self.epoch, int(index)) for index in indices])
        except UserError as error:
            return str(error)


class _ShardPieces(Dataset):
    """Pieces of batches by (batch, lanes), read from shards, else like `_Batches`. Each worker has one of its own."""

    def __init__(self, train_set: TrainSet, batches: ShardBatches, epoch: int):
        self.train_set, self.epoch, self.reader = train_set, epoch, LaneReader(train_set.shards, batches)

    def __getitem__(self, piece):
        batch, lanes = piece
        try:
            return _stacked([self.train_set.item(self.epoch, item, data)
                             for lane in lanes for item, data in self.reader.take(lane, batch)])
        except UserError as error:
            return str(error)


class Pieces:
    """The pieces of the batches of a ShardBatches, one batch after the other, as many as workers: (batch, lanes)."""

    def __init__(self, batches: ShardBatches, pieces: int):
        self.batches, self.pieces = batches, pieces

    def __len__(self) -> int:
        return len(self.batches) * self.pieces

    def __iter__(self) -> Iterator[tuple[int, Sequence[int]]]:
        lanes = self.batches.lanes
        for batch in range(self.batches.start_batch, self.batches.batches):
            for piece in range(self.pieces):
                yield batch, lanes[job_slice(len(lanes), piece + 1, self.pieces)]


def _stacked(items: list[tuple]) -> tuple[torch.Tensor, ...]:
    inputs, labels, *targets = zip(*items)
    inputs = Unmixed.of(inputs) if isinstance(inputs[0], tuple) else torch.from_numpy(np.stack(inputs))
    return (inputs, torch.tensor(labels, dtype=torch.int64),
            *(torch.from_numpy(np.stack(target)) for target in targets))


def _joined(pieces: Sequence[torch.Tensor | Unmixed]) -> torch.Tensor | Unmixed:
    whole = Unmixed.joined(pieces) if isinstance(pieces[0], Unmixed) else torch.cat(pieces)
    return whole.pin_memory() if torch.cuda.is_available() else whole


# Signals that all processes of a training get when it is to end; it still finishes its step, so its workers go on.
ENDING = (signal.SIGTERM, signal.SIGUSR1)


def _worker_init(_worker: int) -> None:
    """Makes a worker end when its parent is killed (Linux: prctl(2)), to free its lock and memory, and not before."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    PR_SET_PDEATHSIG = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (AttributeError, OSError):
        pass  # not Linux: torch's own watch on the parent ends the worker a little later
