"""Cosine scoring and AS-norm, files to files: seconds and peak memory.

Synthetic embeddings with VoxCeleb's ids and sizes: by default 36,000 utterances of 256
values, 579,818 trials (Vox1-E's number), 5,994 cohort speakers, the top 300 kept.
Times whole worker processes, start of Python included: both in one process
(`score --norm asnorm`), and as the two recipe stages. --check recomputes a sample of
trials in float64, one by one, and compares.

  python3 tests/bench/scoring.py --threads 2
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def make_corpus(folder, options):
    """Embedding folders `eval` and `cohort` and a `trials` file."""
    import numpy as np
    from svq.backend.embeddings import write_embeddings, write_vector
    rng = np.random.default_rng(0)
    speakers = 1251
    voices = rng.normal(size=(speakers, options.dim))
    who = np.sort(rng.integers(0, speakers, options.utterances))
    x = voices[who] + 1.2 * rng.normal(size=(options.utterances, options.dim)) + 0.3
    ids = [f"id{10001 + s}/{i:011d}/{i % 99:05d}.wav" for i, s in enumerate(who)]
    write_embeddings(os.path.join(folder, "eval"), ids, x)
    cohort = rng.normal(size=(options.cohort, options.dim)) + 0.3
    write_embeddings(os.path.join(folder, "cohort"), [f"id{i:05d}" for i in range(options.cohort)], cohort,
                     "spk_embedding")
    write_vector(os.path.join(folder, "cohort", "mean.vec"), cohort.mean(axis=0))
    enroll = np.sort(rng.integers(0, options.utterances, options.trials))
    test = rng.integers(0, options.utterances, options.trials)
    mate = rng.random(options.trials) < 0.5
    by_speaker = np.searchsorted(who, np.arange(speakers + 1))
    span = np.diff(by_speaker)
    test[mate] = by_speaker[who[enroll[mate]]] + test[mate] % span[who[enroll[mate]]]
    with open(os.path.join(folder, "trials"), "w", encoding="utf-8") as stream:
        for e, t in zip(enroll, test):
            stream.write(f"{ids[e]} {ids[t]} {'target' if who[e] == who[t] else 'nontarget'}\n")


def run(command, threads):
    """Seconds and peak megabytes of one process."""
    environment = dict(os.environ, PYTHONPATH=ROOT, OMP_NUM_THREADS=str(threads))
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def check(folder, options, sample=200):
    """Largest difference of sampled scores from float64, computed one by one with a full sort."""
    import kaldiio
    import numpy as np
    vectors = kaldiio.load_scp(os.path.join(folder, "eval", "embedding.scp"))
    cohort = kaldiio.load_scp(os.path.join(folder, "cohort", "spk_embedding.scp"))
    mean = kaldiio.load_mat(os.path.join(folder, "cohort", "mean.vec")).astype(float)
    unit = lambda v: (v - mean) / np.linalg.norm(v - mean)
    others = np.array([unit(v.astype(float)) for v in cohort.values()])
    rng = np.random.default_rng(1)
    rows = rng.integers(0, options.trials, sample)
    worst = [0.0, 0.0]
    files = [open(os.path.join(folder, "scores", f"cosine_{n}.score")).read().splitlines() for n in ("none", "asnorm")]
    for row in rows:
        (e, t, raw), (_, _, normed) = (lines[row].split() for lines in files)
        e, t = unit(vectors[e].astype(float)), unit(vectors[t].astype(float))
        score, both = e @ t, 0.0
        for side in (e, t):
            top = np.sort(others @ side)[-options.top_n:]
            both += 0.5 * (score - top.mean()) / top.std()
        worst = [max(worst[0], abs(score - float(raw))), max(worst[1], abs(both - float(normed)))]
    return worst


def main():
    options = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    for name, value in (("utterances", 36000), ("dim", 256), ("trials", 579818), ("cohort", 5994), ("top-n", 300),
                        ("threads", len(os.sched_getaffinity(0))), ("repeats", 3)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--check", action="store_true")
    options.add_argument("--folder", help="keep the files here instead of a temporary folder")
    options = options.parse_args()
    sys.path.insert(0, ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        if not os.path.exists(os.path.join(folder, "trials")):
            make_corpus(folder, options)
        report(folder, options)


def report(folder, options):
    import numpy as np
    where = [os.path.join(folder, name) for name in ("trials", "eval", "scores")]
    common = ["--cohort", os.path.join(folder, "cohort"), "--top-n", str(options.top_n),
              "--threads", str(options.threads)] + where
    python = [sys.executable, "-m"]
    rows = [("cosine + AS-norm, one process", python + ["svq.bin.score", "--norm", "asnorm"] + common),
            ("cosine", python + ["svq.bin.score"] + common),
            ("AS-norm of those scores", python + ["svq.bin.score_norm", "--norm", "asnorm"] + common)]
    print(f"{options.utterances} utterances x {options.dim}, {options.trials} trials, {options.cohort} cohort speakers, "
          f"top {options.top_n}; best of {options.repeats}")
    print(f"CPU {cpu_name()}, {options.threads} threads, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{'':32}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}")
    for name, command in rows:
        best = min(run(command, options.threads) for _ in range(options.repeats))
        print(f"{name:32}{best[0]:9.2f}{best[2]:9.2f}{best[1]:9.0f}", flush=True)
    if options.check:
        raw, normed = check(folder, options)
        print(f"largest difference from float64 one by one: cosine {raw:.1e}, AS-norm {normed:.1e}")


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as stream:
        return next((line.split(":")[1].strip() for line in stream if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
