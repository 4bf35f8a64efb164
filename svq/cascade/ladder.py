"""The ladder of a cascade: its systems from the cheapest to the most expensive, the operating point, and the gates.

    score: cosine_none
    operating: {p_target: 0.01}   # or {eer: true}: the threshold of the last rung's EER on development trials
    rungs:
    - {name: 2-bit, model: exp/small_kmqat2/model.svq, scores: exp/small_kmqat2/scores, map: logistic}
    - {name: float, model: exp/small_float, scores: exp/small_float/scores, map: logistic}

A user writes such a file. svq.bin.cascade choose fits the maps, fixes the threshold and the deltas on development
trials, and writes a ladder with all of them. Relative paths count from the working directory, or, where there is no
such file, from the folder of the ladder.

The scores of all rungs are brought onto one scale by the rung's `map`. `logistic`: a calibration of its own to
log-likelihood ratios (natural logarithm). `affine`, `isotonic`: a map to the last rung's scores, and then the last
rung's own map. `none`: the scores stay as they are.

The first rung that puts a trial farther from the threshold than its delta settles it; the last rung settles any trial.
This is section 6.1 of "On Low-Bit Quantization Errors in Speaker Verification: Diagnostic and Mitigation", for ladders
of any length. Values are scores on the common scale, float64. R rungs have R - 1 deltas, none negative.
"""

from __future__ import annotations

import dataclasses
import math
import os

import numpy as np

from svq.backend.calibration import SCORE, Calibration, Mismatch, scoring_of
from svq.backend.embeddings import read_vector
from svq.backend.metrics import bayes_threshold
from svq.backend.score_map import FITS, LOGISTIC, kind_of, load_map
from svq.config import load_config
from svq.errors import UserError

NONE = "none"
KINDS = (LOGISTIC, *FITS, NONE)


@dataclasses.dataclass(frozen=True)
class Rung:
    """A system of the ladder.

    model: model folder, .svq, .onnx or .xml. precision: of a nested model, which several rungs may share.
    scores: folder with <list>/<score>.score, for replay.
    map: one of KINDS, fitted by `choose`, or a JSON file that holds a map. mean: the mean embedding that is subtracted
    before the cosine, a file or `none`, where `map` does not say it. backend: the runtime; None: the one that the
    file is for.
    weight_bits: of all layers, in place of the model's own. activation_bits: None: 8 for an INT8 file, else 32, as only
    weights are quantized.
    bytes: of weights read for an embedding, in place of the size of the packed file.
    delta: the rung settles a trial that is farther than this from the threshold; the last rung has none.
    """

    name: str
    model: str
    precision: int | None = None
    scores: str | None = None
    map: str = LOGISTIC
    mean: str | None = None
    backend: str | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None
    bytes: int | None = None
    delta: float | None = dataclasses.field(default=None, metadata={"infinite": True})

    def __post_init__(self):
        if not self.name or any(c.isspace() or c == "/" for c in self.name):
            raise ValueError(f"name is {self.name!r}; give one word that can be a file's name")
        for key in ("precision", "weight_bits", "activation_bits", "bytes"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} is {value}; it must be at least 1")
        if self.delta is not None and not self.delta >= 0:
            raise ValueError(f"delta is {self.delta}; it must not be negative")


@dataclasses.dataclass(frozen=True)
class Operating:
    """The operating point. p_target, c_miss, c_fa: decide at Bayes' threshold for these. eer: decide instead where the
    last rung has as many misses as false alarms on development trials; `choose` writes that `threshold`."""

    p_target: float = 0.01
    c_miss: float = 1.0
    c_fa: float = 1.0
    eer: bool = False
    threshold: float | None = None

    def __post_init__(self):
        try:
            bayes_threshold(self.p_target, self.c_miss, self.c_fa)
        except UserError as error:
            raise ValueError(str(error)) from None
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError("threshold must be finite")

    def describe(self) -> str:
        """Says in words where the threshold comes from."""
        if self.eer:
            return "the threshold of the last rung's EER on the development list"
        if self.threshold not in (None, bayes_threshold(self.p_target, self.c_miss, self.c_fa)):
            return "a threshold that the ladder gives"
        return f"Bayes' threshold for a target prior of {self.p_target:g}, costs {self.c_miss:g} and {self.c_fa:g}"


