#!/usr/bin/env bash
# Packs a quantized model folder into model.svq, checks it against the network that it comes from, and writes
# summary.json (parameters, bits, bytes). A float model only gets its summary, and so does a model that is a file (--file).
#
# Usage: steps/pack.sh [options] <model-dir>
set -euo pipefail
cmd=run.py   # dispatcher
packed=auto  # whether the model packs to a model.svq: true, false, or auto: look into config.yaml, where there is one
_forward_to=("svq.bin.pack only calibration entropy file")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 1)) || { echo "pack.sh: needs <model-dir> (--help says more)" >&2; exit 2; }
dir=${1%/}
outs=(--out "$dir/summary.json")
if [[ -z $file ]] && { [[ $packed == true ]] || { [[ $packed == auto ]] && grep -qs '^quant:$' "$dir/config.yaml"; }; }; then outs+=(--out "$dir/model.svq"); fi
step --in "${file:-$dir/model.safetensors}" ${calibration:+--in "$calibration"} "${outs[@]}" --neutral packed

$cmd "$dir/log/pack.log" python3 -m svq.bin.pack "${to_pack[@]}" "$dir"
