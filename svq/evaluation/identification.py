"""Closed-set identification: which of the enrolled speakers is it?

A probe is right at 1 (at k) where its own speaker's score is the best (among the k best); ties count against it, so a
network that says the same of everyone is never right.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from svq.backend.embeddings import unit_length
from svq.config import to_dict
from svq.evaluation.segments import embed_segments, plan_segments


class Identified(NamedTuple):
    """Of each probe (P,): rank of its own speaker from 1, their score, the best scored other speaker and that score."""

    rank: np.ndarray
    own: np.ndarray
    rival: np.ndarray
    rival_score: np.ndarray


def identify(enroll: np.ndarray, probes: np.ndarray, owner: np.ndarray) -> Identified:
    """Cosine scores of probes (P, D) against all enrolled speakers (S, D); owner: (P,) each probe's own speaker."""
    scores = unit_length(probes.astype(np.float64)) @ unit_length(enroll.astype(np.float64)).T
    rows = np.arange(len(probes))
    own = scores[rows, owner]
    others = scores.copy()
    others[rows, owner] = -np.inf
    rival = others.argmax(axis=1)
    return Identified(1 + (others >= own[:, None]).sum(axis=1), own, rival, others[rows, rival])


def accuracy(rank: np.ndarray, k: int = 1) -> float:
    """Share of probes whose own speaker is among the k best."""
    return float(np.mean(rank <= k))


def accuracy_interval(rank: np.ndarray, owner: np.ndarray, k: int = 1, replicates: int = 1000,
                      seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of `accuracy` from resampled speakers, each with all of their probes.

    The enrolled set stays as it is: the interval is about who is asked, not about how many are to be told apart.
    """
    _, number = np.unique(owner, return_inverse=True)
    hits, counts = np.bincount(number, weights=rank <= k), np.bincount(number)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (replicates, len(counts)))
    samples = hits[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def identification(data_dir, embedder, config, replicates: int = 1000) -> tuple[dict, list[tuple]]:
    """The measured accuracies in percent with all that they depend on, and a row for each probe: speaker, utterance,
    start and length in seconds, rank, own score, best scored other speaker and that score.

    embedder: a svq.deploy.runtimes.Embedder.
    """
    rate = embedder.config.front_end.rate
    plan = plan_segments(data_dir, config, rate)
    segments = plan.enroll + [segment for _, segment in plan.probes]
    vectors = embed_segments(data_dir, segments, embedder.waveforms, rate)
    owner = plan.owner
    found = identify(vectors[: len(plan.enroll)], vectors[len(plan.enroll) :], owner)
    about = {"model": str(embedder.path), "backend": embedder.backend, "data": str(data_dir),
             "speakers": len(plan.speakers), "probes": len(owner), "left_out": plan.left_out,
             "settings": to_dict(config)}
    for k in (1, 5):
        low, high = accuracy_interval(found.rank, owner, k, replicates, config.seed)
        about |= {f"top{k}": 100 * accuracy(found.rank, k), f"top{k}_low": 100 * low, f"top{k}_high": 100 * high}
    lines = [(plan.speakers[speaker], segment.utterance, f"{segment.start / rate:.2f}", f"{segment.count / rate:.2f}",
              str(found.rank[i]), f"{found.own[i]:.6f}", plan.speakers[found.rival[i]], f"{found.rival_score[i]:.6f}")
             for i, (speaker, segment) in enumerate(plan.probes)]
    return about, lines
