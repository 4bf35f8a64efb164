"""Two-covariance PLDA: x = mu + y + e, y ~ N(0, B) a speaker, e ~ N(0, W) an utterance.

Bruemmer and de Villiers, "The speaker partitioning problem" (Odyssey 2010), section 4;
length normalisation: Garcia-Romero and Espy-Wilson (Interspeech 2011).  Training is
exact EM on the means and scatters of the speakers, in float64. Where speakers are few
for the size of the embeddings, shrunk moments take the place of EM (`from_few`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from svq.atomic import atomic_path
from svq.backend.embeddings import add_by_group, unit_length
from svq.errors import UserError
from svq.files import require_file


def oas_intensity(covariance, degrees):
    """Estimates how far a sample covariance should go towards equal variances: 0 not at all, 1 all the way.

    covariance: (d, d), symmetric. degrees: its degrees of freedom. The estimate is the fixed point of the oracle's
    iteration for Gaussian vectors, which needs no more than the covariance itself (Chen, Wiesel, Eldar and Hero,
    "Shrinkage algorithms for MMSE covariance estimation", IEEE Transactions on Signal Processing 2010, equation 23).
    """
    dim, trace, square = len(covariance), np.trace(covariance), np.sum(covariance ** 2)
    spread = (degrees + 1 - 2 / dim) * (square - trace ** 2 / dim)
    wanted = (1 - 2 / dim) * square + trace ** 2
    return float(wanted / spread) if spread > wanted else 1.0


def shrink(covariance, intensity):
    """Draws a covariance (d, d) towards the identity times its mean variance, by `intensity` from 0 to 1."""
    dim = len(covariance)
    return (1 - intensity) * covariance + intensity * np.trace(covariance) / dim * np.eye(dim)


FORMAT = "svq-plda-1"
# EM takes at least so many speakers, and further utterances of them, for each value of an embedding. With fewer,
# simulated and real embeddings alike had a higher EER by EM than by shrunk moments, and often than by the cosine.
PLENTY = 10
# Rounding leaves differences between copies: their squares are at most this share of the squares of embeddings.
COPIES = 1e-10


@dataclass
class SpeakerStatistics:
    """The moments of training embeddings by speaker.

    counts: (K,) utterances per speaker; means: (K, d); within: (d, d), the sum over all
    utterances of the outer product of the deviation from the speaker's mean."""

    counts: np.ndarray
    means: np.ndarray
    within: np.ndarray

    @classmethod
    def collect(cls, blocks, speakers):
        """Collects the moments of `speakers` speakers from blocks of ((b, d) vectors, (b,) non-decreasing numbers)."""
        sums = counts = scatter = None
        for x, group in blocks:
            x = np.asarray(x, dtype=np.float64)
            if sums is None:
                sums, scatter = np.zeros((speakers, x.shape[1])), np.zeros((x.shape[1],) * 2)
                counts = np.zeros(speakers, dtype=np.int64)
            add_by_group(sums, x, group)
            counts += np.bincount(group, minlength=speakers)
            scatter += x.T @ x
        means = sums / counts[:, None]
        within = scatter - sums.T @ means
        return cls(counts, means, 0.5 * (within + within.T))

    @property
    def total(self):
        """The number of utterances of all speakers."""
        return int(self.counts.sum())

    @property
    def degrees(self):
        """Degrees of freedom of `within`: the utterances beyond the first of each speaker."""
        return self.total - len(self.counts)

    def few(self):
        """Says whether there are too few speakers or utterances for EM on vectors of so many values."""
        return min(len(self.counts) - 1, self.degrees) < PLENTY * self.means.shape[1]

    def check(self):
        """Raises UserError where no PLDA can be trained, however regularised."""
        if self.degrees < 1 or len(self.counts) < 2:
            raise UserError("PLDA needs at least 2 speakers, and speakers with more than one utterance: "
                            f"{len(self.counts)} speakers with {self.total} utterances given")
        within = np.trace(self.within)
        if within <= COPIES * (within + np.sum(self.counts[:, None] * self.means ** 2)):
            raise UserError("PLDA needs utterances of a speaker that differ: those given are copies of one another; "
                            "give other recordings of the speakers")


