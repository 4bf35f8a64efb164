#!/usr/bin/env bash
# A model as a file for ONNX Runtime (.onnx) or OpenVINO (.xml and .bin), in float or INT8. The suffix of
# <out> says which. steps/extract.sh takes it like any other model.
#
# Usage: steps/export.sh [options] <model-dir-or-file> <out>
#   e.g. steps/export.sh --int8 true --range-data data/train exp/teacher_kmqat4 exp/teacher_kmqat4/int8.xml
# Needs: bash utils/setup.sh --extras deploy
# shellcheck disable=SC2154,SC2086
set -euo pipefail
cmd=run.py               # dispatcher
front_end=false          # true: waveforms go in, the front end is part of the file
seconds=                 # the only duration that it takes; empty: any
calibration=             # JSON of steps/calibrate.sh, to be kept in the file
int8=false               # weights and activations
dynamic=false            # with --int8 true: linear layers only, whose ranges are taken as they come
range_data=              # data directory whose utterances show how large activations get
num_utts=100             # how many of them, drawn at random
range_seconds=3.0        # how much of each; 0: all
input=auto               # what to read there: auto, feats (feats.scp) or wav (wav.scp)
seed=0                   # of the draw
range=minmax             # of activations: minmax, percentile or entropy
percentile=99.999        # share of values, in per cent, inside the range
activations=uint8        # uint8 or int8
sums=true                # whether residual sums are INT8 too
float_layers=            # layers that stay in float, by name, separated by commas, besides those the model has so
bits=                    # bits.tsv whose layers of 32 bits stay in float
summary=                 # JSON with bits, bytes and weights to write too, for a recipe's report; empty: none
num_threads=1            # CPU threads
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "export.sh: needs <model-dir-or-file> <out> (--help says more)" >&2; exit 2; }
model=$1 out=$2
name=$(basename "$out")
if [[ $int8 == true && $dynamic == false && -z $range_data ]]; then
  echo "export.sh: --int8 true needs --range-data <data-dir>" >&2
  exit 2
fi
outs=(--out "$out")
if [[ $out == *.xml ]]; then outs+=(--out "${out%.xml}.bin"); fi
if [[ $model != *.svq ]]; then model=${model%/}; fi
step --in "$([[ $model == *.svq ]] && echo "$model" || echo "$model/model.safetensors")" \
  ${range_data:+--speech "$range_data"} ${calibration:+--in "$calibration"} ${bits:+--in "$bits"} \
  "${outs[@]}" ${summary:+--out "$summary"}

options=(--front-end "$front_end" --int8 "$int8" --dynamic "$dynamic" --num-threads "$num_threads")
if [[ -n $seconds ]]; then options+=(--seconds "$seconds"); fi
if [[ -n $calibration ]]; then options+=(--calibration "$calibration"); fi
if [[ -n $summary ]]; then options+=(--summary "$summary"); fi
if [[ -n $float_layers ]]; then options+=(--float-layers "$float_layers"); fi
if [[ -n $bits ]]; then options+=(--bits "$bits"); fi
if [[ $int8 == true && $dynamic == false ]]; then
  options+=(--range-data "$range_data" --num-utts "$num_utts" --range-seconds "$range_seconds"
    --input "$input" --seed "$seed" --range "$range" --percentile "$percentile" --activations "$activations"
    --sums "$sums")
fi
$cmd --num-threads "$num_threads" "$(dirname "$out")/log/export_$name.log" \
  python3 -m svq.bin.export "${options[@]}" --model "$model" --out "$out"
