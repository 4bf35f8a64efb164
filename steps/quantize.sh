#!/usr/bin/env bash
# Quantizes a trained network as it is, without finetuning, by the `quant` part of a training config.
#
# Usage: steps/quantize.sh [options] <config.yaml> <float-model-dir> <model-dir>
set -euo pipefail
cmd=run.py       # dispatcher
mem=4G           # memory the dispatcher reserves
bits=            # table of bits per layer (bits.tsv); empty: the bits of the config for all
. utils/parse_options.sh
. ./path.sh

(($# == 3)) || { echo "quantize.sh: needs <config.yaml> <float-model-dir> <model-dir> (--help says more)" >&2; exit 2; }
config=$1 init=$2 dir=$3

options=(--config "$config" --init "$init" --out "$dir")
if [[ -n $bits ]]; then options+=(--bits "$bits"); fi

$cmd --mem "$mem" "$dir/log/quantize.log" python3 -m svq.bin.quantize "${options[@]}"
