#!/usr/bin/env bash
# Packs a quantized model folder into model.svq, checks it against the network it comes from, and
# writes summary.json (parameters, bits, bytes). A float model only gets its summary.
#
# Usage: steps/pack.sh [options] <model-dir>
set -euo pipefail
cmd=run.py      # dispatcher
calibration=    # JSON of the calibration stage, to be kept in the packed file
entropy=false   # Huffman code the codes of the weights where that is smaller (summary.json says so)
. utils/parse_options.sh
. ./path.sh

(($# == 1)) || { echo "pack.sh: needs <model-dir> (--help says more)" >&2; exit 2; }
dir=$1

options=()
if [[ -n $calibration ]]; then options+=(--calibration "$calibration"); fi
if [[ $entropy == true ]]; then options+=(--entropy); fi
$cmd "$dir/log/pack.log" python3 -m svq.bin.pack ${options[@]+"${options[@]}"} "$dir"
