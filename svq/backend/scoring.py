"""Scores trial lists by embeddings, for every back end alike, and normalises scores against a cohort where asked.

A back end turns embeddings into rows for the enrolment and the test side whose dot
product is the score, so that trials and cohort scores are plain matrix products.

S-norm: Kenny, "Bayesian speaker verification with heavy-tailed priors" (Odyssey 2010).
AS-norm: each side keeps the scores of its own N closest cohort speakers; Matejka et
al., "Analysis of score normalization in multilingual speaker recognition" (Interspeech
2017), who call it adaptive S-norm1.  The standard deviation is the population's (divided
by N, not N - 1), as in WeSpeaker.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from svq.backend.embeddings import add_by_group, unit_length
from svq.errors import UserError

# Sizes of blocks do not depend on the number of threads: the same blocks give the same bits.
_ROWS = 256
_READ = 1 << 13  # embeddings processed together
_TRIALS = 1024


def available_threads():
    """Counts the processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_blocks(work, count, size, threads):
    """Calls work(first) for the start of each block.  BLAS, partition and gathers release the interpreter's lock."""
    starts = range(0, count, size)
    if threads == 1:
        for first in starts:
            work(first)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, starts):
            pass


def pair_scores(enroll, test, enroll_row, test_row, threads=1):
    """Computes the dot products of enroll[enroll_row[i]] and test[test_row[i]]: (n,) float64.

    enroll: (E, F); test: (T, F), of one dtype; enroll_row, test_row: (n,) ints.
    """
    out = np.empty(len(enroll_row))

    def work(first):
        part = slice(first, first + _TRIALS)
        out[part] = np.einsum("ij,ij->i", enroll[enroll_row[part]], test[test_row[part]])

    _in_blocks(work, len(out), _TRIALS, threads)
    return out


def cohort_statistics(vectors, cohort, top_n=None, threads=1):
    """Computes mean and population standard deviation of each vector's scores against the cohort: two (N,) float64.

    vectors: (N, F); cohort: (C, F); the score is their dot product.  top_n: only the
    highest top_n scores of each vector count; None, or C and more, takes all of them.
    The result is exact: the top scores are selected, not estimated.
    Memory: one block of 256 x C scores per thread.
    UserError where a deviation is zero or fewer than two scores count.
    """
    size = len(cohort)
    top_n = size if top_n is None else min(top_n, size)
    if top_n < 2:
        raise UserError(f"score normalisation needs at least 2 cohort scores, not {top_n}")
    columns = np.ascontiguousarray(cohort.T)
    mean, deviation = np.empty(len(vectors)), np.empty(len(vectors))

    def work(first):
        part = slice(first, first + _ROWS)
        scores = vectors[part] @ columns
        if top_n < size:
            scores.partition(size - top_n, axis=1)
            scores = scores[:, size - top_n:]
        mean[part] = scores.mean(axis=1, dtype=np.float64)
        # Around a rounded mean the sum of squares still fits float64: two passes, no cancellation.
        scores = scores - mean[part, None].astype(scores.dtype)
        square = np.einsum("ij,ij->i", scores, scores, dtype=np.float64) / top_n
        deviation[part] = np.sqrt(np.maximum(square - scores.mean(axis=1, dtype=np.float64) ** 2, 0))

    _in_blocks(work, len(vectors), _ROWS, threads)
    # Rounding leaves a deviation of some 1e-7 of the scores where all of them are equal.
    if deviation.size and not (deviation > 1e-6 * np.maximum(np.abs(mean), 1e-30)).all():
        raise UserError(f"the top {top_n} cohort scores of {int((deviation <= 1e-6 * np.abs(mean)).sum())} "
                        "embeddings are all equal: the cohort speakers must differ")
    return mean, deviation


def normalize(score, enroll_row, test_row, enroll_statistics, test_statistics):
    """Normalises scores (n,) symmetrically: each becomes the mean of itself standardised from either side.

    enroll_row, test_row: (n,) into the statistics, pairs (mean, deviation) from cohort_statistics.
    """
    enroll_mean, enroll_deviation = enroll_statistics
    test_mean, test_deviation = test_statistics
    return 0.5 * ((score - enroll_mean[enroll_row]) / enroll_deviation[enroll_row]
                  + (score - test_mean[test_row]) / test_deviation[test_row])


class Cosine:
    """Cosine similarity after subtracting a mean embedding (of training or cohort utterances)."""

    def __init__(self, mean=None):
        self.mean = mean

    def process(self, x, ids=None, source="embeddings"):
        """Subtracts the mean from embeddings (N, D) and scales them to length 1, float32."""
        if self.mean is not None and len(self.mean) != x.shape[1]:
            raise UserError(f"{source}: embeddings of {x.shape[1]} values, but a mean embedding of {len(self.mean)}")
        return unit_length(x if self.mean is None else x - self.mean, ids, source)

    def models(self, average, counts):
        """Turns averages of processed embeddings (M, D) into enrolment vectors of length 1; each counts as one."""
        return unit_length(average.astype(np.float32)), np.ones(len(average))

    def enroll_side(self, x, counts=1):
        """Gives the enrolment side of a cosine, (n, D): the embeddings as they are."""
        return x

    def test_side(self, x):
        """Gives the test side of a cosine, (n, D): the embeddings as they are."""
        return x


