"""Means of speakers without an embedding on disk: each job keeps running sums of its share, and a last call adds them up.

A job saves its sums between two blocks of utterances (svq/data/extraction.py), so a killed one goes on from there. The sums
are exact (svq/backend/speaker_sums.py): the means have the same bytes whatever the number of jobs, killed or not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np

from svq.backend.embeddings import unit_length, write_embeddings, write_vector
from svq.backend.speaker_sums import SpeakerSums, too_large
from svq.data.datadir import DataDir
from svq.data.words import Tokens
from svq.errors import UserError, some_of

SAVE_SECONDS = 60.0  # between two saves of a job's sums, at least
_BATCH = 256         # embeddings added together


def path_of(folder, job: int) -> str:
    """Names the file of a job's sums."""
    return os.path.join(folder, f"sums.{job}.npz")


def do_job(run: Callable[[object], Iterable], utterances, data_dir, path, made_from: str, length_normalize: bool = False,
           progress: Callable = lambda items, total: items) -> None:
    """Sums the embeddings of one job's share and writes the sums to the file `path`; goes on from what a killed job left there.

    run: gives (id, embedding (D,) or UserError) of an svq.data.extraction.Utterances, block after block. made_from: digest of
    all that the embeddings depend on; sums of another digest are begun anew. length_normalize: scales each embedding to
    length 1 first. progress: wraps an iterable, given its length. UserError, after all others have been tried, names the
    utterances that have no embedding.
    """
    folder = DataDir(data_dir)
    sums, found, done = SpeakerSums.load(path) or (None, "", 0)
    if found != made_from:
        sums, done = None, 0
    utterances.from_block(done)
    share = _Share(utterances, folder)
    failed, held, saved = {}, [], time.monotonic()

    def add_held() -> SpeakerSums:
        total = sums
        if total is None:  # even of no utterances: a job's file says that it was there
            total = SpeakerSums(len(folder.speakers), len(held[0][1]) if held else 0)
        if held:
            rows, vectors = [row for row, _ in held], np.array([vector for _, vector in held])
            if length_normalize:
                vectors = unit_length(vectors, Tokens.of([share.keys[row] for row in rows]), data_dir)
            total.add(vectors, share.speaker[rows])
            held.clear()
        return total

    for key, vector in progress(run(utterances), len(utterances)):
        refused = vector if isinstance(vector, UserError) else too_large(vector)
        if refused is not None:
            failed[key] = refused
            continue
        row = share.place[key]
        held.append((row, vector))
        share.note(row)
        if len(held) >= _BATCH:
            sums = add_held()
        if share.is_whole and time.monotonic() - saved >= SAVE_SECONDS:
            sums = add_held()
            sums.save(path, made_from, share.next_block)
            saved = time.monotonic()
    for key in sorted(failed):
        print(f"{key}: {failed[key]}", file=sys.stderr)
    if failed:
        raise UserError(f"{data_dir}: {len(failed)} of {len(utterances.keys)} utterances have no embedding that can be averaged: "
                        f"{some_of(sorted(failed))}")
    add_held().save(path, made_from, share.end)


class _Share:
    """The utterances that are left to a job: speaker and block of each, and how far all blocks so far are summed whole."""

    def __init__(self, utterances, folder: DataDir):
        rows = np.sort(utterances.order)
        self.keys = [utterances.keys[row] for row in rows]
        self.place = {key: place for place, key in enumerate(self.keys)}
        self.speaker = folder.speaker_index[folder.utt2spk.indices(self.keys)] if self.keys else np.zeros(0, np.int32)
        folder.forget("utt2spk")
        self.block = utterances.block_of[rows]
        self.numbers, self.left = np.unique(self.block, return_counts=True)
        self.at = 0  # the blocks before this one of `numbers` are whole
        self.end = int(utterances.end)

    def note(self, place: int) -> None:
        """Notes that an utterance is summed."""
        self.left[np.searchsorted(self.numbers, self.block[place])] -= 1
        while self.at < len(self.left) and self.left[self.at] == 0:
            self.at += 1
        self.begun = int(self.block[place])

    @property
    def is_whole(self) -> bool:
        """Whether all blocks that were begun are summed whole: a block with an utterance that failed never is."""
        return self.at > 0 and self.begun == self.numbers[self.at - 1]

    @property
    def next_block(self) -> int:
        return int(self.numbers[self.at]) if self.at < len(self.numbers) else self.end


def finish(folder, paths: list[str], data_dir, log: str) -> int:
    """Adds up the sums of all jobs and writes spk_embedding.{ark,scp} and mean.vec into `folder`; gives the number of speakers.

    paths: of the jobs' sums, in order. UserError where those of a job are missing or made from anything else than those of
    the first, or where they do not cover the data directory.
    """
    data, total, first = DataDir(data_dir), None, None
    for job, path in enumerate(paths, 1):
        found = SpeakerSums.load(path)
        if found is None:
            raise UserError(f"{path}: missing or cut short: its job was lost; see {log.replace('JOB', str(job))}")
        first = found[1] if first is None else first
        if found[1] != first:
            raise UserError(f"{path}: made from another model, data or options than {paths[0]}; run the step again")
        sums = found[0]
        if not sums.counts.any():
            continue  # a job without utterances: more jobs than blocks of them
        if total is None:
            total = sums
        elif sums.coarse.shape != total.coarse.shape:
            raise UserError(f"{path}: embeddings of {sums.coarse.shape[1]} values where others have {total.coarse.shape[1]}; "
                            f"remove {os.path.dirname(path)} and run the step again")
        else:
            total.merge(sums)
    wanted = np.bincount(data.speaker_index, minlength=len(data.speakers))
    if total is None or not np.array_equal(total.counts, wanted):
        summed = 0 if total is None else int(total.counts.sum())
        raise UserError(f"{folder}: {summed} embeddings were summed for the {len(data.utt2spk)} utterances of "
                        f"{data_dir}; remove {os.path.dirname(paths[0])} and run the step again")
    means, mean = total.means()
    write_embeddings(folder, data.speakers, means, "spk_embedding")
    write_vector(os.path.join(folder, "mean.vec"), mean)
    return len(means)
