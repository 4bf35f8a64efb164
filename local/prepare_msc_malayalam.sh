#!/usr/bin/env bash
# A data directory from the Malayalam Speech Corpus of Swathanthra Malayalam Computing, reviewed part
# (https://gitlab.com/smc/msc-reviewed-speech, CC BY-SA 4.0): another language and other devices, for testing.
# local/prepare_msc_malayalam.sh --corpus /corpora/msc-reviewed-speech --data data/msc_malayalam
set -euo pipefail

corpus=                  # folder of metadata.tsv and audio
data=data/msc_malayalam  # data directory to write
min_utts=5               # speakers with fewer utterances are left out
max_utts=40              # utterances drawn of a speaker, at most: one id has 414 of 1541; 0: all
num_nontarget=100000     # non-target pairs drawn for trials; fewer: all
known_gender=false       # only speakers whose gender is known; non-target pairs of the same gender, and spk2gender
seed=0                   # for the utterances and the trials

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_msc_malayalam.py --corpus "$corpus" --data "$data" --min-utts "$min_utts" \
  --max-utts "$max_utts" --num-nontarget "$num_nontarget" --known-gender "$known_gender" --seed "$seed"
