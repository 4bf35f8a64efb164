#!/usr/bin/env bash
# Run the tests, the files of them in two processes (SVQ_TEST_JOBS).
#   bash tests/run.sh                   those that are quick: minutes
#   bash tests/run.sh --all             all of them, whole recipes too: what has to pass before a change lands
#   bash tests/run.sh --slurm           what runs jobs, on a Slurm cluster that it starts here; root installs the packages
#   bash tests/run.sh --torture         one recipe killed, starved of disk and robbed of files: a quarter of an hour or more
#   bash tests/run.sh --tables          the five tables of a paper, trained and scored at debug size: a quarter of an hour
#   bash tests/run.sh --scale           lists of 30 million utterances: half an hour, 12 GB of memory and 20 GB of disk
#   bash tests/run.sh tests/utils -x    those named, all of them; what stands here goes to pytest
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"   # sh run.sh
set -euo pipefail
if [[ ${1-} == --help ]]; then
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash utils/setup.sh --extras "test deploy"
. ./path.sh
# One thread: the tests compare numbers, and the machine may be running other things.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if (($# == 0)); then set -- tests -m "not slow"; fi
if [[ $1 == --all ]]; then
  shift
  set -- tests --durations=120 --durations-min=1.5 "$@"  # what a test takes: those of seconds go to tests/slow.txt
fi
if [[ $1 == --slurm ]]; then
  shift
  # Where they cannot be installed the tests say so and are skipped.
  if { ! command -v slurmctld || ! command -v munged; } > /dev/null && ((EUID == 0)) && command -v apt-get > /dev/null; then
    apt-get update -qq > /dev/null || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge > /dev/null || true
  fi
  export SVQ_TEST_SLURM=1
  set -- tests/slurm -n 4 -rs "$@"  # they wait more than they work; a cluster for each file
fi
if [[ $1 == --torture ]]; then
  shift
  SVQ_TORTURE=1 exec python3 -m pytest -q -s -p no:cacheprovider tests/torture "$@"
fi
if [[ $1 == --tables ]]; then
  shift
  SVQ_TABLES=1 exec python3 -m pytest -q -p no:cacheprovider tests/recipes/test_paper_tables.py --durations 0 "$@"
fi
if [[ $1 == --scale ]]; then
  shift
  export SVQ_SCALE="${SVQ_SCALE:-30000000}"
  exec python3 -m pytest -q -s -p no:cacheprovider tests/scale "$@"
fi
exec python3 -m pytest -q -p no:cacheprovider -n "${SVQ_TEST_JOBS:-2}" --dist loadgroup --no-loadscope-reorder "$@"
