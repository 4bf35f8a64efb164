#!/usr/bin/env bash
# Checks svq on a GPU, then measures it there; writes Markdown. Needs torch, numpy, PyYAML and safetensors, no recordings:
# speech is synthetic. On a machine without CUDA it says so and ends well.
#
#   bash tests/gpu/run.sh                            ten minutes
#   bash tests/gpu/run.sh --minutes 4 --out gpu.md   less of everything that is measured
#   bash tests/gpu/run.sh --device cpu --toy         all of it in seconds on the CPU; its figures mean nothing
#   bash tests/gpu/run.sh --wespeaker DIR            beside the models, loss and loop of this checkout of WeSpeaker; without
#                                                    it git clones one, where the net is there; `none` leaves it out
set -euo pipefail
if [[ ${1-} == --help ]]; then
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit
fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=python3
if [[ -x .venv/bin/python3 ]]; then python=.venv/bin/python3; fi
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "$python" tests/gpu/check.py "$@"
