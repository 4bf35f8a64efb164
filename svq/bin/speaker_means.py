"""Averages embeddings by speaker and over all utterances.

Writes EMBEDDINGS/spk_embedding.{ark,scp}, one mean for each speaker of SPK2UTT (the cohort of score normalisation), and
EMBEDDINGS/mean.vec, the mean of all utterances of SPK2UTT (subtracted before cosine scoring). Reads in blocks: a
million utterances need little memory.
"""

import os

from svq.backend.embeddings import EmbeddingReader, Groups, speaker_means, write_embeddings, write_vector
from svq.cli import boolean, parser, run_main


def main():
    options = parser(__doc__)
    options.add_argument("--length-normalize", type=boolean, default=False, metavar="true|false",
                         help="scale each embedding to length 1 before it is averaged")
    options.add_argument("spk2utt")
    options.add_argument("embeddings", help="folder with embedding.scp; the means are written there")
    options = options.parse_args()
    groups = Groups(options.spk2utt)
    means, mean = speaker_means(groups, EmbeddingReader(options.embeddings), options.length_normalize)
    write_embeddings(options.embeddings, groups.names, means, "spk_embedding")
    write_vector(os.path.join(options.embeddings, "mean.vec"), mean)
    print(f"{len(means)} speaker means of {int(groups.counts.sum())} utterances in {options.embeddings}")


if __name__ == "__main__":
    run_main(main)
