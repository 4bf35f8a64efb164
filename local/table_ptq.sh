#!/usr/bin/env bash
# Quantization without training (arXiv 2407.08991), of one float system: all of it at 8, 6, 4 and 3 bits; at 8 bits all
# but the blocks that an EER budget leaves in float, and, of an ECAPA-TDNN, all but its later SE-Res2Blocks; INT8
# arithmetic. What each block costs, quantized alone at 8 bits, stands in exp/<system>/blocks_selected8/blocks.md.
#
# Usage, in a recipe's folder: local/table_ptq.sh <system> [options of run.sh]
#   e.g. local/table_ptq.sh ecapa --backends cosine --norms "none asnorm"
set -euo pipefail
(($#)) && [[ $1 != -* ]] || { echo "table_ptq.sh: needs the name of a float system (ecapa, say)" >&2; exit 2; }
parent=$1
shift
conf=conf
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --debug | --debug=true) if [[ $conf == conf ]]; then conf=conf/debug; fi ;;  # as mini's run.sh does
    --conf) next=$((i + 1)); conf=${!next-} ;;
    --conf=*) conf=${!i#--conf=} ;;
  esac
done
systems="$parent $parent-int8"
rows=(integer8 selected8 integer6 integer4 integer3)
if grep -q 'arch: *ECAPA' "$conf/$parent.yaml" 2> /dev/null; then rows+=(selective8); fi
for row in "${rows[@]}"; do systems+=" ${parent}_$row-ptq"; done
exec local/table.sh "ptq_$parent" "$systems" "$@"
