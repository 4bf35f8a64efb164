#!/usr/bin/env bash
# Trains a dictionary that turns the frames of several layers of a teacher into one vector (LDE aggregation), for
# steps/teacher_embeddings.sh --levels lde_aggr --aggregation <out-dir>.
#
# Usage: steps/train_aggregation.sh [options] <config.yaml> <data-dir> <teacher-dir> <out-dir>
#   e.g. steps/train_aggregation.sh conf/aggregation.yaml data/train_wav exp/xvector exp/xvector/aggregation
#
# A run that was killed goes on from its last state in <out-dir>/checkpoints.
set -euo pipefail
cmd=run.py     # dispatcher
num_gpus=0     # GPUs to train on, one process each; 0: the CPU
num_threads=2  # CPU threads the dispatcher reserves for each process, besides one for each of its data-loading workers
mem=8G         # memory the dispatcher reserves
_forward_to=("svq.bin.train_aggregation but config model data out set")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 4)) || {
  echo "train_aggregation.sh: needs <config.yaml> <data-dir> <teacher-dir> <out-dir> (--help says more)" >&2
  exit 2
}
config=$1 data=${2%/} teacher=${3%/} dir=${4%/}
step --dear --config "$config" --in "$teacher/model.safetensors" --speech "$data" --reads settings \
  ${noise:+--noise "$noise"} ${rir:+--noise "$rir"} \
  --out "$dir/aggregation.safetensors" --out "$dir/aggregation.yaml" --neutral num-gpus

if [[ -n ${SVQ_ANEW-} ]]; then rm -rf -- "$dir/checkpoints"; fi
processes=$((num_gpus > 1 ? num_gpus : 1))
threads=$((num_threads + $(python3 -I -S "$SVQ_ROOT/utils/config_text.py" num_workers "$config" 1)))
launch=(python3)
resources=(--mem "$mem" --num-threads $((processes * threads)))
if ((num_gpus > 0)); then resources+=(--gpu "$num_gpus"); fi
if ((processes > 1)); then
  launch=(env "OMP_NUM_THREADS=$num_threads" torchrun --standalone --nproc-per-node "$processes")
fi

if ((num_gpus == 0)); then launch=(env CUDA_VISIBLE_DEVICES= "${launch[@]}"); fi  # it would take a card that it sees

export SVQ_RESUMES=1  # training goes on from its checkpoint: a cluster may end it at the time limit and start it again
$cmd "${resources[@]}" "$dir/log/train.log" "${launch[@]}" -m svq.bin.train_aggregation \
  "${to_train_aggregation[@]}" --config "$config" --model "$teacher" --data "$data" --out "$dir"
