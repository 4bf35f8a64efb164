#!/usr/bin/env bash
# Run the tests, the files of them in two processes (SVQ_TEST_JOBS). What stands after it goes to pytest:
#   bash tests/run.sh tests/utils -x
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
(($#)) || set -- tests
exec python3 -m pytest -q -p no:cacheprovider -n "${SVQ_TEST_JOBS:-2}" --dist loadgroup --no-loadscope-reorder "$@"
