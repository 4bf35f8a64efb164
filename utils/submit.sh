#!/usr/bin/env bash
# Submits the run.sh of a recipe itself as a job of a Slurm cluster, so that nothing runs on the login node.
# Usage: utils/submit.sh [options] <recipe-folder> [options of its run.sh]
#   e.g. utils/submit.sh --time 2-00:00:00 egs/voxceleb --stage 3
#
# A dry run checks every option here first. Two minutes before the time of the job is over, or when a job of higher
# priority takes its place, run.sh ends: trainings write their checkpoints, and jobs that it has submitted are cancelled.
# The job goes back into the queue, and run.sh goes on where it was. cmd.sh says whether the jobs of the steps run inside
# this one (run.py: then give it the CPUs, memory and GPUs of the largest) or are jobs of their own (slurm.py).
# The output of run.sh goes to <recipe-folder>/exp/log/run.log, or to the folder of its --exp.
set -euo pipefail
time=            # time limit of one go: hours:minutes:seconds, days-hours; empty: that of the partition
partition=       # partition; empty: that of conf/slurm.conf, or the default of the cluster
account=         # account; empty: as for partition
qos=             # quality of service; empty: as for partition
mem=             # memory; empty: as for partition
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
      echo "submit.sh: --force would begin anew each time the job is queued again; remove what is to be redone instead" >&2
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
