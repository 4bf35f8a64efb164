"""The workers and steps end to end, on tiny synthetic embeddings."""

import os
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from svq.backend.calibration import Calibration
from svq.backend.embeddings import write_embeddings
from svq.backend.metrics import eer
from svq.backend.plda import Plda
from svq.backend.scores import read_scores, read_trials, split
from svq.bin import calibrate, score, score_norm, speaker_means, train_plda
from svq.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DIM = 16


def speakers_of(rng, name, speakers, utts, voices=None):
    voices = rng.normal(size=(speakers, DIM)) if voices is None else voices
    ids = [f"{name}{s:02d}-{u}" for s in range(speakers) for u in range(utts)]
    x = np.repeat(voices, utts, axis=0) + 0.8 * rng.normal(size=(len(ids), DIM)) + 0.5
    return ids, x.astype(np.float32)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """data/{train,dev,test} and exp/s/embeddings/{train,dev,test}, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, speakers, utts in (("train", 20, 6), ("dev", 6, 4), ("test", 8, 4)):
        ids, x = speakers_of(rng, name, speakers, utts)
        write_embeddings(f"exp/s/embeddings/{name}", ids, x)
        os.makedirs(f"data/{name}")
        by_speaker = {}
        for utt in ids:
            by_speaker.setdefault(utt.split("-")[0], []).append(utt)
        Path(f"data/{name}/spk2utt").write_text("".join(f"{s} {' '.join(u)}\n" for s, u in by_speaker.items()))
        pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1:]]
        Path(f"data/{name}/trials").write_text("".join(
            f"{a} {b} {'target' if a[:-2] == b[:-2] else 'nontarget'}\n" for a, b in pairs))
        if name == "test":      # models of the first three utterances, tried by the fourth
            Path("data/test/enroll.spk2utt").write_text("".join(f"m-{s} {' '.join(u[:3])}\n" for s, u in by_speaker.items()))
            Path("data/test/trials_models").write_text("".join(
                f"m-{s} {u[3]} {'target' if s == t else 'nontarget'}\n" for s in by_speaker for t, u in by_speaker.items()))
    return tmp_path


def call(worker, *words):
    """A worker's main() with these arguments, in this process."""
    argv, sys.argv = sys.argv, [worker.__name__] + [str(word) for word in words]
    try:
        worker.main()
    finally:
        sys.argv = argv


def rate(scores, trials):
    return eer(*split(read_scores(scores), read_trials(trials)))


COHORT = ("--cohort", "exp/s/embeddings/train")
TEST = ("data/test/trials", "exp/s/embeddings/test", "exp/s/scores/test")


@pytest.fixture
def trained(corpus):
    call(speaker_means, "data/train/spk2utt", "exp/s/embeddings/train")
    call(train_plda, "--lda-dim", 10, "data/train/spk2utt", "exp/s/embeddings/train", "exp/s/plda.safetensors")
    return corpus


def reference_cosine():
    """Every trial on its own, in float64, with kaldiio and the definition."""
    mean = np.mean(list(kaldiio.load_scp("exp/s/embeddings/train/embedding.scp").values()), axis=0, dtype=float)
    vectors = {k: v - mean for k, v in kaldiio.load_scp("exp/s/embeddings/test/embedding.scp").items()}
    return mean, {k: v / np.linalg.norm(v) for k, v in vectors.items()}


def test_cosine_and_asnorm_against_the_definition(trained):
    call(score, *COHORT, *TEST)
    mean, unit = reference_cosine()
    raw = [line.split() for line in Path("exp/s/scores/test/cosine_none.score").read_text().splitlines()]
    trials = [line.split() for line in Path("data/test/trials").read_text().splitlines()]
    assert [row[:2] for row in raw] == [row[:2] for row in trials]
    np.testing.assert_allclose([float(s) for _, _, s in raw], [unit[a] @ unit[b] for a, b, _ in raw], atol=1e-6)

    means = kaldiio.load_scp("exp/s/embeddings/train/spk_embedding.scp")
    cohort = np.array([(v - mean) / np.linalg.norm(v - mean) for v in means.values()])
    for name, top_n in (("asnorm", 5), ("snorm", 20)):
        call(score_norm, "--norm", name, "--top-n", 5, *COHORT, *TEST)
        expected = []
        for a, b, s in raw:
            sides = [np.sort(cohort @ unit[x])[-top_n:] for x in (a, b)]
            expected.append(np.mean([(float(s) - side.mean()) / side.std() for side in sides]))
        actual = read_scores(f"exp/s/scores/test/cosine_{name}.score")
        np.testing.assert_allclose(actual.score, expected, atol=2e-5)


