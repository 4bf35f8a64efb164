"""Extracts embeddings from utterances, and features of a few of them to calibrate a network's activations.

Only utterances of exactly the same number of frames share a batch. Nothing is
padded, so an embedding cannot depend on its neighbours in the batch, but for its last
bits: a matrix product rounds differently for another number of rows. Hence a data directory
is cut into blocks, no batch reaches beyond its block, and jobs share whole blocks. So the
batches are the same for any number of jobs, and so is every bit.
"""

from __future__ import annotations

import hashlib
from typing import Iterable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from svq.data import audio
from svq.data.audio import require_sound
from svq.data.datadir import DataDir
from svq.data.features import job_slice, read_matrix
from svq.data.frontend import FrontEnd, check_stored, takes_stored
from svq.data.table import Table
from svq.errors import UserError


def compute_on(device: str, num_threads: int) -> None:
    """Sets the number of CPU threads, and a GPU to give the CPU's values up to rounding (no TF32 in convolutions).

    device: "cpu" or a CUDA device; UserError where there is no GPU.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: no CUDA device here; use --device cpu")
    torch.set_num_threads(num_threads)
    torch.backends.cudnn.allow_tf32 = False


_BLOCK_FRAMES = 16000  # frames of a block, the utterances being sorted by length ...
_BLOCK_UTTERANCES = 16  # ... or its utterances, where the directory does not tell their lengths


class Utterances:
    """Features of one job's share of a data directory.

    input: "feats" reads feats.scp, "wav" computes features from wav.scp. "auto" takes
    feats.scp where it is there and `front_end`, a FrontEndConfig, gives such features
    (as far as feats.yaml tells), or where there is no wav.scp. job, num_jobs: the
    job-th (from 1) of num_jobs shares, each of about as much speech. max_seconds: how
    much is read from the start of each utterance; 0 reads all. waveforms: gives
    samples in place of features, for a network that has its front end inside.
    UserError names files and ids, also where feats.scp is to be read and holds
    another front end's features.
    """

    def __init__(self, data_dir, front_end, input: str = "auto", job: int = 1, num_jobs: int = 1,
                 max_seconds: float = 0.0, device: str = "cpu", waveforms: bool = False):
        folder = DataDir(data_dir)
        self.waveforms = waveforms
        if waveforms and input == "feats":
            raise UserError(f"{data_dir}: the model has its front end inside and takes waveforms, not features: "
                            "input wav")
        stored = folder.has("feats.scp") and not waveforms
        self.feats = input == "feats" or (input == "auto" and stored and (
            takes_stored(front_end, data_dir) or not folder.has("wav.scp")))
        if self.feats:
            check_stored(front_end, data_dir)
        self.device, self.max_seconds = device, max_seconds
        self.front_end = FrontEnd(front_end).to(device)
        # One table at a time: of 30 million utterances, each takes 3 to 4 GB, in every job.
        keys = folder.utt2spk.key_array if folder.utt2spk.is_sorted else np.sort(folder.utt2spk.key_array)
        folder.forget("utt2spk")
        frames = self._frames(folder, keys)
        blocks = _blocks(frames)
        part = job_slice(blocks.max() + 1, job, num_jobs)
        mine, self.end = np.flatnonzero(_in_slice(blocks, part)), part.stop  # the number after that of its last block
        self.longest = int(frames[mine].max(initial=0))  # frames, about; 0 where nothing tells
        self.keys = [key.decode() for key in keys[mine]]
        self.table = folder.feats if self.feats else folder.wav
        self.lines = self._lines(self.table, keys[mine])
        if num_jobs > 1 and type(self.table) is Table:  # no channels are named
            self.table, self.lines = self.table.taken(self.lines), np.arange(len(mine))
        self.block_of = blocks[mine]
        self.order = np.lexsort((frames[mine], self.block_of))

    @staticmethod
    def _lines(table, keys) -> np.ndarray:
        try:
            return table.indices(keys)
        except KeyError as error:
            raise UserError(f"{table.path}: no line for {error.args[0]}, which is in utt2spk") from None

    def _frames(self, folder: DataDir, keys) -> np.ndarray:
        """Estimates the frames to be read of each utterance (N,), to sort by; zeros where no table tells lengths."""
        name = "utt2num_frames" if self.feats else "utt2dur"
        if not folder.has(name):
            return np.zeros(len(keys))
        lengths = folder.table(name)
        frames = lengths.float_array()[self._lines(lengths, keys)] * (1 if self.feats else 100)
        folder.forget(name)
        return np.clip(frames, 0.0, self.max_seconds * 100 or 1e9)

    def __len__(self) -> int:
        return len(self.order)

    def from_block(self, number: int) -> None:
        """Leaves out the utterances of blocks before block `number`: an earlier run has done them."""
        self.order = self.order[self.block_of[self.order] >= number]

    def sample(self, count: int, seed: int) -> None:
        """Keeps only `count` utterances, drawn at random, in the order of the draw; all where there are fewer."""
        order = np.random.default_rng(seed).permutation(len(self.keys))[:count]
        self.keys, self.lines = [self.keys[i] for i in order], self.lines[order]
        self.order, self.block_of = np.arange(len(order)), np.zeros(len(order), int)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor | UserError]]:
        """Yields (id, features (T, F) or samples (T,)) by rising length.

        For an utterance that cannot be read or is silent, a UserError stands in place of features: the embeddings of
        two silences would be alike.
        """
        yield from self._read_all(self.order)

    def blocks(self) -> Iterator[Iterator[tuple[str, torch.Tensor | UserError]]]:
        """Yields the blocks, each an iterator over what iterating the utterances gives."""
        cuts = np.flatnonzero(np.diff(self.block_of[self.order])) + 1
        yield from map(self._read_all, np.split(self.order, cuts))

    def _read_all(self, indices: np.ndarray) -> Iterator[tuple[str, torch.Tensor | UserError]]:
        for i in indices:
            try:
                specifier = self.table.value(self.lines[i])
                yield self.keys[i], self._read(specifier) if self.feats else self._compute(specifier)
            except UserError as error:
                yield self.keys[i], error

    def _read(self, specifier: str) -> torch.Tensor:
        # As many frames as the front end takes from so many seconds of the recording.
        config, bank = self.front_end.config, self.front_end.bank
        longest = max(1, bank.num_frames(round(self.max_seconds * config.rate)))
        feats = read_matrix(specifier, 0, longest if self.max_seconds else None)
        if not len(feats):
            raise UserError(f"{specifier}: no frames")
        if len(feats) > 1 and (feats == feats[0]).all():
            raise UserError(f"{specifier}: silence: all of its {len(feats)} frames are the same; leave it out")
        if feats.shape[1] != config.num_mels:
            raise UserError(f"{specifier}: {feats.shape[1]} mel bands; the model takes {config.num_mels} (or is it MFCC? "
                            "read the waveforms instead, with input wav)")
        return self.front_end.normalize(torch.from_numpy(feats)[None].to(self.device))[0]

    def _compute(self, specifier: str) -> torch.Tensor:
        wav = audio.load(specifier, self.front_end.config.rate, seconds=self.max_seconds or None)
        shortest = self.front_end.bank.shortest
        if len(wav) < shortest:
            raise UserError(f"{specifier}: {len(wav)} samples are too few, the model takes {shortest} at least; "
                            "take the utterance out of the data directory")
        require_sound(specifier, wav, self.front_end.config.rate)
        samples = torch.from_numpy(np.ascontiguousarray(wav))
        return samples if self.waveforms else self.front_end(samples[None].to(self.device))[0]


def _blocks(frames: np.ndarray) -> np.ndarray:
    """Numbers the block of each utterance, from 0: sorted by length, the speech is cut into about equal blocks."""
    order = np.argsort(frames, kind="stable")
    size = _BLOCK_FRAMES if frames.any() else _BLOCK_UTTERANCES
    ends = np.cumsum(frames[order] if frames.any() else np.ones(len(frames)))
    numbers = np.empty(len(frames), int)
    numbers[order] = np.unique((ends - ends[:1]) // size, return_inverse=True)[1]
    return numbers


def _in_slice(numbers: np.ndarray, part: slice) -> np.ndarray:
    return (part.start <= numbers) & (numbers < part.stop)


def batches(utterances: Utterances | Iterable[tuple[str, torch.Tensor | UserError]], batch_frames: int,
            unreadable: list[tuple[str, UserError]]) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yields batches (ids, features (B, T, F)) of equal T; utterances without features are added to `unreadable`.

    No batch reaches beyond a block of an `Utterances`, so batches do not depend on the number of jobs. batch_frames:
    the most frames of a batch, as in `equal_length_batches`.
    """
    for block in utterances.blocks() if isinstance(utterances, Utterances) else [utterances]:
        yield from equal_length_batches(readable(block, unreadable), batch_frames)


