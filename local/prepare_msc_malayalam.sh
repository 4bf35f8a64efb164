#!/usr/bin/env bash
# Makes a data directory of the reviewed part of the Malayalam Speech Corpus of Swathanthra Malayalam Computing
# (https://gitlab.com/smc/msc-reviewed-speech, CC BY-SA 4.0), to test on another language and other devices:
#   local/prepare_msc_malayalam.sh --corpus /corpora/msc-reviewed-speech --data data/msc_malayalam
set -euo pipefail

corpus=                  # folder of metadata.tsv and audio
data=data/msc_malayalam  # data directory to write
min_utts=5               # speakers with fewer utterances are left out
max_utts=40              # utterances to draw of a speaker, at most (one id has 414 of 1541); 0: all
num_nontarget=100000     # non-target pairs to draw for trials; all, where there are fewer
known_gender=false       # true: only speakers of known gender, non-target pairs of the same gender, and a spk2gender
seed=0                   # seed of the utterances and the trials

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_msc_malayalam.py --corpus "$corpus" --data "$data" --min-utts "$min_utts" \
  --max-utts "$max_utts" --num-nontarget "$num_nontarget" --known-gender "$known_gender" --seed "$seed"