@pytest.mark.parametrize("backend", [("cosine",), ("plda", "--plda", "exp/s/plda.safetensors")])
def test_one_process_or_two_write_the_same_bytes(trained, backend):
    options = ("--backend", *backend, *COHORT, "--top-n", 7)
    folder = Path("exp/s/scores/test")
    call(score, *options, *TEST)
    call(score_norm, *options, *TEST)
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    call(score, *options, "--norm", "asnorm", "--threads", 1, *TEST)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first and len(first) == 2


def as_kaldi_has_them(folder, name="embedding"):
    """Renames embeddings to Kaldi's names, in two archives as its jobs write them."""
    vectors = kaldiio.load_scp(f"{folder}/{name}.scp")
    words, lines = list(vectors), []
    for job, part in enumerate((words[::2], words[1::2]), 1):
        kaldiio.save_ark(f"{folder}/x.ark", {word: vectors[word] for word in part}, scp=f"{folder}/x.scp")
        os.rename(f"{folder}/x.ark", ark := f"{folder}/{name.replace('embedding', 'xvector')}.{job}.ark")
        lines += Path(f"{folder}/x.scp").read_text().replace(f"{folder}/x.ark", ark).splitlines(keepends=True)
    Path(f"{folder}/{name.replace('embedding', 'xvector')}.scp").write_text("".join(sorted(lines)))
    for old in (f"{name}.ark", f"{name}.scp", "x.scp"):
        os.unlink(f"{folder}/{old}")


def test_xvectors_and_npz_score_as_embeddings_do(trained, capfd):
    expected = {}
    for norm in ("none", "asnorm"):
        call(score, *COHORT, "--norm", norm, *TEST)
    for path in Path("exp/s/scores/test").iterdir():
        expected[path.name] = path.read_bytes()
    vectors = dict(kaldiio.load_scp("exp/s/embeddings/test/embedding.scp").items())
    np.savez("test.npz", ids=np.array(list(vectors)), embeddings=np.stack(list(vectors.values())))
    np.savez("by_name.npz", **vectors)
    for name in ("test", "by_name"):
        call(score, *COHORT, TEST[0], f"{name}.npz", f"exp/{name}")
        assert Path(f"exp/{name}/cosine_none.score").read_bytes() == expected["cosine_none.score"]
    capfd.readouterr()
    for folder, name in (("train", "spk_embedding"), ("test", "embedding")):
        as_kaldi_has_them(f"exp/s/embeddings/{folder}", name)
    call(score, *COHORT, "--norm", "asnorm", *TEST[:2], "exp/kaldi")
    assert {path.name: path.read_bytes() for path in Path("exp/kaldi").iterdir()} == expected
    assert not capfd.readouterr().err.count("beside")
    write_embeddings("exp/s/embeddings/test", list(vectors), np.stack(list(vectors.values())))
    call(score, *COHORT, *TEST[:2], "exp/both")
    assert Path("exp/both/cosine_none.score").read_bytes() == expected["cosine_none.score"]
    assert "embedding.scp is read; xvector.scp beside it is not" in capfd.readouterr().err


def test_plda_scores_are_its_likelihood_ratios_and_help(trained):
    call(score, "--backend", "plda", "--plda", "exp/s/plda.safetensors", *TEST)
    plda = Plda.load("exp/s/plda.safetensors")
    vectors = kaldiio.load_scp("exp/s/embeddings/test/embedding.scp")
    side = {k: (plda.enroll_side(p), plda.test_side(p)) for k, v in vectors.items() for p in [plda.process(v[None])]}
    found = read_scores("exp/s/scores/test/plda_none.score")
    np.testing.assert_allclose(found.score, [(side[a][0] @ side[b][1].T).item() for a, b in zip(found.enroll, found.test)],
                               atol=1e-6)
    assert rate("exp/s/scores/test/plda_none.score", "data/test/trials") < 0.25


@pytest.mark.parametrize("options", [("cosine",), ("plda", "--plda", "exp/s/plda.safetensors"),
                                     ("plda", "--plda", "exp/s/plda.safetensors", "--plda-enroll", "by-the-book")])
