"""A small exp tree with synthetic scores of known distribution."""

import json
from math import log
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = {"teacher": (3.4, 32.0, 26_500_000), "student": (2.9, 32.0, 6_800_000),
           "teacher_kmqat4": (3.3, 4.0, 3_390_000), "student_kmqat4": (2.7, 4.0, 880_000)}
LISTS = {"dev": "dev/trials", "test": "test/trials", "test_all": "test/trials_all"}


def gaussian_scores(separation, num_target, num_nontarget, seed):
    """Unit-variance scores `separation` apart: EER tends to Phi(-separation / 2), and
    separation * s - separation**2 / 2 is the exact log-likelihood ratio."""
    rng = np.random.default_rng(seed)
    return rng.normal(separation, 1, num_target), rng.normal(0, 1, num_nontarget)


def write_set(folder, name, speakers=12, utts=4):
    """utt2spk and a full trial list over all unordered pairs; returns (enroll, test, is_target)."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [(f"s{s:02d}-u{u}", f"s{s:02d}") for s in range(speakers) for u in range(utts)]
    (folder / "utt2spk").write_text("".join(f"{u} {s}\n" for u, s in ids))
    trials = [(a, b, sa == sb) for i, (a, sa) in enumerate(ids) for b, sb in ids[i + 1:]]
    text = "".join(f"{a} {b} {'target' if same else 'nontarget'}\n" for a, b, same in trials)
    (folder / name).write_text(text)
    return trials


def write_scores(path, trials, scores):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{a} {b} {s:.6f}\n" for (a, b, _), s in zip(trials, scores)))


def write_system(folder, separation, bits, size, lists, backends, norms, seed):
    """Scores, calibrated scores, summary, curves and provenance of one system."""
    for place, (name, trials) in enumerate(lists.items()):
        same = np.array([t[2] for t in trials])
        for b, backend in enumerate(backends):
            for n, norm in enumerate(norms):
                gap = separation + 0.2 * b + 0.3 * n
                scores = np.empty(len(trials))
                scores[same], scores[~same] = gaussian_scores(
                    gap, same.sum(), (~same).sum(), [seed, place, b, n])
                stem = folder / "scores" / name / f"{backend}_{norm}"
                write_scores(stem.with_suffix(".score"), trials, scores)
                write_scores(stem.with_suffix(".llr"), trials, gap * scores - gap**2 / 2)
    write_plain_files(folder, bits, size, seed)


def write_plain_files(folder, bits, size, seed):
    folder.mkdir(parents=True, exist_ok=True)
    summary = {"params": 6_630_000, "avg_bits": bits, "size_bytes": size, "file": "model.svq"}
    (folder / "summary.json").write_text(json.dumps(summary))
    steps = np.arange(10, 2001, 10)
    lines = ["step,epoch,lr,margin,loss,accuracy,samples_per_s"]
    lines += [f"{s},{s / 100:.4f},{0.1 * 0.5 ** (s / 400):.6g},{min(0.2, s / 5000):.6g},"
              f"{8 / log(s):.6g},{1 - 8 / s:.6g},123.4" for s in steps]
    (folder / "curves.csv").write_text("\n".join(lines) + "\n")
    (folder / "provenance.yaml").write_text(
        f"seed: {seed}\ngit: 0123456789ab\nversions:\n  python: 3.11.7\n  torch: 2.13.0\n"
        f"config:\n  net: <ResNet34> & co\n  lr: 0.1\n")


def write_tree(root, systems=None, backends=("cosine", "plda"), norms=("none", "asnorm")):
    """data/ and exp/ under root; returns {list name: trials}."""
    lists = {name: write_set((root / "data" / path).parent, path.split("/")[1])
             for name, path in LISTS.items()}
    for seed, system in enumerate(systems or SYSTEMS):
        write_system(root / "exp" / system, *SYSTEMS[system], lists, backends, norms, seed)
    return lists
