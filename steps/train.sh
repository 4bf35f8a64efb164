#!/usr/bin/env bash
# Trains a network: a teacher; with --teacher, a student of that teacher; with --targets-ark, a student of embeddings
# that came from anywhere; with --init, a network that starts from a trained one (quantization-aware finetuning, where
# the config has a `quant` part).
#
# Usage: steps/train.sh [options] <config.yaml> <data-dir> <model-dir>
#
# A run that was killed goes on from its last state in <model-dir>/checkpoints.
set -euo pipefail
cmd=run.py     # dispatcher
num_gpus=0     # GPUs to train on, one process each; 0: the CPU
num_nodes=1    # machines of a cluster to train on (slurm.py); --num-gpus or --num-procs counts for each
num_procs=1    # processes on the CPU (where num_gpus is 0)
num_threads=2  # CPU threads the dispatcher reserves for each process, besides one for each of its data-loading workers
mem=8G         # memory the dispatcher reserves
targets_ark=   # embeddings to learn from, in place of --teacher: a file or folder, or several without blanks in their names
_forward_to=("svq.bin.train but config data out set targets-ark")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "train.sh: needs <config.yaml> <data-dir> <model-dir> (--help says more)" >&2; exit 2; }
config=$1 data=${2%/} dir=${3%/}
given=() files=("$targets_ark") learned=()
if [[ ! -e $targets_ark ]]; then read -ra files <<< "$targets_ark"; fi
if [[ -n $targets_ark ]]; then learned=(--targets-ark "${files[@]}"); fi
for file in ${files[@]+"${files[@]}"}; do
  if [[ -z $file ]]; then continue; fi
  if [[ -d $file ]]; then file=$file/$([[ -e $file/embedding.scp || ! -e $file/xvector.scp ]] && echo embedding || echo xvector).scp; fi
  given+=(--in "$file")
  if [[ $file == *.scp ]]; then given+=(--recordings "$file"); fi  # the archives that it names
done
step --dear --config "$config" --speech "$data" --reads settings ${noise:+--noise "$noise"} ${rir:+--noise "$rir"} \
  ${init:+--in "$init/model.safetensors" --maybe "$init/head.safetensors"} ${bits:+--in "$bits"} ${teacher:+--in "$teacher/model.safetensors"} \
  ${targets:+--levels "$targets"} ${given[@]+"${given[@]}"} --out "$dir/model.safetensors" --out "$dir/config.yaml" \
  --also "$dir/head.safetensors" --also "$dir/speakers.txt" --neutral num-gpus --neutral num-nodes

if [[ -n ${SVQ_ANEW-} ]]; then rm -rf -- "$dir/checkpoints"; fi
processes=$((num_gpus > 0 ? num_gpus : num_procs))
threads=$((num_threads + $(python3 -I -S "$SVQ_ROOT/utils/config_text.py" num_workers "$config" 1)))
launch=(python3) resources=(--mem "$mem")
if ((num_gpus > 0)); then resources+=(--gpu "$num_gpus"); fi
if ((num_nodes > 1)); then
  resources+=(--num-threads "$threads" --num-nodes "$num_nodes" --num-tasks "$processes")
else
  resources+=(--num-threads $((processes * threads)))
  if ((processes > 1)); then
    launch=(env "OMP_NUM_THREADS=$num_threads" torchrun --standalone --nproc-per-node "$processes")
  fi
fi

if ((num_gpus == 0)); then launch=(env CUDA_VISIBLE_DEVICES= "${launch[@]}"); fi  # it would take a card that it sees

export SVQ_RESUMES=1  # training goes on from its checkpoint: a cluster may end it at the time limit and start it again
$cmd "${resources[@]}" "$dir/log/train.log" "${launch[@]}" -m svq.bin.train "${to_train[@]}" ${learned[@]+"${learned[@]}"} \
  --config "$config" --data "$data" --out "$dir"