def test_models_of_several_utterances(trained, options):
    common = ("--backend", *options, *COHORT, "--top-n", 8)
    models = ("--enroll-spk2utt", "data/test/enroll.spk2utt", "--norm", "asnorm",
              "data/test/trials_models", "exp/s/embeddings/test", "exp/s/scores/models")
    call(score, *common, *TEST)
    call(score, *common, *models)
    for norm in ("none", "asnorm"):
        name = f"{options[0]}_{norm}.score"
        assert rate(f"exp/s/scores/models/{name}", "data/test/trials_models") < \
            rate(f"exp/s/scores/test/{options[0]}_none.score", "data/test/trials")
    if options[0] == "cosine":
        _, unit = reference_cosine()
        model = np.mean([unit[f"test00-{i}"] for i in range(3)], axis=0)
        expected = model @ unit["test01-3"] / np.linalg.norm(model)
        assert read_scores("exp/s/scores/models/cosine_none.score").score[1] == pytest.approx(expected, abs=1e-6)
    if options[-1] == "by-the-book":
        plda = Plda.load("exp/s/plda.safetensors")
        v = kaldiio.load_scp("exp/s/embeddings/test/embedding.scp")
        p = plda.process(np.array([v[f"test00-{i}"] for i in range(3)])).mean(axis=0, keepdims=True)
        expected = plda.enroll_side(p, 3) @ plda.test_side(plda.process(v["test01-3"][None])).T
        assert read_scores("exp/s/scores/models/plda_none.score").score[1] == pytest.approx(expected.item(), abs=1e-6)


def test_models_of_one_utterance_score_as_the_utterance(trained):
    lines = Path("data/test/trials").read_text().splitlines()
    Path("one").write_text("".join(f"m-{u} {u}\n" for u in sorted({line.split()[0] for line in lines})))
    Path("trials").write_text("".join(f"m-{line}\n" for line in lines))
    for backend in (("cosine",), ("plda", "--plda", "exp/s/plda.safetensors")):
        common = ("--backend", *backend, *COHORT, "--norm", "asnorm", "--top-n", 9)
        call(score, *common, *TEST)
        call(score, *common, "--enroll-spk2utt", "one", "trials", "exp/s/embeddings/test", "exp/s/scores/one")
        for norm in ("none", "asnorm"):
            one, two = (read_scores(f"exp/s/scores/{name}/{backend[0]}_{norm}.score").score for name in ("test", "one"))
            np.testing.assert_allclose(one, two, atol=2e-5)


def test_missing_ids_are_listed_and_nothing_is_written(trained):
    with open("data/test/trials", "a") as stream:
        stream.write("ghost1 test00-0 target\ntest00-0 ghost2 nontarget\nghost1 ghost2 target\n")
    with pytest.raises(UserError, match="test/embedding.scp: no embedding for 2 ids: ghost1 ghost2$"):
        call(score, *COHORT, *TEST)
    with pytest.raises(UserError, match="enroll.spk2utt: no enrolment model for 32 ids: test00-0 .* and 27 more$"):
        call(score, "--enroll-spk2utt", "data/test/enroll.spk2utt", *COHORT, *TEST)
    assert not Path("exp/s/scores").exists()


def test_missing_inputs_name_the_step_that_makes_them(corpus):
    for words, message in ((COHORT, "mean.vec is missing; steps/speaker_means.sh"),
                           (("--backend", "plda"), "needs --plda FILE; steps/train_plda.sh"),
                           (("--backend", "plda", "--plda", "none"), "none is missing; steps/train_plda.sh"),
                           (("--norm", "asnorm"), "--norm asnorm needs --cohort")):
        with pytest.raises(UserError, match=message):
            call(score, *words, *TEST)


def test_normalising_scores_of_another_list(trained):
    call(score, *COHORT, *TEST)
    lines = Path("data/test/trials").read_text().splitlines(True)
    Path("data/test/trials").write_text("".join([lines[1], lines[0]] + lines[2:]))
    with pytest.raises(UserError, match="cosine_none.score:1: .* score this list again"):
        call(score_norm, *COHORT, *TEST)


def test_a_small_cohort_is_used_whole(trained, capsys):
    call(score, "--norm", "asnorm", "--top-n", 300, *COHORT, *TEST)
    assert "the cohort has 20 speakers, all are used" in capsys.readouterr().err
    call(score_norm, "--norm", "snorm", *COHORT, *TEST)
    a, s = (Path(f"exp/s/scores/test/cosine_{n}.score").read_bytes() for n in ("asnorm", "snorm"))
    assert a == s


