#!/usr/bin/env bash
# Table II of Liu et al.: KMQAT at 4 bits with asymmetric (eq. 6) and symmetric (eq. 7) rescaling.
#
# Usage, in a recipe's folder: local/ablation_rescaling.sh <parent> [options of run.sh]
#   e.g. local/ablation_rescaling.sh teacher --backends cosine --norms asnorm
set -euo pipefail
(($#)) && [[ $1 != -* ]] || { echo "ablation_rescaling.sh: needs the name of the float system (teacher, say)" >&2; exit 2; }
parent=$1
shift
exec local/table.sh "ablation_rescaling_$parent" "$parent ${parent}_kmqat4-asymmetric ${parent}_kmqat4" "$@"
