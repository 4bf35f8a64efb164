#!/usr/bin/env bash
# Exports a model to a file for ONNX Runtime (.onnx) or OpenVINO (.xml and .bin), in float or INT8. The suffix of <out>
# says for which. steps/extract.sh takes the file like any other model.
#
# Usage: steps/export.sh [options] <model-dir-or-file> <out>
#   e.g. steps/export.sh --int8 true --range-data data/train exp/teacher_kmqat4 exp/teacher_kmqat4/int8.xml
#        steps/export.sh --for sherpa-onnx exp/teacher teacher.onnx
# Needs: bash utils/setup.sh --extras deploy
# shellcheck disable=SC2154,SC2086
set -euo pipefail
cmd=run.py  # dispatcher
_forward_to=("svq.bin.export but model out")
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
step --reads "$input" --in "$([[ $model == *.svq ]] && echo "$model" || echo "$model/model.safetensors")" \
  ${range_data:+--speech "$range_data"} ${calibration:+--in "$calibration"} ${bits:+--in "$bits"} \
  "${outs[@]}" ${summary:+--out "$summary"}

$cmd --num-threads "$num_threads" "$(dirname "$out")/log/export_$name.log" \
  python3 -m svq.bin.export "${to_export[@]}" --model "$model" --out "$out"
