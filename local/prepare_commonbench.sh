#!/usr/bin/env bash
# A data directory from CommonBench (https://github.com/Mobile-Dialog-Systeme/CommonBench): clips of Mozilla Common
# Voice in many languages, and the benchmark's list of comparisons, which its authors hand out.
# local/prepare_commonbench.sh --corpus /corpora/cv-corpus-16.1 --comparisons /corpora/commonbench.csv
set -euo pipefail

corpus=                # folder of <language>/clips/*.mp3, with <language>/validated.tsv and so on beside them
comparisons=           # the list: two clips and a label a line, split by comma, semicolon, tab or blank
columns=               # what its columns are, such as "enroll test label" or "- enroll test - label"; empty: found out
speakers=tables        # tables: Common Voice's client_id; trials: clips that target trials join are one speaker
languages=             # "de fr ..." to keep (both clips of a trial); empty: all
drop_missing=false     # leave out trials of clips that are not there, as donors may withdraw theirs
data=data/commonbench  # data directory to write

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_commonbench.py --corpus "$corpus" --comparisons "$comparisons" --columns="$columns" \
  --speakers "$speakers" --languages "$languages" --drop-missing "$drop_missing" --data "$data"
