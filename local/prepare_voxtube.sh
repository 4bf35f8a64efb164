#!/usr/bin/env bash
# Makes a data directory of VoxTube (https://github.com/IDRnD/VoxTube), speakers of many languages from YouTube, as the
# scripts of the corpus download and cut it. It has no trial list; this script draws one, the same for the same seed:
#   local/prepare_voxtube.sh --corpus /corpora/voxtube --meta /corpora/VoxTube/resources
set -euo pipefail

corpus=                 # folder of <channel>/<video>/segment_<n>.wav
meta=                   # folder of language_gender_meta.csv; empty: no genders and languages
data=data/voxtube       # data directory to write
languages=              # languages to keep, "english russian ...", by --meta; empty: all
speakers=400            # speakers to draw; 0: all that have --min-videos
utts=8                  # utterances of each speaker, from as many videos as there are
min_videos=2            # speakers with fewer videos are left out: their target trials would all be of one session
num_nontarget=100000    # non-target pairs to draw for trials, of the same gender with --meta; all, where there are fewer
seed=0                  # seed of the speakers, the utterances and the trials

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_voxtube.py --corpus "$corpus" --meta "$meta" --data "$data" --languages "$languages" \
  --speakers "$speakers" --utts "$utts" --min-videos "$min_videos" --num-nontarget "$num_nontarget" --seed "$seed"
