#!/usr/bin/env bash
# Measures how sensitive each layer of a trained float model is to quantization: the average trace of
# the Hessian of its training loss. Writes <model-dir>/sensitivity.tsv, which steps/allocate.sh takes.
#
# Usage: steps/sensitivity.sh [options] <data-dir> <model-dir>
#   e.g. steps/sensitivity.sh data/train exp/teacher
#
# <data-dir> is what the model was trained on; with --objective embedding the loss is the distance to the model's own
# embeddings instead, on any speech. A run that was killed goes on where it was.
set -euo pipefail
cmd=run.py        # dispatcher
num_threads=2     # CPU threads
mem=8G            # memory the dispatcher reserves
device=cpu        # cpu or cuda (one GPU)
objective=labels  # labels (the loss of the training) or embedding (distance to the float embeddings)
input=            # feats (feats.scp) or wav (wav.scp); empty: as in the training
crop_seconds=     # length of the random crops; empty: as in the training
margin=           # margin of the loss of labels; empty: that at the end of the training
scale=            # scale of the loss of labels; empty: that of the training
batch_size=4      # crops in a probe
min_probes=20     # probes of each layer, at least
max_probes=200    # probes of each layer, at most
tolerance=0.05    # a layer is done at a standard error of so much of its trace
seed=1            # seed of crops and probes
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "sensitivity.sh: needs <data-dir> <model-dir> (--help says more)" >&2; exit 2; }
data=${1%/} dir=${2%/}
((min_probes <= max_probes)) || min_probes=$max_probes
step --in "$dir/model.safetensors" --maybe "$dir/head.safetensors" --speech "$data" --out "$dir/sensitivity.tsv" --neutral device

resources=(--mem "$mem" --num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
options=(--objective "$objective" --batch-size "$batch_size" --min-probes "$min_probes" --max-probes "$max_probes"
  --tolerance "$tolerance" --seed "$seed" --num-threads "$num_threads" --device "$device")
if [[ -n $input ]]; then options+=(--input "$input"); fi
if [[ -n $crop_seconds ]]; then options+=(--crop-seconds "$crop_seconds"); fi
if [[ -n $margin ]]; then options+=(--margin "$margin"); fi
if [[ -n $scale ]]; then options+=(--scale "$scale"); fi

$cmd "${resources[@]}" "$dir/log/sensitivity.log" python3 -m svq.bin.sensitivity --model "$dir" --data "$data" \
  --out "$dir/sensitivity.tsv" "${options[@]}"
