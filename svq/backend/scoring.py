"""From a trial list and embeddings to scores, for every back end alike.

A back end turns embeddings into rows for the enrolment and the test side whose dot
product is the score, so that trials and cohort scores are plain matrix products.
"""

from dataclasses import dataclass

import numpy as np

from svq.backend import norm
from svq.backend.embeddings import add_by_group, unit_length
from svq.errors import UserError


class Cosine:
    """Cosine similarity after subtracting a mean embedding (of training or cohort utterances)."""

    def __init__(self, mean=None):
        self.mean = mean

    def process(self, x, ids=None, source="embeddings"):
        """(N, D) float32: centred, scaled to length 1."""
        if self.mean is not None and len(self.mean) != x.shape[1]:
            raise UserError(f"{source}: embeddings of {x.shape[1]} values, a mean of {len(self.mean)}")
        return unit_length(x if self.mean is None else x - self.mean, ids, source)

    def models(self, average, counts):
        """Averages of processed embeddings as enrolment vectors, each with its count."""
        return unit_length(average.astype(np.float32)), np.ones(len(average))

    def enroll_side(self, x, counts=1):
        return x

    def test_side(self, x):
        return x


class PldaScores:
    """PLDA log-likelihood ratios.  by_the_book: a model of n utterances keeps its n in the
    closed form; otherwise its average is scaled back to full length and counts as one."""

    def __init__(self, plda, by_the_book=False):
        self.plda, self.by_the_book = plda, by_the_book
        self.process, self.enroll_side, self.test_side = plda.process, plda.enroll_side, plda.test_side

    def models(self, average, counts):
        if self.by_the_book:
            return average, counts.astype(np.float64)
        return self.plda.unit(average), np.ones(len(average))


@dataclass
class Prepared:
    """Rows of a trial list's two sides.  enroll, test: (E, F) and (T, F), the same array
    where `shared`; enroll_row, test_row: (n,) into them."""

    enroll: np.ndarray
    test: np.ndarray
    enroll_row: np.ndarray
    test_row: np.ndarray
    test_as_enroll: np.ndarray
    shared: bool


def _used(rows, count):
    """The distinct rows in rising order, and each row's place among them."""
    mark = np.zeros(count, dtype=bool)
    mark[rows] = True
    place = np.cumsum(mark, dtype=np.int32) - 1
    return np.flatnonzero(mark), place[rows]


def prepare(trials, reader, backend, groups=None):
    """Read what the trials need, once each, and turn it into rows.

    trials: scores.Trials; reader: EmbeddingReader; groups: Groups of enroll.spk2utt, or
    None where the enrolment ids are utterances.  UserError that lists missing ids.
    """
    if groups is None:
        used, row = _used(np.concatenate(reader.rows(trials.enroll, trials.test)), len(reader))
        x = backend.process(reader.read(used), reader.ids.take(used), reader.path)
        n = len(trials)
        enroll, test = backend.enroll_side(x), backend.test_side(x)
        return Prepared(enroll, test, row[:n], row[n:], enroll, True)
    model_row, = groups.index.require("enrolment model", groups.path, trials.enroll)
    test_row, = reader.rows(trials.test)
    model, enroll_row = _used(model_row, len(groups.names))
    used, test_row = _used(test_row, len(reader))
    x = backend.process(reader.read(used), reader.ids.take(used), reader.path)
    average, counts = _averages(groups, reader, backend)
    vectors, counts = backend.models(average[model], counts[model])
    return Prepared(backend.enroll_side(vectors, counts), backend.test_side(x), enroll_row, test_row,
                    backend.enroll_side(x), False)


def _averages(groups, reader, backend):
    """(g, F) float64 means of processed embeddings by model, and (g,) counts."""
    sums = None
    for block, group in groups.blocks(reader):
        x = backend.process(block, source=reader.path)
        if sums is None:
            sums = np.zeros((len(groups.names), x.shape[1]))
        add_by_group(sums, x, group)
    return sums / groups.counts[:, None], groups.counts


def raw_scores(prepared, threads=1):
    """(n,) float64, in the order of the trials."""
    return norm.pair_scores(prepared.enroll, prepared.test, prepared.enroll_row, prepared.test_row, threads)


def normalized_scores(score, prepared, backend, cohort, top_n=None, threads=1):
    """Scores after S-norm (top_n None) or AS-norm.

    score: (n,) raw scores; cohort: (C, D) raw embeddings of cohort speakers (their means).
    Only embeddings that occur in trials are compared with the cohort.
    """
    cohort_rows = backend.test_side(backend.process(cohort, source="cohort"))
    enroll = norm.cohort_statistics(prepared.enroll, cohort_rows, top_n, threads)
    test = enroll if prepared.shared else norm.cohort_statistics(prepared.test_as_enroll, cohort_rows, top_n, threads)
    return norm.normalize(score, prepared.enroll_row, prepared.test_row, enroll, test)
