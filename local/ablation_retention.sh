#!/usr/bin/env bash
# Table I of Liu et al.: KMQAT at 4 bits with levels fitted to 100, 90 and 80 % of the weights (step 1 of section III-B read
# as parts of equally many weights); beside it the other reading, intervals of equal width, and k-means proper.
#
# Usage, in a recipe's folder: local/ablation_retention.sh <parent> [options of run.sh]
#   e.g. local/ablation_retention.sh teacher --backends cosine --norms asnorm
set -euo pipefail
(($#)) && [[ $1 != -* ]] || { echo "ablation_retention.sh: needs the name of the float system (teacher, say)" >&2; exit 2; }
parent=$1
shift
exec local/table.sh "ablation_retention_$parent" \
  "$parent ${parent}_kmqat4-r100 ${parent}_kmqat4-count ${parent}_kmqat4-r80 ${parent}_kmqat4-width ${parent}_kmqat4" "$@"
