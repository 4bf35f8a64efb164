# shellcheck shell=bash
# Sourced by every script:  . ./path.sh
# Sets SVQ_ROOT, PATH, PYTHONPATH and LC_ALL, and makes .venv the first time (utils/setup.sh).
# Once .venv is there, it starts only readlink, and only the first time; sourcing it again costs nothing.

if [[ ! ${SVQ_ROOT-}/path.sh -ef ${BASH_SOURCE[0]} ]]; then
  SVQ_ROOT=$(readlink -f -- "${BASH_SOURCE[0]}") || return 1
  export SVQ_ROOT=${SVQ_ROOT%/*}
fi

# .venv is complete when it holds a copy of the list that setup.sh installed. If the list has changed
# since (git pull), set it up again.
if [[ ! -x $SVQ_ROOT/.venv/bin/python3 || ! -f $SVQ_ROOT/.venv/.svq-requirements ||
      -e $SVQ_ROOT/.venv/.svq-unfinished ||
      $(<"$SVQ_ROOT/.venv/.svq-requirements") != "$(<"$SVQ_ROOT/utils/requirements.txt")" ]]; then
  bash "$SVQ_ROOT/utils/setup.sh" || return 1
fi

# Sorting and comparing must not depend on the user's language: Kaldi tables are in C order.
export LC_ALL=C
# Each stands in front, and only once: the scripts that run.sh calls source this file again.
[[ $PATH == "$SVQ_ROOT/.venv/bin:$SVQ_ROOT/utils:"* ]] ||
  export PATH="$SVQ_ROOT/.venv/bin:$SVQ_ROOT/utils:$PATH"
[[ ${PYTHONPATH-}: == "$SVQ_ROOT:"* ]] ||
  export PYTHONPATH="$SVQ_ROOT${PYTHONPATH:+:$PYTHONPATH}"
# glibc gives large freed blocks, such as activations, back to the kernel and asks for them anew in the next layer. The
# page faults take up to a third of the time of a network on the CPU. These settings make glibc keep the blocks.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_-0} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_-4294967296}
export MALLOC_TOP_PAD_=${MALLOC_TOP_PAD_-67108864}
# Threads of torch that spin while they wait for each other hold the cores that other jobs need. Beside four busy
# processes, two threads that spin took four times as long as two that sleep.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY-passive}
