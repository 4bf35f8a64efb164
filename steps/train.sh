#!/usr/bin/env bash
# Trains a network: a teacher; with --teacher, a student of it; with --init, from a trained
# network (quantization-aware finetuning, where the config has a `quant` part).
#
# Usage: steps/train.sh [options] <config.yaml> <data-dir> <model-dir>
#
# A run that was killed goes on from its last state in <model-dir>/checkpoints.
set -euo pipefail
cmd=run.py     # dispatcher
num_gpus=0     # GPUs to train on, one process each; 0: the CPU
num_procs=1    # processes on the CPU (where num_gpus is 0)
num_threads=2  # CPU threads the dispatcher reserves for each process
mem=8G         # memory the dispatcher reserves
_forward_to=("svq.bin.train but config data out set")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "train.sh: needs <config.yaml> <data-dir> <model-dir> (--help says more)" >&2; exit 2; }
config=$1 data=${2%/} dir=${3%/}
step --config "$config" --in "$data/utt2spk" --maybe "$data/wav.scp" --feats "$data/feats.scp" \
  ${init:+--in "$init/model.safetensors" --maybe "$init/head.safetensors"} ${bits:+--in "$bits"} ${teacher:+--in "$teacher/model.safetensors"} \
  ${targets:+--levels "$targets"} --out "$dir/model.safetensors" --out "$dir/config.yaml" --neutral num-gpus

launch=(python3)
resources=(--mem "$mem" --num-threads "$num_threads")
if ((num_gpus > 0)); then resources+=(--gpu "$num_gpus"); fi
processes=$((num_gpus > 0 ? num_gpus : num_procs))
if ((processes > 1)); then launch=(torchrun --standalone --nproc-per-node "$processes"); fi

$cmd "${resources[@]}" "$dir/log/train.log" "${launch[@]}" -m svq.bin.train "${to_train[@]}" \
  --config "$config" --data "$data" --out "$dir"
