#!/usr/bin/env bash
# Multi-level distillation (arXiv 2303.01125) from one teacher: each of its levels alone, concatenations, the same
# students trained with labels only, and two of them at 2 bits, finetuned with labels and towards their own
# float embeddings.
#
# Usage, in a recipe's folder: local/table_distillation.sh <teacher> [options of run.sh]
#   e.g. local/table_distillation.sh xvector --backends "cosine plda" --norms "none asnorm"
set -euo pipefail
(($#)) && [[ $1 != -* ]] || { echo "table_distillation.sh: needs the name of the teacher (xvector, say)" >&2; exit 2; }
teacher=$1
shift
rows=(utterance narrowBN wideBN sp-aggr lde-aggr narrowBN-mn wideBN-mn sp-aggr-mn
  utterance+narrowBN utterance+wideBN utterance+sp-aggr narrowBN+wideBN utterance+narrowBN+wideBN
  utterance+narrowBN+sp-aggr+lde-aggr)
quantized=(utterance utterance+narrowBN)
systems="$teacher student-labels student-labels-wide"
for row in "${rows[@]}"; do systems+=" student-$teacher-$row"; done
for row in "${quantized[@]}"; do systems+=" student-$teacher-${row}_kmqat2 student-$teacher-${row}_kmqat2-distil"; done
exec local/table.sh "distillation_$teacher" "$systems" "$@"
