#!/usr/bin/env bash
# Tables III and V of Liu et al. for one float system: every quantizer and bit width, mixed precision,
# the binary quantizers, our own; the control finetuned in float, and the methods before finetuning.
#
# Usage, in a recipe's folder: local/table_quantization.sh <parent> [options of run.sh]
#   e.g. local/table_quantization.sh teacher --backends cosine --norms asnorm
set -euo pipefail
(($#)) && [[ $1 != -* ]] || { echo "table_quantization.sh: needs the name of the float system (teacher, say)" >&2; exit 2; }
parent=$1
shift
rows=(uniform{4,3,2,1} kmqat{4,3,2,1} kmqat{4,3,2}-{width,count} mixed{3,2,1.7,1.3,1.1} static adaptive pot4 apot{4,3,2} twn admm6 best{4,3,2,1} calibrated{4,3,2,1})
systems="$parent ${parent}_float"
for row in "${rows[@]}"; do systems+=" ${parent}_$row"; done
for row in "${rows[@]}"; do systems+=" ${parent}_$row-ptq"; done  # each before finetuning
exec local/table.sh "quantization_$parent" "$systems" "$@"
