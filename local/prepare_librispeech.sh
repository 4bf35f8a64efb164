#!/usr/bin/env bash
# Makes a data directory of a folder in LibriSpeech's layout (https://www.openslr.org/12/), and cuts its utterances into
# pieces: local/prepare_librispeech.sh --corpus /corpora/LibriSpeech --subsets train-clean-100
set -euo pipefail

corpus=                    # folder that holds the subsets and SPEAKERS.TXT
data=data/librispeech      # data directory to write
subsets=                   # subsets to use, such as "train-clean-100 train-clean-360"; empty: all that are there
piece_seconds=4.0          # length of a piece
shortest_seconds=2.0       # a last piece shorter than this is dropped

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_librispeech.py --corpus "$corpus" --data "$data" --subsets "$subsets" \
  --piece-seconds "$piece_seconds" --shortest-seconds "$shortest_seconds"