def eigen_floor(matrix, floor):
    """Computes eigenvalues, raised to floor x their mean at least, and eigenvectors (columns) of a symmetric matrix."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    least = floor * max(values.mean(), np.finfo(np.float64).tiny)
    return np.maximum(values, least), vectors


def joint_diagonalize(between, within, floor):
    """Finds a transform T (d, d) and psi (d,), falling, psi >= 0, with T W T' = I and T B T' = diag(psi).

    B, W: `between` and `within`, (d, d). floor: least eigenvalue of `within`, relative to the mean one.
    """
    values, vectors = eigen_floor(within, floor)
    whiten = vectors.T / np.sqrt(values)[:, None]
    psi, rotation = np.linalg.eigh(whiten @ between @ whiten.T)
    return rotation[:, ::-1].T @ whiten, np.maximum(psi[::-1], 0.0)


def lda(statistics, dim, floor=1e-6):
    """Computes the projection (D, dim) of linear discriminant analysis; it makes the within-speaker covariance white.

    It keeps the directions of largest between- over within-speaker variance. floor: least
    eigenvalue of the within-speaker covariance, relative to the mean one.
    """
    mean = statistics.counts @ statistics.means / statistics.total
    centred = statistics.means - mean
    between = (centred * statistics.counts[:, None]).T @ centred / statistics.total
    transform, _ = joint_diagonalize(between, statistics.within / statistics.total, floor)
    return transform[:dim].T


class Plda:
    """A trained back end, from raw embeddings (D values) to log-likelihood ratios.

    centre (D,), lda (D, d): turn a raw embedding into a `process`ed vector of length sqrt(d).
    mean (d,), transform (d, d), psi (d,): the model, with within-speaker covariance I and
    between-speaker covariance diag(psi) after the transform.  All float64.
    """

    def __init__(self, centre, lda, mean, transform, psi):
        self.centre, self.lda, self.mean, self.transform, self.psi = (
            np.asarray(a, dtype=np.float64) for a in (centre, lda, mean, transform, psi))

    def process(self, x, ids=None, source="embeddings"):
        """Processes raw embeddings (N, D) into (N, d): subtracts the centre, applies LDA, scales to length sqrt(d)."""
        if x.shape[1] != len(self.centre):
            raise UserError(f"{source}: embeddings of {x.shape[1]} values for a PLDA of {len(self.centre)}")
        return self.unit((x.astype(np.float64) - self.centre) @ self.lda, ids, source)

    def unit(self, x, ids=None, source="embeddings"):
        """Scales the rows of (N, d) to length sqrt(d)."""
        return unit_length(x, ids, source) * np.sqrt(x.shape[1])

    def project(self, x):
        """Maps processed vectors (N, d) into the space where both covariances are diagonal."""
        return (x - self.mean) @ self.transform.T

    def enroll_side(self, x, counts=1):
        """Gives rows (N, 2d + 1) whose dot product with rows of `test_side` is the log-likelihood ratio.

        x: (N, d) processed vectors, each the average of `counts` ((N,) or 1) utterances.
        The ratio is log p(t | e) - log p(t), from the posterior mean of the speaker and
        the predictive variance, per dimension. The squares are written out so that the
        terms of t, t^2 and 1 stand apart.
        """
        e = self.project(x)
        n = np.broadcast_to(np.asarray(counts, dtype=np.float64), len(e))[:, None]
        gain = n * self.psi / (n * self.psi + 1)
        variance = 1 + self.psi / (n * self.psi + 1)
        constant = 0.5 * np.sum(np.log1p(self.psi) - np.log(variance) - (gain * e) ** 2 / variance, axis=1)
        return np.concatenate([gain * e / variance, 0.5 / (1 + self.psi) - 0.5 / variance, constant[:, None]], axis=1)

    def test_side(self, x):
        """Gives the rows (N, 2d + 1) of processed test vectors (N, d); see `enroll_side`."""
        t = self.project(x)
        return np.concatenate([t, t * t, np.ones((len(t), 1))], axis=1)

    def save(self, path):
        """Writes the model as safetensors to `path`, atomically."""
        from safetensors.numpy import save_file
        arrays = {name: np.ascontiguousarray(getattr(self, name))
                  for name in ("centre", "lda", "mean", "transform", "psi")}
        with atomic_path(path) as temporary:
            # Only one metadata key: the order of several is not defined, and every run must give the same bytes.
            save_file(arrays, temporary, metadata={"svq": json.dumps({"format": FORMAT})})

    @classmethod
    def load(cls, path):
        """Reads a model from safetensors file `path`. UserError where it is missing or no PLDA model."""
        from safetensors import SafetensorError, safe_open
        try:
            with safe_open(str(require_file(path)), framework="numpy") as stream:
                metadata = json.loads((stream.metadata() or {}).get("svq", "{}"))
                arrays = {name: stream.get_tensor(name) for name in stream.keys()}
        except FileNotFoundError:
            raise UserError(f"{path} is missing; steps/train_plda.sh makes it") from None
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path}: not a PLDA model: {error}") from None
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
            raise UserError(f"{path}: not a PLDA model of format {FORMAT}")
        if arrays.keys() != {"centre", "lda", "mean", "transform", "psi"} or arrays["lda"].ndim != 2:
            raise UserError(f"{path}: not a PLDA model: it holds {', '.join(arrays) or 'nothing'}")
        d = arrays["lda"].shape[1]
        shapes = {"centre": (len(arrays["lda"]),), "lda": arrays["lda"].shape, "mean": (d,), "transform": (d, d),
                  "psi": (d,)}
        for name, array in arrays.items():
            if array.shape != shapes[name] or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise UserError(f"{path}: not a PLDA model: {name} is not {shapes[name]} finite numbers")
        if (arrays["psi"] < 0).any():
            raise UserError(f"{path}: not a PLDA model: psi, a variance, is below 0")
        return cls(**arrays)


class TwoCovariance:
    """The generative model and its EM.  mean (d,); between, within: covariances (d, d)."""

    def __init__(self, mean, between, within, floor=1e-6):
        self.mean, self.between, self.within, self.floor = mean, between, within, floor

    @classmethod
    def start(cls, statistics, floor=1e-6):
        """Makes a model from the moments: the pooled within-speaker covariance, and that of the speaker means."""
        statistics.check()
        mean = statistics.counts @ statistics.means / statistics.total
        centred = statistics.means - mean
        return cls(mean, centred.T @ centred / len(centred), statistics.within / statistics.degrees, floor)

    def log_likelihood(self, statistics):
        """Computes the log-likelihood of all utterances, in nats."""
        return self._expect(statistics)[0]

    def _expect(self, statistics):
        """Computes the E step: log-likelihood, posterior means (K, d) of the speakers, the inverse of the transform,
        and posterior variances (K, d) in the transformed space."""
        n = statistics.counts[:, None].astype(np.float64)
        transform, psi = joint_diagonalize(self.between, self.within, self.floor)
        inverse = np.linalg.inv(transform)
        z = (statistics.means - self.mean) @ transform.T
        # |W| = |T|^-2; a speaker's n vectors split into their scatter and their mean.
        log_det = np.linalg.slogdet(transform)[1]
        total, dim = statistics.total, len(psi)
        likelihood = (total * log_det - 0.5 * total * dim * np.log(2 * np.pi)
                      - 0.5 * np.einsum("ij,jk,ik->", transform, statistics.within, transform, optimize=True)
                      - 0.5 * np.sum(np.log1p(n * psi) + n * z ** 2 / (1 + n * psi)))
        variance = psi / (1 + n * psi)
        speakers = (n * variance * z) @ inverse.T
        return likelihood, speakers, inverse, variance

    def step(self, statistics):
        """Makes one EM iteration in place, and gives the log-likelihood before it, in nats."""
        likelihood, speakers, inverse, variance = self._expect(statistics)
        n = statistics.counts[:, None].astype(np.float64)
        total = statistics.total
        self.between = (speakers.T @ speakers + (inverse * variance.sum(axis=0)) @ inverse.T) / len(n)
        self.mean = np.sum(n * (statistics.means - speakers), axis=0) / total
        rest = statistics.means - self.mean - speakers
        spread = (inverse * (n * variance).sum(axis=0)) @ inverse.T
        self.within = (statistics.within + (n * rest).T @ rest + spread) / total
        return likelihood


def dimensions(statistics, lda_dim, report):
    """Gives the number of dimensions that LDA keeps; `report` is called with a line where it is not `lda_dim`.

    K speakers tell K - 1 directions apart. Where more are asked for, the data do not tell which, and all are kept.
    lda_dim: 0 keeps all. UserError for one dimension.
    """
    speakers, values = statistics.means.shape
    if min(values, lda_dim or values) < 2:
        raise UserError("PLDA of one dimension: length normalisation leaves no more than its sign; "
                        "give --lda-dim 0 or at least 2, and embeddings of more values")
    if not lda_dim or lda_dim <= min(values, speakers - 1):
        return lda_dim or values
    report(f"LDA to {values} dimensions, not {lda_dim}: {values} values, {speakers} speakers")
    return values


def from_few(raw, dim, floor=1e-6, report=lambda line: None):
    """Makes a Plda of fewer utterances than EM needs; the fewer they are, the nearer it comes to the cosine.

    raw: SpeakerStatistics of raw embeddings. dim: dimensions kept. floor, report: as in `train`. The covariances within
    speakers and of the speakers' means are drawn towards equal variances, by intensities that follow from the data
    (`oas_intensity`), and made diagonal together. The variances of the means are then drawn once more. UserError where
    speakers differ no more than their utterances do.
    """
    means = raw.means - raw.means.mean(axis=0)
    within, spread = raw.within / raw.degrees, means.T @ means / (len(means) - 1)
    # The intensity is derived for Gaussians, and embeddings of speech have heavier tails. Its square root did better
    # on real ones at nearly every size of the training set. On Gaussians it costs something only where a few
    # directions have most of the variance within speakers.
    in_speakers = oas_intensity(within, raw.degrees) ** 0.5
    of_means = oas_intensity(spread, len(means) - 1)
    transform, variances = joint_diagonalize(shrink(spread, of_means), shrink(within, in_speakers), floor)
    transform, variances = transform[:dim], variances[:dim]
    # The directions were chosen on these very speakers, who stand farther apart there than others will.
    again = oas_intensity(transform @ spread @ transform.T, len(means) - 1)
    variances = np.diag(shrink(np.diag(variances), again))
    psi = np.maximum(variances - np.mean(1 / raw.counts), 0.0)      # a mean of n has 1 / n of the variance within
    if not psi.any():
        raise UserError("PLDA finds that the speakers differ no more than the utterances of each do; "
                        "give more utterances, and check that spk2utt belongs to these embeddings")
    report(f"few for {raw.means.shape[1]} values: {raw.total} utterances of {len(means)} speakers; no EM, covariances "
           f"shrunk, within speakers by {in_speakers:.2f}, of their means by {of_means:.2f} and {again:.2f}")
    centre = raw.counts @ raw.means / raw.total
    scatter = raw.within + (raw.means - centre).T @ ((raw.means - centre) * raw.counts[:, None])
    length = np.sqrt(np.trace(transform @ scatter @ transform.T) / raw.total / dim)     # before it is made 1
    return Plda(centre, transform.T, np.zeros(dim), length * np.eye(dim), psi)


def train(blocks, speakers, lda_dim=0, iterations=10, floor=1e-6, report=lambda line: None):
    """Trains a Plda on raw embeddings of D values.

    blocks: a function returning an iterator over ((b, D) raw embeddings, (b,) speaker
    numbers, non-decreasing), called twice.  speakers: their number.  lda_dim: dimensions
    kept; 0, or more than D or speakers - 1, keeps all D.  floor: least eigenvalue of the
    within-speaker covariances relative to the mean one.  report: called with a line
    per iteration.  With fewer than PLENTY speakers, or further utterances of them, for
    each of the D values, `from_few` takes the place of EM.  UserError where the data
    cannot make a model: one speaker, one utterance of each, copies.
    """
    raw = SpeakerStatistics.collect(blocks(), speakers)
    raw.check()
    dim = dimensions(raw, lda_dim, report)
    if raw.few():
        return from_few(raw, dim, floor, report)
    centre = raw.counts @ raw.means / raw.total
    model = Plda(centre, lda(raw, dim, floor), np.zeros(dim), np.eye(dim), np.ones(dim))
    statistics = SpeakerStatistics.collect(((model.process(x), group) for x, group in blocks()), speakers)
    gaussians = TwoCovariance.start(statistics, floor)
    for i in range(iterations):
        likelihood = gaussians.step(statistics) / statistics.total
        report(f"iteration {i}: log-likelihood {likelihood:.6f} per utterance")
    report(f"trained: log-likelihood {gaussians.log_likelihood(statistics) / statistics.total:.6f} per utterance")
    transform, psi = joint_diagonalize(gaussians.between, gaussians.within, floor)
    return Plda(centre, model.lda, gaussians.mean, transform, psi)
