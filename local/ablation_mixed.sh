#!/usr/bin/env bash
# What mixed precision at 2 bits owes to what: the same bits finetuned all at once instead of by algorithm 1
# of Liu et al., and the exact bits of every layer instead of bits that fall with the Hessian trace.
#
# Usage, in a recipe's folder: local/ablation_mixed.sh <parent> [options of run.sh]
#   e.g. local/ablation_mixed.sh teacher --backends cosine --norms asnorm
set -euo pipefail
(($#)) && [[ $1 != -* ]] || { echo "ablation_mixed.sh: needs the name of the float system (teacher, say)" >&2; exit 2; }
parent=$1
shift
exec local/table.sh "ablation_mixed_$parent" \
  "$parent ${parent}_kmqat2 ${parent}_mixed2-onestage ${parent}_mixed2 ${parent}_mixed2-exact ${parent}_best2" "$@"
