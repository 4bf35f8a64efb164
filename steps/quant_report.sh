#!/usr/bin/env bash
# Writes figures and tables on quantization: <exp>/quantization/<parent>/index.html, and each figure as SVG with its
# numbers as TSV.
#
# Usage: steps/quant_report.sh [options] <exp> <parent>
#   e.g. steps/quant_report.sh --trials "test" exp teacher
# <parent> is a float system. Reads results.tsv (steps/report.sh makes it), the models of <parent> and of the systems made
# from it, and <exp>/<parent>/sensitivity.tsv where it is there.
set -euo pipefail
cmd=run.py  # dispatcher
_forward_to=("svq.bin.quant_report but exp parent")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "quant_report.sh: needs <exp> <parent> (--help says more)" >&2; exit 2; }
exp=$1 parent=$2
into=${out:-$exp/quantization/$parent}
ins=()
for system in $systems; do ins+=(--in "$exp/$system/model.safetensors"); done
if [[ -z $systems ]]; then
  for file in "$exp/${parent}_"*/model.safetensors; do ins+=(--maybe "$file"); done
fi
step --in "$exp/$parent/model.safetensors" ${ins[@]+"${ins[@]}"} --in "${results:-$exp/results.tsv}" --maybe "$exp/$parent/sensitivity.tsv" \
  --out "$into/index.html" --out "$into/results.md" --out "$into/results.tex" --also "$into"

$cmd "$into/log/quant_report.log" python3 -m svq.bin.quant_report "${to_quant_report[@]}" \
  --exp "$exp" --parent "$parent"
