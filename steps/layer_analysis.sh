#!/usr/bin/env bash
# Measures what quantizing does to each stage and layer of a network, without training: distortion of the weights, drift
# of activations and embeddings, EER and minDCF with a part alone quantized and with all but a part quantized, and how
# well distortion explains the losses. Writes <out-dir>/index.html, layers.md, *.tsv and *.svg.
#
# Usage: steps/layer_analysis.sh [options] <data-dir> <out-dir>
#   e.g. steps/layer_analysis.sh --model exp/teacher --config conf/finetune.yaml:kmqat2 data/dev exp/analysis/layers_ptq
#        steps/layer_analysis.sh --model exp/teacher --quantized exp/teacher_kmqat2 data/dev exp/analysis/layers_kmqat2
#
# With --config the float model is quantized here; with --quantized the parts of that finetuned model go back to their
# float weights, and losses are counted from --model where it is given. A run that was killed goes on where it was.
set -euo pipefail
cmd=run.py           # dispatcher
num_threads=1        # CPU threads
mem=4G               # memory the dispatcher reserves
device=cpu           # cpu or cuda (one GPU)
model=               # folder of the float model
config=              # YAML whose `quant` says how to quantize it
bits=                # bits in place of the config's
quantized=           # folder of a finetuned quantized model, in place of a config
trials=              # trial list; empty: <data-dir>/trials
alone="stage layer"  # levels (stage, block, layer) at which one part at a time is quantized
kept=stage           # levels at which one part at a time is left in float
norms_data=          # data directory to measure batch norms anew on, for --quantized: its own do not fit float weights
ptq_data=            # data directory to correct biases on, where the config's `ptq` asks for it
input=auto           # auto, feats (feats.scp) or wav (wav.scp)
max_utts=0           # so many utterances of the list, spread over its speakers; 0: all
max_seconds=0.0      # read so much of each utterance; 0: all of it
center=true          # take the mean embedding of the list off before scoring
bootstrap=200        # resamplings of the speakers for the intervals; 0: no intervals
permutations=9999    # random pairings for the p-values of the correlations
probes=32            # utterances for the drift of activations
probe_seconds=3.0    # so much of each
seed=0               # seed of all these choices
batch_frames=4000    # frames in a batch; only utterances of equal length share one
title="Layer-wise analysis"  # title of the page
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
step ${config:+--config "$config"} ${model:+--in "${model%/}/model.safetensors"} \
  ${quantized:+--in "${quantized%/}/model.safetensors"} --in "${trials:-$data/trials}" --speech "$data" \
  ${norms_data:+--speech "$norms_data"} ${ptq_data:+--speech "$ptq_data"} --out "$out/index.html" --out "$out/layers.md" \
  --neutral device

resources=(--mem "$mem" --num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
read -ra alone_levels <<< "$alone"
read -ra kept_levels <<< "$kept"
options=(--input "$input" --max-utts "$max_utts" --max-seconds "$max_seconds" --center "$center"
  --bootstrap "$bootstrap" --permutations "$permutations" --probes "$probes" --probe-seconds "$probe_seconds"
  --seed "$seed" --batch-frames "$batch_frames" --num-threads "$num_threads" --device "$device" --title "$title"
  --alone "${alone_levels[@]}" --kept "${kept_levels[@]}")
if [[ -n $model ]]; then options+=(--model "$model"); fi
if [[ -n $config ]]; then options+=(--config "$config"); fi
if [[ -n $bits ]]; then options+=(--set "quant.bits=$bits"); fi
if [[ -n $quantized ]]; then options+=(--quantized "$quantized"); fi
if [[ -n $norms_data ]]; then options+=(--norms-data "$norms_data"); fi
if [[ -n $ptq_data ]]; then options+=(--ptq-data "$ptq_data"); fi

$cmd "${resources[@]}" "$out/log/layer_analysis.log" python3 -m svq.bin.layer_analysis --data "$data" \
  --trials "${trials:-$data/trials}" --out "$out" "${options[@]}"