def test_calibrate(trained):
    for name in ("dev", "test"):
        call(score, *COHORT, f"data/{name}/trials", f"exp/s/embeddings/{name}", f"exp/s/scores/{name}")
    scores = [f"exp/s/scores/{name}/cosine_none.score" for name in ("dev", "test")]
    call(calibrate, "data/dev/trials", scores[0], "exp/s/scores/dev/c.json", *scores)
    found = Calibration.load("exp/s/scores/dev/c.json")
    for path in scores:
        raw, llr = read_scores(path), read_scores(path.replace(".score", ".llr"))
        np.testing.assert_allclose(llr.score, found(raw.score), atol=1e-6)
        assert llr.enroll.equal(raw.enroll).all()
    with pytest.raises(UserError, match=r"named \*.score"):
        call(calibrate, "data/dev/trials", scores[0], "exp/c.json", "x.llr")
    with pytest.raises(UserError, match="scores for the"):
        call(calibrate, "data/dev/trials", scores[1], "exp/c.json")
    assert not Path("exp/c.json").exists()


def test_steps_from_embeddings_to_ratios(corpus):
    """The shell steps as a recipe calls them, in a folder with a space in its name; two sets have Kaldi's names."""
    for name in ("train", "dev"):
        as_kaldi_has_them(f"exp/s/embeddings/{name}")
    recipe = corpus / "a recipe"
    recipe.mkdir()
    for name in ("data", "exp"):
        (corpus / name).rename(recipe / name)
    for name in ("steps", "utils"):
        (recipe / name).symlink_to(ROOT / name)
    (recipe / "path.sh").write_text("")
    environment = dict(os.environ, PYTHONPATH=str(ROOT), LC_ALL="C", OMP_NUM_THREADS="1",
                       PATH=f"{Path(sys.executable).parent}:{ROOT}/utils:{os.environ['PATH']}")
    story = """set -euo pipefail
        emb=exp/s/embeddings
        steps/speaker_means.sh data/train $emb/train
        steps/train_plda.sh --lda-dim 10 data/train $emb/train exp/s/plda.safetensors
        for list in dev test; do
          options="--cohort $emb/train --threads 1 data/$list/trials $emb/$list exp/s/scores/$list"
          steps/score.sh $options
          steps/score_norm.sh --top-n 9 $options
        done
        steps/score.sh --backends plda --plda exp/s/plda.safetensors $options
        steps/calibrate.sh data/dev/trials exp/s/scores"""
    done = subprocess.run(["bash", "-c", story], cwd=recipe, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = recipe / "exp/s/scores/test"
    assert sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith(".done.")) == [
        "cosine_asnorm.llr", "cosine_asnorm.score", "cosine_none.llr", "cosine_none.score", "plda_none.score"]
    for name in ("cosine_asnorm.llr", "cosine_none.llr", "plda_none.score"):
        assert rate(folder / name, recipe / "data/test/trials") < 0.25

    scp = recipe / "exp/s/embeddings/test/embedding.scp"
    scp.write_text("".join(scp.read_text().splitlines(True)[1:]))
    failed = subprocess.run(["bash", "steps/score.sh", "data/test/trials", "exp/s/embeddings/test", "exp/s/scores/new"],
                            cwd=recipe, env=environment, capture_output=True, text=True)
    log = recipe / "exp/s/scores/new/log/score_cosine.log"
    assert failed.returncode != 0 and "score_cosine.log" in failed.stderr
    assert "svq.bin.score: exp/s/embeddings/test/embedding.scp: no embedding for 1 id: test00-0\n" in log.read_text()
    assert not list(log.parents[1].glob("*.score"))
    for words in (["--top-n", "many"], ["--no-such-option", "1"], ["--norm"], ["only-one"],
                  ["--norm", "zscore"], ["--plda-enroll", "best"], ["--lists", "a b", "--norm", "snorm", "a", "b", "c"]):
        bad = subprocess.run(["bash", "steps/score.sh", *words], cwd=recipe, env=environment, capture_output=True, text=True)
        assert bad.returncode == 2 and len(bad.stderr.strip().splitlines()) == 1


def test_no_worker_imports_torch_and_scoring_does_without_scipy():
    code = ("import sys\nfrom svq.bin import {}\n"
            "bad = {{'torch', 'scipy'}} & set(sys.modules)\nassert not bad, bad")
    for names in ("score, score_norm", "speaker_means, train_plda, calibrate"):
        subprocess.run([sys.executable, "-c", code.format(names)], check=True, cwd=ROOT)