class PldaScores:
    """PLDA log-likelihood ratios.

    by_the_book: True keeps a model's number of utterances in the closed form; otherwise the
    model's average is scaled back to full length and counts as one."""

    def __init__(self, plda, by_the_book=False):
        self.plda, self.by_the_book = plda, by_the_book
        self.process, self.enroll_side, self.test_side = plda.process, plda.enroll_side, plda.test_side

    def models(self, average, counts):
        """Gives speaker models, (n, D), and their numbers of utterances, (n,), as the scoring of enrolments takes them."""
        if self.by_the_book:
            return average, counts.astype(np.float64)
        return self.plda.unit(average), np.ones(len(average))


@dataclass
class Prepared:
    """Rows of a trial list's two sides.

    enroll, test: (E, F) and (T, F); enroll_row, test_row: (n,) into them.  test_as_enroll:
    the test side's embeddings as enrolment rows.  shared: it is the same array as enroll."""

    enroll: np.ndarray
    test: np.ndarray
    enroll_row: np.ndarray
    test_row: np.ndarray
    test_as_enroll: np.ndarray
    shared: bool


def _used(rows, count):
    """Gives the distinct rows in rising order, and each row's place among them."""
    mark = np.zeros(count, dtype=bool)
    mark[rows] = True
    place = np.cumsum(mark, dtype=np.int32) - 1
    return np.flatnonzero(mark), place[rows]


def prepare(trials, reader, backend, groups=None):
    """Reads the embeddings that the trials need, each once, and turns them into rows: a Prepared.

    trials: scores.Trials; reader: EmbeddingReader; groups: Groups of enroll.spk2utt, or
    None where the enrolment ids are utterances.  UserError lists missing ids.
    """
    if groups is None:
        used, row = _used(np.concatenate(reader.rows(trials.enroll, trials.test)), len(reader))
        x = _processed(reader, used, backend)
        n = len(trials)
        enroll, test = backend.enroll_side(x), backend.test_side(x)
        return Prepared(enroll, test, row[:n], row[n:], enroll, True)
    model_row, = groups.index.require("enrolment model", groups.path, trials.enroll)
    test_row, = reader.rows(trials.test)
    model, enroll_row = _used(model_row, len(groups.names))
    used, test_row = _used(test_row, len(reader))
    x = _processed(reader, used, backend)
    average, counts = _averages(groups, reader, backend)
    vectors, counts = backend.models(average[model], counts[model])
    return Prepared(backend.enroll_side(vectors, counts), backend.test_side(x), enroll_row, test_row,
                    backend.enroll_side(x), False)


def _processed(reader, rows, backend):
    """Reads and processes the embeddings of these rows, (n, F), a block at a time, so that there is only one copy."""
    out = None
    for first in range(0, max(len(rows), 1), _READ):
        part = rows[first:first + _READ]
        block = backend.process(reader.read(part), reader.ids.take(part), reader.path)
        out = np.empty((len(rows), block.shape[1]), block.dtype) if out is None else out
        out[first:first + _READ] = block
    return out


def _averages(groups, reader, backend):
    """Computes the means of processed embeddings by model, (g, F) float64, and gives them with the counts (g,)."""
    sums = None
    for block, group in groups.blocks(reader):
        x = backend.process(block, source=reader.path)
        if sums is None:
            sums = np.zeros((len(groups.names), x.shape[1]))
        add_by_group(sums, x, group)
    return sums / groups.counts[:, None], groups.counts


def raw_scores(prepared, threads=1):
    """Computes the scores of prepared trials, in their order: (n,) float64."""
    return pair_scores(prepared.enroll, prepared.test, prepared.enroll_row, prepared.test_row, threads)


def normalized_scores(score, prepared, backend, cohort, top_n=None, threads=1):
    """Normalises the scores of prepared trials by S-norm (top_n None) or AS-norm: (n,) float64.

    score: (n,) raw scores; cohort: (C, D) raw embeddings of cohort speakers (their means).
    Only embeddings that occur in trials are compared with the cohort.
    """
    cohort_rows = backend.test_side(backend.process(cohort, source="cohort"))
    enroll = cohort_statistics(prepared.enroll, cohort_rows, top_n, threads)
    test = enroll if prepared.shared else cohort_statistics(prepared.test_as_enroll, cohort_rows, top_n, threads)
    return normalize(score, prepared.enroll_row, prepared.test_row, enroll, test)
