# shellcheck shell=bash
# Sourced by every script:  . ./path.sh
# Sets SVQ_ROOT, PATH, PYTHONPATH and LC_ALL, and makes .venv the first time (utils/setup.sh).
# Once .venv is there it starts no program but readlink, the first time, so that it costs nothing to source again.

if [[ ! ${SVQ_ROOT-}/path.sh -ef ${BASH_SOURCE[0]} ]]; then
  SVQ_ROOT=$(readlink -f -- "${BASH_SOURCE[0]}") || return 1
  export SVQ_ROOT=${SVQ_ROOT%/*}
fi

# .venv is whole when setup.sh has left there a copy of the list it installed; a list that has
# changed since (git pull) sets it up again.
if [[ ! -x $SVQ_ROOT/.venv/bin/python3 || ! -f $SVQ_ROOT/.venv/.svq-requirements ||
      -e $SVQ_ROOT/.venv/.svq-unfinished ||
      $(<"$SVQ_ROOT/.venv/.svq-requirements") != "$(<"$SVQ_ROOT/utils/requirements.txt")" ]]; then
  bash "$SVQ_ROOT/utils/setup.sh" || return 1
fi

# Sorting and comparing must not depend on the user's language: Kaldi tables are in C order.
export LC_ALL=C
# Each only once and in front: this file is sourced again by the scripts that run.sh calls.
[[ $PATH == "$SVQ_ROOT/.venv/bin:$SVQ_ROOT/utils:"* ]] ||
  export PATH="$SVQ_ROOT/.venv/bin:$SVQ_ROOT/utils:$PATH"
[[ ${PYTHONPATH-}: == "$SVQ_ROOT:"* ]] ||
  export PYTHONPATH="$SVQ_ROOT${PYTHONPATH:+:$PYTHONPATH}"
# glibc gives large freed blocks, which activations are, back to the kernel and asks for them anew in the next
# layer; the page faults take up to a third of the time of a network on the CPU. So it keeps them.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_-0} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_-4294967296}
export MALLOC_TOP_PAD_=${MALLOC_TOP_PAD_-67108864}
# Threads of torch that wait for each other by spinning hold the cores that they wait for, where other jobs run too: two
# beside four busy processes took four times as long as two that sleep.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY-passive}
