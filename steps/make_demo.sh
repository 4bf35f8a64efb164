#!/usr/bin/env bash
# Makes a page that verifies voices in the browser: a folder of static files with an .onnx model that takes waveforms.
# Open its index.html, or put the folder on any web server. The page makes no connection.
#
# Usage: steps/make_demo.sh [options] <model.onnx> <demo-dir>
#   e.g. steps/export.sh --front-end true exp/teacher_kmqat4/model.svq exp/teacher_kmqat4/model.onnx
#        steps/make_demo.sh exp/teacher_kmqat4/model.onnx demo
# Needs: bash utils/setup.sh --with npm
set -euo pipefail
cmd=run.py  # dispatcher
_forward_to=("svq.bin.make_demo but model out")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "make_demo.sh: needs <model.onnx> <demo-dir> (--help says more)" >&2; exit 2; }
model=$1 out=${2%/}
inputs=(--in "$model" --in "$SVQ_ROOT/svq/demo/page" --in "$SVQ_ROOT/svq/demo/worker")
if [[ -n $mean && $mean != none ]]; then inputs+=(--in "$mean"); fi
# The code holds the digest of the runtime, so it does not matter where the runtime comes from.
step "${inputs[@]}" ${calibration:+--in "$calibration"} --out "$out" --neutral ort-web

$cmd "$(dirname "$out")/log/make_demo_$(basename "$out").log" \
  python3 -m svq.bin.make_demo "${to_make_demo[@]}" --model "$model" --out "$out"