@dataclasses.dataclass(frozen=True)
class Ladder:
    """A cascade's systems and gates. rungs: from the cheapest to the one that settles what is left. score: the kind of
    score, named as its files are. chosen: a record of how `choose` set the deltas."""

    rungs: tuple[Rung, ...]
    score: str = SCORE
    operating: Operating = Operating()
    chosen: dict | None = None

    def __post_init__(self):
        if len(self.rungs) < 2:
            raise ValueError("rungs: a cascade has two at least")
        names = [rung.name for rung in self.rungs]
        if len(set(names)) < len(names):
            raise ValueError(f"rungs: names must differ, not {', '.join(names)}")
        if self.rungs[-1].delta is not None:
            raise ValueError(f"rungs: {names[-1]} is the last and settles every trial; leave its delta out")
        if self.rungs[-1].map in FITS:
            raise ValueError(f"rungs: {names[-1]} is the last; its map is {LOGISTIC}, {NONE} or a calibration's file")
        if self.rungs[-1].map == NONE:
            for rung in self.rungs:
                if rung.map == LOGISTIC:
                    raise ValueError(f"rungs: {rung.name} is calibrated and the last rung is not: two scales")
            if not self.operating.eer and self.operating.threshold is None:
                raise ValueError("operating: plain scores have no Bayes' threshold; set eer, or calibrate the rungs")

    @property
    def names(self) -> list[str]:
        """The names of the rungs, the cheapest first."""
        return [rung.name for rung in self.rungs]

    def deltas(self, path="the ladder") -> np.ndarray:
        """Gives the deltas (R - 1,) of the gates. UserError, naming `path`, where one is not chosen yet."""
        missing = [rung.name for rung in self.rungs[:-1] if rung.delta is None]
        if missing:
            raise UserError(f"{path}: rung {missing[0]} has no delta; svq.bin.cascade choose sets them")
        return np.array([rung.delta for rung in self.rungs[:-1]])

    def threshold(self, path="the ladder") -> float:
        """Gives the threshold on the common scale. UserError, naming `path`, where it is an EER's not measured yet."""
        if self.operating.threshold is not None:
            return self.operating.threshold
        if self.operating.eer:
            raise UserError(f"{path}: its threshold is that of an EER not measured yet; run svq.bin.cascade choose")
        return bayes_threshold(self.operating.p_target, self.operating.c_miss, self.operating.c_fa)

    def gates(self) -> list[str]:
        """Writes threshold and deltas as text (a delta may be infinite), to tell runs of other settings apart."""
        return [f"{value:.9g}" for value in (self.threshold(), *self.deltas())]


def load_ladder(path) -> Ladder:
    """Reads a ladder. A relative path that leads nowhere from the working directory counts from the ladder's folder."""
    ladder = load_config(path, Ladder)
    folder = os.path.dirname(os.path.abspath(path))
    return dataclasses.replace(ladder, rungs=tuple(_located(rung, folder) for rung in ladder.rungs))


def _located(rung: Rung, folder: str) -> Rung:
    found = {}
    for key in ("model", "scores", "map", "mean"):
        value = getattr(rung, key)
        if value is None or value in KINDS or os.path.exists(value):
            continue
        if os.path.exists(os.path.join(folder, value)):
            found[key] = os.path.join(folder, value)
    return dataclasses.replace(rung, **found)


def load_maps(ladder: Ladder, path="the ladder") -> list:
    """Reads the map of every rung, None for `none`. UserError for one not fitted, unreadable or of another score."""
    found = []
    for rung in ladder.rungs:
        if rung.map in KINDS and rung.map != NONE:
            raise UserError(f"{path}: the map of rung {rung.name} is not fitted yet; svq.bin.cascade choose does it")
        found.append(None if rung.map == NONE else read_map(rung, ladder.score, path))
    check_maps(ladder, found, path)
    return found


