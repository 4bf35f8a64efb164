#!/usr/bin/env bash
# Closed-set identification of the speakers of a data directory: <out>.json (top-1 and top-5 accuracy with
# intervals) and <out>.tsv (every probe).
#
# Usage: steps/identify.sh [options] <data-dir> <model> <out>
#   e.g. steps/identify.sh --seconds 2 data/dev exp/teacher exp/teacher/identification/dev
# The model is a folder, a .svq, or an exported .onnx or .xml file.
set -euo pipefail
cmd=run.py             # dispatcher
backend=               # torch, onnxruntime or openvino; empty: where such a file is at home
seconds=3.0            # length of a segment, less of shorter utterances
shortest=1.0           # speakers without segments so long are left out
probes=5               # probes of each speaker, from different places
other_utterance=true   # probe with other utterances than the enrolled one where there are some
replicates=1000        # resamplings of the speakers, for intervals
seed=0                 # of utterances, places and resampling
num_threads=1          # CPU threads
. utils/parse_options.sh
. ./path.sh

(($# == 3)) || { echo "identify.sh: needs <data-dir> <model> <out> (--help says more)" >&2; exit 2; }
data=${1%/} model=$2 out=$3
[[ -f $data/utt2spk ]] || { echo "identify.sh: $data/utt2spk is missing" >&2; exit 1; }

options=(--seconds "$seconds" --shortest "$shortest" --probes "$probes" --other-utterance "$other_utterance"
  --replicates "$replicates" --seed "$seed" --num-threads "$num_threads")
if [[ -n $backend ]]; then options+=(--backend "$backend"); fi

$cmd --num-threads "$num_threads" "$out.log" python3 -m svq.bin.identify "${options[@]}" "$data" "$model" "$out"
cat "$out.json"
