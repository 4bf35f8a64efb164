#!/usr/bin/env bash
# Submits a recipe's run.sh itself as a job of a Slurm cluster, so that nothing runs on the login node.
# Usage: utils/submit.sh [options] <recipe-folder> [options of its run.sh]
#   e.g. utils/submit.sh --time 2-00:00:00 egs/voxceleb --stage 3
#
# Every option is checked here first, by a dry run. Two minutes before the job's time is over, or when a job of higher
# priority takes its place, run.sh ends: trainings write their checkpoints, jobs that it has submitted are cancelled.
# The job goes back into the queue, and run.sh goes on where it was. cmd.sh says whether the steps' jobs run inside
# this one (run.py: then give it the CPUs, memory and GPUs of the largest) or are jobs of their own (slurm.py).
# What run.sh says is in <recipe-folder>/exp/log/run.log, in the folder of its --exp where that is given.
set -euo pipefail
time=            # time limit of one go: hours:minutes:seconds, days-hours; empty: the partition's
partition=       # partition; empty: conf/slurm.conf's, or the cluster's default
account=         # account; empty: likewise
qos=             # quality of service; empty: likewise
mem=             # memory; empty: conf/slurm.conf's, or the cluster's default
num_threads=     # CPUs; empty: 1
gpu=             # GPUs; empty: none
sbatch_options=  # other options of sbatch
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"

(($# >= 1)) || { echo "submit.sh: needs <recipe-folder> (--help says more)" >&2; exit 2; }
recipe=${1%/}
shift
[[ -f $recipe/run.sh ]] || { echo "submit.sh: $recipe has no run.sh" >&2; exit 2; }
exp=exp previous=
for word; do
  case $word in
    --force | --force=true)
      echo "submit.sh: --force would begin anew each time that the job is queued again; remove what is to be redone" >&2
      exit 2 ;;
    --exp=*) exp=${word#*=} ;;
    *) if [[ $previous == --exp ]]; then exp=$word; fi ;;
  esac
  previous=$word
done
cd "$recipe"
bash run.sh "$@" --dry-run > /dev/null

resources=()
for name in time partition account qos mem num_threads gpu sbatch_options; do
  if [[ -n ${!name} ]]; then resources+=("--${name//_/-}" "${!name}"); fi
done
unset SVQ_STEP_CMD
export SVQ_RESUMES=1
exec python3 "$SVQ_ROOT/utils/slurm_submit.py" ${resources[@]+"${resources[@]}"} "$exp/log/run.log" bash run.sh "$@"
