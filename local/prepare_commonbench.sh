#!/usr/bin/env bash
# Makes a data directory of CommonBench (https://github.com/Mobile-Dialog-Systeme/CommonBench): clips of Mozilla Common
# Voice in many languages, and the list of comparisons, which the authors of the benchmark hand out:
#   local/prepare_commonbench.sh --corpus /corpora/cv-corpus-16.1 --comparisons /corpora/commonbench.csv
set -euo pipefail

corpus=                # folder of <language>/clips/*.mp3, with <language>/validated.tsv and so on beside them
comparisons=           # the list: two clips and a label a line, separated by comma, semicolon, tab or blank
columns=               # columns of the list, such as "enroll test label" or "- enroll test - label"; empty: found out
speakers=tables        # what makes a speaker: tables, a client_id of Common Voice; trials, clips joined by target trials
languages=             # languages to keep, "de fr ..." (both clips of a trial); empty: all
drop_missing=false     # true: leave out trials of missing clips, as donors may withdraw theirs
data=data/commonbench  # data directory to write

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_commonbench.py --corpus "$corpus" --comparisons "$comparisons" --columns="$columns" \
  --speakers "$speakers" --languages "$languages" --drop-missing "$drop_missing" --data "$data"