def equal_length_batches(utterances: Iterable[tuple[str, torch.Tensor]], batch_frames: int,
                         held_frames: int | None = None) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yields batches (ids, features (B, T, F)) of equal T, of batch_frames frames at most (or one utterance).

    Utterances wait for others of their length. When more than held_frames frames wait
    (by default 16 batches), the group that began first is given as it is.
    """
    held_frames = 16 * batch_frames if held_frames is None else held_frames
    waiting: dict[int, list[tuple[str, torch.Tensor]]] = {}
    held = 0
    for key, feats in utterances:
        length = len(feats)
        waiting.setdefault(length, []).append((key, feats))
        held += length
        done = [length] if (len(waiting[length]) + 1) * length > batch_frames else []
        while done or held > held_frames:
            group = waiting.pop(done.pop() if done else next(iter(waiting)))
            held -= sum(len(feats) for _, feats in group)
            yield _stacked(group)
    yield from map(_stacked, waiting.values())


def _stacked(group: list[tuple[str, torch.Tensor]]) -> tuple[list[str], torch.Tensor]:
    return [key for key, _ in group], torch.stack([feats for _, feats in group])


def readable(utterances: Iterable[tuple[str, torch.Tensor | UserError]],
             unreadable: list[tuple[str, UserError]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the utterances that have features; the others are added to `unreadable`."""
    for key, feats in utterances:
        if isinstance(feats, UserError):
            unreadable.append((key, feats))
        else:
            yield key, feats


