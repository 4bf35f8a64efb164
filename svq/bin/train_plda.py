"""Trains a two-covariance PLDA with centring, LDA and length normalisation.

Runs exact EM in float64 on the utterances of SPK2UTT, and prints the log-likelihood of each iteration. There is no EM
where the data are few: fewer than ten speakers, or fewer than ten utterances beyond the first of each speaker, for each
dimension of the embedding. The covariances are then moments, shrunk towards equal variances as far as the data ask, so
that the scores come near to the cosine's. The model is a safetensors file for `svq.bin.score --backend plda`.
"""

import sys

from svq.backend.embeddings import EmbeddingReader, Groups
from svq.backend.plda import train
from svq.cli import parser, run_main
from svq.errors import UserError


def main():
    options = parser(__doc__)
    options.add_argument("--lda-dim", type=int, default=128,
                         help="dimensions kept by LDA; 0 keeps all, and so does a number above speakers - 1")
    options.add_argument("--iterations", type=int, default=10, help="EM iterations")
    options.add_argument("--floor", type=float, default=1e-6,
                         help="least eigenvalue of a within-speaker covariance, relative to the mean eigenvalue")
    options.add_argument("spk2utt")
    options.add_argument("embeddings", help="embedding folder or scp")
    options.add_argument("model", help="the file to write, .safetensors")
    options = options.parse_args()
    if options.lda_dim < 0 or options.iterations < 1 or not 0 < options.floor < 1:
        raise UserError("--lda-dim must be at least 0, --iterations at least 1, --floor between 0 and 1")
    groups, reader = Groups(options.spk2utt), EmbeddingReader(options.embeddings)
    model = train(lambda: groups.blocks(reader), len(groups.names), options.lda_dim, options.iterations,
                  options.floor, lambda line: print(line, file=sys.stderr, flush=True))
    model.save(options.model)
    print(f"PLDA of {len(model.psi)} dimensions from {len(groups.names)} speakers in {options.model}")


if __name__ == "__main__":
    run_main(main)
