"""Compares recordings: is it the same speaker?

    >>> from svq import Verifier
    >>> verifier = Verifier.load("model.svq")                    # or model.onnx, model.xml, a model folder
    >>> voice = verifier.enroll(["ann1.wav", "ann2.mp3"])        # one recording or several of one person
    >>> result = verifier.decide(verifier.score(voice, verifier.embed("who.flac")), p_target=0.1)
    >>> result.decision
    'accept'
    >>> result.llr >= result.threshold
    True
    >>> result == verifier.verify(["ann1.wav", "ann2.mp3"], "who.flac", p_target=0.1)    # the same in one call
    True
    >>> voice.save("voices.svs", "ann")                          # kept for another day, see svq.voices
    >>> from svq.voices import Enrollment
    >>> verifier.score(Enrollment.load("voices.svs", "ann"), verifier.embed("who.flac")) == result.score
    True
    >>> verifier.embed(samples, rate=8000).shape                 # samples (T,) or (T, channels), such as soundfile's
    (16,)

The score is the cosine of the two embeddings, less the mean embedding that the model's calibration carries. The
calibration (slope and offset, fitted on a development list: svq.bin.calibrate) turns the score into a log-likelihood
ratio. The decision compares that with Bayes' threshold for the prior probability and the costs that the user states.
AS-norm and PLDA need a cohort or a second model: svq.bin.score has them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np

from svq.backend.calibration import PLAIN, Calibration, Mismatch, Verification, decide, mean_text, scoring_of
from svq.backend.embeddings import read_vector
from svq.backend.scoring import Cosine
from svq.data.audio import name_of, silence, sounding_seconds, windows_of
from svq.data.rxfilename import Rx
from svq.errors import UserError
from svq.voices import Enrollment, Origin, Voices

SHORTEST_WINDOW = 1.0  # seconds
LITTLE_SECONDS = 1.0  # with less sound an embedding says little, and a warning says so
_AT_LENGTH_1 = 1e-6  # rounding of the length of a float32 vector that was scaled to length 1


class Verifier:
    """A network and its calibration, which compare recordings and decide. Make one by `Verifier.load`.

    embedder: of svq.deploy.runtimes. calibration: a Calibration of its cosine scores, or None. mean: (D,), subtracted
    from embeddings, or None. why_uncalibrated: the message where a log-likelihood ratio is asked for and there is none.
    min_seconds: recordings with less sound are an error. window_seconds: longer recordings are cut into equal windows
    of at most this length, and the embeddings averaged, weighted by seconds of sound, so that an hour takes no more
    memory than a minute; 0: never cut, else at least SHORTEST_WINDOW. warn: called with one line where a recording is
    short, or has fewer samples a second than the network was trained on.
    """

    def __init__(self, embedder, calibration: Calibration | None = None, mean: np.ndarray | None = None,
                 why_uncalibrated: str = "there is no calibration", min_seconds: float = 0.3,
                 window_seconds: float = 60.0, warn: Callable[[str], None] = warnings.warn):
        if not 0 <= min_seconds < np.inf:
            raise UserError(f"min_seconds is {min_seconds}; it must not be negative")
        if window_seconds != 0 and not SHORTEST_WINDOW <= window_seconds < np.inf:
            raise UserError(f"window_seconds is {window_seconds}; it must be 0, for no windows, or at least "
                            f"{SHORTEST_WINDOW:g}")
        if mean is not None and embedder.metadata.scaled:
            raise UserError(f"{embedder.path}: exported for sherpa-onnx, its embeddings have length 1 and no mean embedding "
                            "is to be subtracted from them; give the calibration to svq.bin.export, which puts its mean "
                            "into the file")
        self.embedder, self.calibration, self.mean = embedder, calibration, mean
        self.why_uncalibrated, self.warn = why_uncalibrated, warn
        self.min_seconds, self.window_seconds = min_seconds, window_seconds
        self._cosine = Cosine(mean)
        self.origin = Origin(os.path.basename(embedder.path.rstrip(os.sep)), embedder.network, embedder.arithmetic,
                             embedder.config.embed_dim, mean_text(mean))

    @classmethod
    def load(cls, path=None, backend: str | None = None, num_threads: int = 1, calibration=None, mean=None,
             **options) -> Verifier:
        """Loads the verifier of a model folder, a .svq, .onnx or .xml file; None: of the model in the box (svq.ready).

        backend: torch, onnxruntime or openvino; None: the one that the file is for. calibration: a Calibration, or the
        JSON file of svq.bin.calibrate; None: the one in the model. mean: the mean embedding that is subtracted before
        the cosine, (D,) or a file, where the calibration does not hold it; "none": none is. options: `min_seconds`,
        `window_seconds` and `warn`, see the class.
        UserError for a file that cannot be read, and where `calibration` belongs to another score. A calibration in the
        model that belongs to another score is not used: scores are plain, and `why_uncalibrated` says why.
        """
        from svq import ready
        from svq.deploy.runtimes import load_embedder

        path = ready.path() if path is None else path
        embedder = load_embedder(path, backend, num_threads)
        named = None
        if isinstance(mean, (str, os.PathLike)) and mean != PLAIN:
            named, mean = mean, read_vector(mean)
        given, source = calibration is not None, path
        if isinstance(calibration, (str, os.PathLike)):
            source, calibration = calibration, Calibration.load(calibration)
        elif not given and embedder.calibration is not None:
            calibration = Calibration.from_dict(embedder.calibration, path)
        why = f"{path}: has no calibration; pack or export it with one, or give one (--calibration)"
        try:
            subtracted = scoring_of(calibration, mean)
        except Mismatch as error:
            why = f"{source}: {error}"
            if given:
                raise UserError(why) from None
            calibration, subtracted = None, scoring_of(None, mean)
        if subtracted is not None and len(subtracted) != embedder.config.embed_dim:
            raise UserError(f"{named or source}: a mean embedding of {len(subtracted)} values, the model's embeddings have "
                            f"{embedder.config.embed_dim}; take the one of this model")
        return cls(embedder, calibration, subtracted, why, **options)

    @property
    def rate(self) -> int:
        """Samples per second of the model's front end; recordings of others are resampled to it."""
        return self.embedder.config.front_end.rate

    def embed(self, recording, rate: int | None = None) -> np.ndarray:
        """Embeds a recording; gives (D,) float32, as svq.bin.extract does for one of `window_seconds` or less.

        recording: a file name, an `Rx` of svq.data.rxfilename (a line of wav.scp), or samples (T,) or (T, channels),
        floats in [-1, 1] or signed integers of any width. rate: of the samples, in Hz; None: the model's own.
        UserError, naming the recording, where it is unreadable, silent (svq.data.audio) or too short.
        """
        return self._embed(recording, rate)[0]

    def _embed(self, recording, rate: int | None = None) -> tuple[np.ndarray, float]:
        """Embeds a recording; gives the embedding and the seconds of sound."""
        if isinstance(recording, Enrollment):
            raise UserError("a recording is needed, not a voice that is enrolled already; score() compares voices")
        name, shortest = name_of(recording), self.embedder.front_end.bank.shortest
        if rate is not None and not (0 < rate < np.inf and rate == int(rate)):
            raise UserError(f"{name}: a rate of {rate} Hz; give the whole number of the samples', such as "
                            f"{self.rate}")
        vectors, weights, seconds, heard = [], [], 0.0, 0.0
        own_rate = None if rate is None else int(rate)
        for window in windows_of(recording, self.rate, self.window_seconds, own_rate, lambda own: self._look_at(name, own.rate)):
            seconds += len(window) / self.rate
            sound = sounding_seconds(window, self.rate)
            heard += sound
            if sound and len(window) >= shortest:
                vectors.append(self.embedder.waveforms(window[None])[0])
                weights.append(sound)
        self._check(name, seconds, heard, shortest / self.rate)
        vector = vectors[0] if len(vectors) == 1 else np.average(vectors, axis=0, weights=weights)
        if not np.isfinite(vector).all():
            raise UserError(f"{name}: its embedding is not finite; the model is damaged, or the recording is")
        return vector.astype(np.float32), heard

    def _look_at(self, name: str, rate: int) -> None:
        """Warns where a recording lacks frequencies that the network listens to."""
        if rate < self.rate:
            self.warn(f"{name}: {rate} samples a second, the model takes {self.rate}: it hears nothing above {rate / 2:g} Hz, "
                      f"where other voices go on, and scores are lower; record at {self.rate} or take a model of {rate}")

    def _check(self, name: str, seconds: float, heard: float, frame: float) -> None:
        """Checks the seconds of sound: UserError where they are too few to embed, a warning where they are few."""
        if not heard:
            raise UserError(f"{name}: {silence(seconds)}")
        if heard < self.min_seconds or seconds < frame:
            raise UserError(f"{name}: {heard:.3g} s of sound are too short to tell a voice; record "
                            f"{max(self.min_seconds, frame):g} s or more (--min-seconds sets the least)")
        if heard < LITTLE_SECONDS:
            self.warn(f"{name}: {heard:.3g} s of sound are little; with less than {LITTLE_SECONDS:g} s errors are "
                      "many times as frequent")

    def enroll(self, recordings: Iterable) -> Enrollment:
        """Makes one voice from recordings of one person, or from their embeddings, (D,) each.

        The mean is subtracted from each embedding, each is scaled to length 1, they are averaged, and the average is
        scaled again, as svq.bin.score does with --enroll-spk2utt. recordings: as `embed` takes them; a file name counts
        as a list of one. UserError for samples outside a list, whose rows would count as recordings, and for an array
        of length 1 where a mean is subtracted, see `score`.
        """
        dim = self.embedder.config.embed_dim
        if isinstance(recordings, (str, os.PathLike, Rx, Enrollment)):
            recordings = [recordings]
        if isinstance(recordings, np.ndarray) and not (recordings.ndim == 2 and recordings.shape[1] == dim):
            raise UserError(f"an array {recordings.shape} to enroll: put samples or an embedding in a list, "
                            f"enroll([samples]); an array of embeddings is (n, {dim})")
        found = [(self._raw(x), np.nan) if _is_embedding(x, dim) else self._embed(x) for x in recordings]
        if not found:
            raise UserError("no recording to enroll")
        processed = self._cosine.process(np.stack([vector for vector, _ in found]), source="the recordings")
        seconds = sum(heard for _, heard in found)
        known = None if np.isnan(seconds) else round(seconds, 3)
        if len(processed) == 1:
            return Enrollment(self.origin, processed[0], 1, known)
        models, _ = self._cosine.models(processed.mean(axis=0, dtype=np.float64)[None], np.ones(1))
        return Enrollment(self.origin, models[0], len(found), known)

    def score(self, a, b) -> float:
        """Computes the cosine of two Enrollments or embeddings (D,), in [-1, 1], as svq.bin.score --backend cosine.

        Give embeddings as `embed` of this model returns them (an array does not tell whose it is): the mean is
        subtracted here. UserError for an Enrollment of another model, arithmetic or mean. UserError too, where a mean
        is subtracted, for an array of length 1: it was centred and scaled already, and the mean would be subtracted
        twice. Embeddings have other lengths, unless the network itself scales them to 1; then they are accepted.
        """
        return self._voice(a).cosine(self._voice(b))

    def rank(self, voices: Voices, test) -> list[tuple[str, float]]:
        """Ranks the voices of a store by their cosines to a recording, an embedding (D,) or a voice.

        Gives (name, cosine) pairs, the highest first, equal ones by name. UserError for a store of another origin, and
        as `embed`.
        """
        voices.origin.check(self.origin, voices.path)
        voice = test if isinstance(test, Enrollment) else self.enroll([test])
        found = [(name, voices[name].cosine(voice)) for name in voices]
        return sorted(found, key=lambda row: (-row[1], row[0]))

    def _voice(self, x) -> Enrollment:
        """Gives an Enrollment as it is, or makes one of an embedding (D,); UserError for anything else, and for an
        Enrollment of another model."""
        if isinstance(x, Enrollment):
            x.origin.check(self.origin, f"a voice of {x.origin.file}")
            return x
        dim = self.embedder.config.embed_dim
        try:
            vector = np.asarray(x, dtype=np.float32)
        except (TypeError, ValueError):
            raise UserError(f"{name_of(x)}: score() compares what enroll() and embed() return") from None
        if vector.shape != (dim,):
            raise UserError(f"an array {vector.shape} to score, this model's embeddings are ({dim},); score() compares "
                            "what enroll() and embed() return")
        return self.enroll([vector])

    def _raw(self, vector: np.ndarray) -> np.ndarray:
        """Gives an embedding back as it is; UserError where it was centred already, see `score`."""
        length = np.linalg.norm(vector.astype(np.float64))
        if self.mean is not None and abs(length - 1) <= _AT_LENGTH_1 and not self._gives_length_1:
            raise UserError("an array of length 1 to compare: it was centred and scaled already, and the mean would be "
                            "subtracted twice; give what embed() returns, and keep voices by Enrollment.save()")
        return vector

    @cached_property
    def _gives_length_1(self) -> bool:
        """Whether the network itself scales embeddings to length 1, as the embedding of a second of noise shows."""
        noise = 0.1 * np.random.default_rng(0).standard_normal((1, self.rate), dtype=np.float32)
        try:
            return bool(abs(np.linalg.norm(self.embedder.waveforms(noise).astype(np.float64)) - 1) <= _AT_LENGTH_1)
        except UserError:  # the network takes another duration only
            return False

    def llr(self, score: float) -> float:
        """Converts a score to a log-likelihood ratio (natural logarithm); UserError without a calibration of it."""
        if self.calibration is None:
            raise UserError(self.why_uncalibrated)
        return float(self.calibration(score))

    def decide(self, score: float, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0,
               threshold: float | None = None) -> Verification:
        """Decides by Bayes' threshold on the log-likelihood ratio, see svq.backend.metrics.bayes_threshold.

        p_target: prior probability of a target trial. c_miss, c_fa: costs of rejecting the right speaker and of
        accepting a wrong one. threshold: used in place of Bayes': of the log-likelihood ratio, or of the score where
        there is no calibration. Without a calibration and a threshold nothing is decided.
        """
        return decide(score, self.calibration, p_target, c_miss, c_fa, threshold)

    def verify(self, enroll: Iterable, test, **costs) -> Verification:
        """Compares a recording with recordings of one person and decides: `enroll`, `embed`, `score`, `decide` in one.

        costs: the options of `decide`.
        """
        return self.decide(self.score(self.enroll(enroll), self.embed(test)), **costs)


def _is_embedding(x, dim: int) -> bool:
    return isinstance(x, np.ndarray) and x.shape == (dim,)