def embed(net: nn.Module, utterances: Iterable[tuple[str, torch.Tensor | UserError]], batch_frames: int = 4000,
          device: str = "cpu") -> Iterator[tuple[str, np.ndarray | UserError]]:
    """Yields (id, embedding (D,) float32) by network `net`, in no particular order.

    A UserError stands in place of an embedding where the utterance has no features, or its embedding is not finite.
    """
    net = net.to(device, memory_format=torch.channels_last).eval()
    unreadable: list[tuple[str, UserError]] = []
    with parametrize.cached():  # a quantized network computes its weights once, not once a batch
        if device != "cpu" and isinstance(utterances, Utterances):
            _try_out(net, utterances, batch_frames)
        for keys, feats in batches(utterances, batch_frames, unreadable):
            yield from _finite(keys, _vectors(net, feats, batch_frames), f"{feats.shape[1]} frames")
    yield from unreadable


def _try_out(net: nn.Module, utterances: Utterances, batch_frames: int) -> None:
    """The longest utterance, which would come last, and a full batch: UserError where the memory does not suffice for them."""
    mels = utterances.front_end.config.num_mels
    for size, frames in {(1, utterances.longest), (batch_frames // 200, 200)}:
        if size and frames:
            _vectors(net, torch.zeros(size, frames, mels, device=utterances.device), batch_frames)


def _vectors(net: nn.Module, feats: torch.Tensor, batch_frames: int) -> np.ndarray:
    """Embeddings (B, D) of features (B, T, F); UserError where the memory does not suffice for them."""
    try:
        with torch.inference_mode():
            return net(feats).float().cpu().numpy()
    except torch.OutOfMemoryError:
        size, frames = feats.shape[:2]
        mend = (f"lower --batch-frames ({batch_frames})" if size > 1 else
                "read less of it (--max-seconds), take it out of the data directory, or use --device cpu")
        raise UserError(f"{feats.device}: its memory does not suffice for {size} utterance{'s' * (size > 1)} of {frames} "
                        f"frames; {mend}") from None


def embed_exported(embedder, utterances: Utterances,
                   batch_frames: int = 4000) -> Iterator[tuple[str, np.ndarray | UserError]]:
    """Yields (id, embedding (D,) float32 or UserError) as `embed` does, by an `svq.deploy.runtimes.Embedder`.

    `utterances` must be waveforms where the embedder takes those.
    """
    unreadable: list[tuple[str, UserError]] = []
    unit, name = (utterances.front_end.bank.hop, "samples") if utterances.waveforms else (1, "frames")
    for keys, inputs in batches(utterances, batch_frames * unit, unreadable):
        try:
            vectors = embedder(inputs.numpy())
        except UserError as error:  # it takes one duration only, and this is another
            yield from ((key, error) for key in keys)
            continue
        yield from _finite(keys, vectors, f"{inputs.shape[1]} {name}")
    yield from unreadable


def _finite(keys: list[str], vectors: np.ndarray, length: str) -> Iterator[tuple[str, np.ndarray | UserError]]:
    for key, vector in zip(keys, vectors):
        yield key, vector if np.isfinite(vector).all() else UserError(f"its embedding is not finite ({length})")


_CHOICE = 5  # keeps this random stream apart from those of crops, batch orders and probes


def calibration_features(data_dir, front_end, utterances: int = 64, crop_seconds: float = 3.0, seed: int = 1,
                         input: str = "auto") -> torch.Tensor:
    """Draws B = `utterances` of a data directory (all if it has fewer) and one stretch of each: (B, T, F) float32.

    The draw, and where the stretches begin, depends on `seed` alone. The features are those of extraction, normalised
    over the whole utterance. An utterance shorter than `crop_seconds` is repeated. UserError names an utterance that
    cannot be read.
    """
    source = Utterances(data_dir, front_end, input)
    rng = np.random.default_rng([_CHOICE, seed])
    source.order = rng.permutation(len(source))[:utterances]
    frames = max(1, source.front_end.bank.num_frames(round(crop_seconds * front_end.rate)))
    crops = []
    for key, feats in source:
        if isinstance(feats, UserError):
            raise UserError(f"{data_dir}: {key}: {feats}")
        if len(feats) < frames:
            feats = feats.repeat(-(-frames // len(feats)), 1)
        start = int(rng.integers(len(feats) - frames + 1))
        crops.append(feats[start : start + frames])
    if not crops:
        raise UserError(f"{data_dir}: no utterances; give a data directory that has some")
    return torch.stack(crops)


def digest_of(feats: torch.Tensor) -> str:
    """Takes the digest (hex) of the values of features, wherever they were read."""
    return hashlib.blake2b(feats.numpy().tobytes(), digest_size=16).hexdigest()
