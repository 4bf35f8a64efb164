#!/usr/bin/env bash
# Figures and tables on quantization: <exp>/quantization/<parent>/index.html, and each figure as SVG with its numbers as TSV.
#
# Usage: steps/quant_report.sh [options] <exp> <parent>
#   e.g. steps/quant_report.sh --trials "test" exp teacher
# Reads results.tsv (steps/report.sh makes it), the models of <parent>, a float system, and of those made from
# it, and <exp>/<parent>/sensitivity.tsv where it is there.
set -euo pipefail
cmd=run.py                  # dispatcher
systems=                    # systems beside the parent; empty: all in the results named <parent>_...
trials=                     # trial lists by name, such as test; empty: all
backend=                    # back end shown; empty: the first in the results
norm=                       # score normalization shown; empty: the last in the results
layer=                      # layer whose levels are shown; empty: the embedding layer
methods="uniform pot apot kmqat"  # methods of these levels
bits="4 3"                  # bits of these levels
results=                    # table of results; empty: <exp>/results.tsv
out=                        # folder to write to; empty: <exp>/quantization/<parent>
title="Quantization"        # title of the page
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "quant_report.sh: needs <exp> <parent> (--help says more)" >&2; exit 2; }
exp=$1 parent=$2
out=${out:-$exp/quantization/$parent}
ins=()
for system in $systems; do ins+=(--in "$exp/$system/model.safetensors"); done
if [[ -z $systems ]]; then
  for file in "$exp/${parent}_"*/model.safetensors; do ins+=(--maybe "$file"); done
fi
step --in "$exp/$parent/model.safetensors" ${ins[@]+"${ins[@]}"} --in "${results:-$exp/results.tsv}" --maybe "$exp/$parent/sensitivity.tsv" \
  --out "$out/index.html" --out "$out/results.md" --out "$out/results.tex"

read -ra system_list <<< "$systems"
read -ra trial_list <<< "$trials"
read -ra method_list <<< "$methods"
read -ra bit_list <<< "$bits"
$cmd "$out/log/quant_report.log" python3 -m svq.bin.quant_report --exp "$exp" --parent "$parent" \
  --results "${results:-$exp/results.tsv}" --out "$out" --systems ${system_list[@]+"${system_list[@]}"} \
  --trials ${trial_list[@]+"${trial_list[@]}"} --backend "$backend" --norm "$norm" --layer "$layer" \
  --methods "${method_list[@]}" --bits "${bit_list[@]}" --title "$title"
