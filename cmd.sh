# shellcheck shell=bash
# Sourced by run.sh: says how a step starts its jobs. Every command takes the same line,
#   $train_cmd [--mem 4G] [--num-threads 2] [--gpu 1] [--max-jobs-run 8] JOB=1:4 x.JOB.log command ...
#
#   run.py      this machine, as many jobs at once as there are cores
#   slurm.py    a Slurm cluster, one job array for each step; partition and account in conf/slurm.conf (docs/cluster.md)
# Both lie in utils/, which path.sh puts on PATH. SVQ_CMD=slurm.py bash run.sh switches all of them.

export train_cmd="${SVQ_CMD:-run.py}"       # features, scoring: CPU jobs
export cuda_cmd="${SVQ_CMD:-run.py}"        # training; the step adds --gpu N
export extract_cmd="${SVQ_CMD:-run.py}"     # embeddings

# On a cluster, for example (options given here win over those that a step proposes):
# export train_cmd="slurm.py --mem 4G --partition cpu"
# export cuda_cmd="slurm.py --mem 16G --num-threads 8 --partition gpu"
# export extract_cmd="slurm.py --mem 4G --max-jobs-run 64 --partition cpu"

# Kaldi's own dispatchers take the same line and may be named here unchanged:
# export train_cmd="$KALDI_ROOT/egs/wsj/s5/utils/parallel/run.pl"
# export train_cmd="$KALDI_ROOT/egs/wsj/s5/utils/parallel/slurm.pl --mem 4G"
# export train_cmd="$KALDI_ROOT/egs/wsj/s5/utils/parallel/queue.pl --mem 4G"