def mean_of_rung(rung: Rung, score_map) -> np.ndarray | None:
    """Gives the mean embedding (D,) that a rung subtracts before the cosine; None where it subtracts nothing.

    score_map: the rung's map or None. UserError where neither rung nor map says which, or where they disagree.
    """
    mean = rung.mean if rung.mean in (None, NONE) else read_vector(rung.mean)
    if score_map is None and mean is None:
        raise UserError(f"rung {rung.name}: it has no map that would say which mean embedding is subtracted; give it "
                        "`mean: FILE` or `mean: none`")
    try:
        return scoring_of(score_map, mean)
    except Mismatch as error:
        raise UserError(f"rung {rung.name}: {error} (in a ladder: its key `mean`)") from None


def read_map(rung: Rung, score: str, path="the ladder"):
    """Reads the map in the file that the rung names. UserError for one that is unreadable or not of that score."""
    found = load_map(rung.map)
    if found.score not in (None, score):
        raise UserError(f"{rung.map}: a map of {found.score} scores; {path} has {score}")
    return found


def check_maps(ladder: Ladder, maps: list, path="the ladder") -> None:
    """Checks that the maps bring all rungs onto one scale; UserError where they do not."""
    last = maps[-1]
    if last is not None and not isinstance(last, Calibration):
        raise UserError(f"{path}: the map of the last rung is {kind_of(last)}; it can be a calibration or {NONE}")
    for rung, each in zip(ladder.rungs, maps):
        if last is None and isinstance(each, Calibration):
            raise UserError(f"{path}: rung {rung.name} is calibrated and the last rung is not: two scales; calibrate "
                            "both")


def to_scale(maps: list, rung: int, scores) -> np.ndarray:
    """Brings the scores (n,) of one rung onto the common scale, (n,) float64. maps: of all rungs."""
    own, last = maps[rung], maps[-1]
    values = np.asarray(scores, dtype=np.float64) if own is None else own(scores)
    return values if last is None or isinstance(own, Calibration) else last(values)


def all_to_scale(maps: list, scores) -> np.ndarray:
    """Brings the scores (R, n) of every rung onto the common scale, (R, n) float64."""
    return np.stack([to_scale(maps, rung, own) for rung, own in enumerate(scores)])


def sure(values, threshold: float, delta: float):
    """Says whether a rung with this delta settles trials with these values; bool, of the shape of `values`.

    It does not settle a value that is NaN. With an infinite delta it settles nothing at all.
    """
    return np.abs(np.asarray(values) - threshold) > delta


def settle(values, threshold: float, deltas) -> np.ndarray:
    """Finds the rung (n,) that settles each trial, from values (R, n) on the common scale and deltas (R - 1,)."""
    values = np.asarray(values, dtype=np.float64)
    if len(deltas) != len(values) - 1:
        raise ValueError(f"{len(deltas)} deltas for {len(values)} rungs")
    rung = np.full(values.shape[1], len(deltas))
    for r in reversed(range(len(deltas))):  # backwards, so that the first rung that is sure is written last
        rung[sure(values[r], threshold, deltas[r])] = r
    return rung


def reached(rung: np.ndarray, rungs: int) -> np.ndarray:
    """Marks the rungs that each trial went through, that which settled it included; gives (R, n) bool.

    rung: (n,) the rung that settled each trial. rungs: their number R.
    """
    return rung[None] >= np.arange(rungs)[:, None]


def pure(n: int, rungs: int, which: int) -> np.ndarray:
    """Marks one rung, number `which`, as the only one that each trial goes through; gives (R, n) bool."""
    return np.repeat(np.arange(rungs)[:, None] == which, n, axis=1)


def settled_values(values, rung: np.ndarray) -> np.ndarray:
    """Picks the value (n,) at which each trial was settled, from values (R, n) and rungs (n,)."""
    return np.asarray(values)[rung, np.arange(len(rung))]


def random_rungs(rung: np.ndarray, rungs: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the rungs (n,) of a random control: as many trials reach every rung as in `rung` (n,), but other ones."""
    counts = reached(rung, rungs).sum(axis=1)
    place = rng.permutation(len(rung))
    return (place[None] < counts[1:, None]).sum(axis=0)
