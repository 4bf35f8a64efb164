#!/usr/bin/env bash
# Measures what quantizing does to each stage and layer of a network, without training: distortion of the weights, drift
# of activations and embeddings, EER and minDCF where only that part is quantized and where all others are, and how well
# distortion explains the losses. Writes <out-dir>/index.html, layers.md, *.tsv and *.svg.
#
# Usage: steps/layer_analysis.sh [options] <data-dir> <out-dir>
#   e.g. steps/layer_analysis.sh --model exp/teacher --config conf/finetune.yaml:kmqat2 data/dev exp/analysis/layers_ptq
#        steps/layer_analysis.sh --model exp/teacher --quantized exp/teacher_kmqat2 data/dev exp/analysis/layers_kmqat2
#
# With --config, this step quantizes the float model. With --quantized, parts of that finetuned model go back to their
# float weights, and losses are counted from --model where it is given. A run that was killed goes on where it was.
set -euo pipefail
cmd=run.py  # dispatcher
mem=4G      # memory the dispatcher reserves
_forward_to=("svq.bin.layer_analysis but data out set")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || {
  echo "layer_analysis.sh: needs <data-dir> <out-dir> (--help says more)" >&2
  exit 2
}
[[ -n $quantized || ( -n $model && -n $config$bits ) ]] || {
  echo "layer_analysis.sh: needs --quantized, or --model with --config or --bits (--help says more)" >&2
  exit 2
}
data=${1%/} out=${2%/}
step --reads "$input" ${config:+--config "$config"} ${model:+--in "${model%/}/model.safetensors"} \
  ${quantized:+--in "${quantized%/}/model.safetensors"} --in "${trials:-$data/trials}" --speech "$data" \
  ${norms_data:+--speech "$norms_data"} ${ptq_data:+--speech "$ptq_data"} --out "$out/index.html" --out "$out/layers.md" \
  --also "$out" --neutral device

fresh "$out/embeddings"
fresh "$out/probes"
resources=(--mem "$mem" --num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
$cmd "${resources[@]}" "$out/log/layer_analysis.log" python3 -m svq.bin.layer_analysis "${to_layer_analysis[@]}" \
  --data "$data" --out "$out"
