"""Compares recordings by a cascade: rung after rung until one is sure (svq.bin.verify --cascade)."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable

from svq.backend.calibration import Calibration
from svq.backend.scores import rounded
from svq.cascade.ladder import Ladder, load_ladder, load_maps, mean_of_rung, sure, to_scale
from svq.errors import UserError
from svq.hardware import peak_bytes
from svq.verifier import Verifier


@dataclasses.dataclass(frozen=True)
class Said:
    """The answer of one rung. score: cosine. value: on the ladder's scale, compared with the threshold. delta: None at
    the last rung. load_seconds: 0 where the model was loaded before."""

    rung: str
    score: float
    value: float
    delta: float | None
    settled: bool
    load_seconds: float
    embed_seconds: float


@dataclasses.dataclass(frozen=True)
class CascadeVerification:
    """The decision of a cascade. said: the answers of the rungs that were needed; the last of them settled it."""

    said: tuple[Said, ...]
    threshold: float
    accepted: bool

    @property
    def rung(self) -> str:
        """The name of the rung that settled the trial."""
        return self.said[-1].rung

    @property
    def decision(self) -> str:
        """The decision in a word: accept or reject."""
        return "accept" if self.accepted else "reject"


class CascadeVerifier:
    """A cascade that compares recordings. It loads each model when it first needs it. options: `min_seconds`,
    `window_seconds` and `warn` of svq.verifier.Verifier. UserError for a ladder that `svq.bin.cascade choose` has not
    finished, and for one of other scores than the plain cosine."""

    def __init__(self, ladder: Ladder, path="the ladder", num_threads: int = 1, **options):
        if ladder.score != "cosine_none":
            raise UserError(f"{path}: its scores are {ladder.score}; two recordings are compared by the plain cosine "
                            "(cosine_none)")
        self.ladder, self.threshold = ladder, ladder.threshold(path)
        self.deltas = [*map(float, ladder.deltas(path)), None]
        self.maps, self.num_threads, self.options = load_maps(ladder, path), num_threads, options
        self.means = [mean_of_rung(rung, score_map) for rung, score_map in zip(ladder.rungs, self.maps)]
        self._verifiers: dict[int, Verifier] = {}

    @classmethod
    def load(cls, path, num_threads: int = 1, **options) -> CascadeVerifier:
        """Loads the cascade of a ladder's file, as `svq.bin.cascade choose` writes it; options: see the class."""
        return cls(load_ladder(path), path, num_threads, **options)

    def verify(self, enroll: Iterable, test) -> CascadeVerification:
        """Decides whether a recording is of an enrolled person, rung after rung until one is sure.

        enroll: recordings of that person; test: the one to compare with them; both as svq.verifier.Verifier.embed
        takes them. UserError naming a recording or model that cannot be used.
        """
        said: list[Said] = []
        enroll = list(enroll)
        for number, delta in enumerate(self.deltas):
            start = time.perf_counter()
            verifier = self._verifier(number, first=number == 0)
            loaded = time.perf_counter()
            score = float(rounded(verifier.score(verifier.enroll(enroll), verifier.embed(test))))  # as in score files
            value = float(to_scale(self.maps, number, score))
            settled = delta is None or bool(sure(value, self.threshold, delta))
            said.append(Said(self.ladder.rungs[number].name, score, value, delta, settled, loaded - start,
                             time.perf_counter() - loaded))
            if settled:
                break
        return CascadeVerification(tuple(said), self.threshold, bool(said[-1].value >= self.threshold))

    def _verifier(self, number: int, first: bool) -> Verifier:
        if number not in self._verifiers:
            from svq.deploy.runtimes import load_embedder

            rung, mean = self.ladder.rungs[number], self.means[number]
            embedder = load_embedder(rung.model, rung.backend, self.num_threads, rung.precision)
            if mean is not None and len(mean) != embedder.config.embed_dim:
                raise UserError(f"{rung.model}: embeddings of {embedder.config.embed_dim} values, rung {rung.name} "
                                f"subtracts a mean of {len(mean)}; take the one of this model")
            # The first rung has warned of the recordings already.
            options = self.options if first else self.options | {"warn": _silent}
            self._verifiers[number] = Verifier(embedder, None, mean, **options)
        return self._verifiers[number]


def _silent(line: str) -> None:
    """Drops a warning that was given already."""


def by_cascade(options, warn) -> dict:
    """Runs `svq.bin.verify --cascade`; gives a dict of the answers, the decision, seconds and peak memory.

    options: those of svq.bin.verify. warn: called with one line where a recording is short.
    """
    verifier = CascadeVerifier.load(options.cascade, options.num_threads, min_seconds=options.min_seconds,
                                    window_seconds=options.window_seconds, warn=warn)
    result = verifier.verify(options.enroll, options.test)
    return {
        "cascade": options.cascade, "enroll": options.enroll, "test": options.test,
        "rungs": [dataclasses.asdict(said) for said in result.said], "settled_by": result.rung,
        "rungs_in_ladder": len(verifier.deltas),
        "scale": "llr" if isinstance(verifier.maps[-1], Calibration) else "score",
        "threshold": result.threshold, "decision": result.decision,
        "load_seconds": sum(said.load_seconds for said in result.said),
        "embed_seconds": sum(said.embed_seconds for said in result.said), "peak_memory_bytes": peak_bytes(),
    }


def report_cascade(options, found: dict) -> None:
    """Prints the result of `by_cascade`: as JSON with --json, else a line for each rung asked and the decision."""
    if options.json:
        # JSON has no infinity: an infinite delta, "escalate all", is written as text.
        rungs = [said | {"delta": said["delta"] if said["delta"] != float("inf") else "inf"} for said in found["rungs"]]
        print(json.dumps(found | {"rungs": rungs}, indent=1, sort_keys=True, allow_nan=False))
        return
    width = max(len(said["rung"]) for said in found["rungs"])
    for said in found["rungs"]:
        apart = abs(said["value"] - found["threshold"])
        gate = "the last: settled" if said["delta"] is None else (
            f"{apart:.4f} from the threshold, delta {said['delta']:.4f}: {'settled' if said['settled'] else 'unsure'}")
        print(f"{said['rung']:{width}}  cosine {said['score']:.6f}, {found['scale']} {said['value']:.6f}; {gate}; "
              f"{said['embed_seconds']:.3f} s")
    print(f"threshold    {found['threshold']:.6f} (of the {found['scale']})")
    print(f"decision     {found['decision']}, settled by {found['settled_by']}, "
          f"{len(found['rungs'])} of {found['rungs_in_ladder']} rungs asked")
    print(f"load         {found['load_seconds']:.3f} s")
    print(f"embed        {found['embed_seconds']:.3f} s ({len(found['enroll']) + 1} recordings a rung)")
    print(f"peak memory  {found['peak_memory_bytes'] / 1e6:.0f} MB")
