"""Scores a trial list with cosine or PLDA, and normalises the scores where asked.

Writes SCORES/<backend>_none.score, and with --norm also SCORES/<backend>_<norm>.score: lines "enroll test score" in the
order of the trial list. Enrolment ids are utterances, or models of --enroll-spk2utt. An id without an embedding is an
error that lists the ids.

With --lists, one process scores many lists by one or both back ends. TRIALS is then the folder of the data directories,
EMBEDDINGS has a folder for each data directory, and SCORES gets a folder for each list. Where the data directory of a
list has an enroll.spk2utt, it gives the models.
"""

import argparse
import os
import sys

# Blocks run in threads of our own; set before numpy loads its BLAS.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

from svq.backend import BACKENDS, NORMS
from svq.backend.embeddings import EmbeddingReader, Groups, read_vector, scp_in
from svq.backend.scoring import available_threads
from svq.backend.scores import read_trials, rounded, write_scores
from svq.backend.scoring import Cosine, PldaScores, normalized_scores, prepare, raw_scores
from svq.cli import parser, run_main
from svq.errors import UserError
from svq.names import list_name


def arguments(options, norms):
    """Adds to a parser the options that scoring and score normalisation share; returns the parser."""
    options.add_argument("--backend", choices=BACKENDS, default="cosine")
    options.add_argument("--plda", metavar="FILE", help="PLDA model of svq.bin.train_plda")
    options.add_argument("--cohort", metavar="DIR", help="embedding folder with mean.vec, subtracted before cosine, "
                         "and spk_embedding.scp, the cohort of score normalisation (svq.bin.speaker_means makes both)")
    options.add_argument("--enroll-spk2utt", metavar="FILE", help="models, each of several enrolment utterances")
    options.add_argument("--plda-enroll", choices=("average", "by-the-book"), default="average",
                         help="how PLDA treats models of several utterances: as one averaged utterance, or with their count")
    options.add_argument("--norm", choices=norms, default=norms[0], help="score normalisation")
    options.add_argument("--top-n", type=int, default=300, help="cohort speakers that AS-norm keeps for each embedding")
    options.add_argument("--threads", type=int, default=available_threads())
    options.add_argument("--lists", default="", metavar="LIST:BACKEND[:NORM],...", help="lists under TRIALS and what "
                         "scores them, such as dev/trials:cosine,test/trials:plda; in place of one list and --backend")
    options.add_argument("trials", help="lines: enroll test [target|nontarget]")
    options.add_argument("embeddings", help="embedding folder, scp or .npz of the trials")
    options.add_argument("scores", help="folder for the score files")
    return options


def backend(options):
    """Makes the back end that the options name, Cosine or PldaScores; UserError where an option is missing or wrong."""
    if options.threads < 1:
        raise UserError(f"--threads {options.threads}: at least 1")
    if options.backend == "plda":
        if not options.plda:
            raise UserError("--backend plda needs --plda FILE; steps/train_plda.sh makes it")
        from svq.backend.plda import Plda
        return PldaScores(Plda.load(options.plda), options.plda_enroll == "by-the-book")
    return Cosine(read_vector(os.path.join(options.cohort, "mean.vec")) if options.cohort else None)


def cohort(options):
    """Reads the cohort embeddings (C, D) and gives with them the top_n of the normalisation (None: all of them).

    UserError where there is no cohort, or --top-n is below 2.
    """
    if not options.cohort:
        raise UserError(f"--norm {options.norm} needs --cohort DIR")
    if not os.path.exists(scp_in(options.cohort, "spk_embedding")):
        raise UserError(f"{options.cohort}/spk_embedding.scp is missing; steps/speaker_means.sh makes it")
    vectors = EmbeddingReader(options.cohort, "spk_embedding").read()
    if options.norm == "snorm":
        return vectors, None
    if options.top_n < 2:
        raise UserError(f"--top-n {options.top_n}: at least 2")
    if options.top_n > len(vectors):
        print(f"--top-n {options.top_n}: the cohort has {len(vectors)} speakers, all are used", file=sys.stderr)
    return vectors, options.top_n


def prepared(options, system):
    """Reads the trial list and the embeddings, and prepares the rows that are scored."""
    trials = read_trials(options.trials, labels=False)
    groups = Groups(options.enroll_spk2utt) if options.enroll_spk2utt else None
    return trials, prepare(trials, EmbeddingReader(options.embeddings), system, groups)


def score_path(options, norm):
    return os.path.join(options.scores, f"{options.backend}_{norm}.score")


def each(options):
    """Yields the options of each list to be scored: these options, or a copy for each item of --lists."""
    if not options.lists:
        yield options
        return
    for item in options.lists.split(","):
        name, back_end, norm = (*item.split(":"), options.norm)[:3]
        if back_end not in BACKENDS or norm not in NORMS or not name.strip("/"):
            raise UserError(f"--lists {item}: write LIST:cosine or LIST:plda, and :snorm or :asnorm behind it")
        folder = os.path.dirname(name)
        models = os.path.join(options.trials, folder, "enroll.spk2utt")
        yield argparse.Namespace(**{**vars(options), "backend": back_end, "norm": norm,
                                    "enroll_spk2utt": models if os.path.exists(models) else None,
                                    "trials": os.path.join(options.trials, name),
                                    "embeddings": os.path.join(options.embeddings, folder),
                                    "scores": os.path.join(options.scores, list_name(name))})


def main():
    for options in each(arguments(parser(__doc__), NORMS).parse_args()):
        score_list(options)


def score_list(options):
    """Scores one list, and normalises its scores where asked."""
    system = backend(options)
    cohort_vectors = cohort(options) if options.norm != "none" else None
    trials, rows = prepared(options, system)
    # Rounded as written: normalising here or later from the file gives the same bytes.
    score = rounded(raw_scores(rows, options.threads))
    write_scores(score_path(options, "none"), trials, score)
    if cohort_vectors:
        vectors, top_n = cohort_vectors
        score = normalized_scores(score, rows, system, vectors, top_n, options.threads)
        write_scores(score_path(options, options.norm), trials, score)
    print(f"{len(trials)} trials scored into {options.scores}")


if __name__ == "__main__":
    run_main(main)
