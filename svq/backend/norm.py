"""Score normalisation against a cohort of other speakers.

S-norm: Kenny, "Bayesian speaker verification with heavy-tailed priors" (Odyssey 2010).
AS-norm: each side keeps the scores of its own N closest cohort speakers; Matejka et
al., "Analysis of score normalization in multilingual speaker recognition" (Interspeech
2017), there S-norm1 adaptive.  The standard deviation is the population's (divided by
N, not N - 1), as in WeSpeaker.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from svq.errors import UserError

# Fixed, whatever the number of threads: the same blocks give the same bits.
_ROWS = 256
_TRIALS = 1024


def available_threads():
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_blocks(work, count, size, threads):
    """work(first) for each block start.  BLAS, partition and gathers release the interpreter's lock."""
    starts = range(0, count, size)
    if threads == 1:
        for first in starts:
            work(first)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, starts):
            pass


def pair_scores(enroll, test, enroll_row, test_row, threads=1):
    """Dot products of enroll[enroll_row[i]] and test[test_row[i]]: (n,) float64.

    enroll: (E, F); test: (T, F), of one dtype; rows: (n,) ints.
    """
    out = np.empty(len(enroll_row))

    def work(first):
        part = slice(first, first + _TRIALS)
        out[part] = np.einsum("ij,ij->i", enroll[enroll_row[part]], test[test_row[part]])

    _in_blocks(work, len(out), _TRIALS, threads)
    return out


def cohort_statistics(vectors, cohort, top_n=None, threads=1):
    """Mean and population standard deviation of each vector's scores against the cohort.

    vectors: (N, F); cohort: (C, F); the score is their dot product.  top_n: only the
    highest top_n scores of each vector count; None or at least C: all of them.
    Returns two (N,) float64.  Exact: the top scores are selected, not estimated.
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
    """Symmetric normalisation: the mean of the score standardised from either side.

    score: (n,); rows: (n,) into the statistics, pairs (mean, deviation) from cohort_statistics.
    """
    enroll_mean, enroll_deviation = enroll_statistics
    test_mean, test_deviation = test_statistics
    return 0.5 * ((score - enroll_mean[enroll_row]) / enroll_deviation[enroll_row]
                  + (score - test_mean[test_row]) / test_deviation[test_row])
