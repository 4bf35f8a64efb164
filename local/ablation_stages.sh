#!/usr/bin/env bash
# What each stage of a ResNet18 loses at 2 bits: finetuned with one stage after the other left in float, beside all at
# 2 bits and all in float.
#
# Usage, in a folder of a recipe that has these rows: local/ablation_stages.sh <parent> [options of run.sh]
#   e.g. local/ablation_stages.sh small --backends cosine --norms none
set -euo pipefail
(($#)) && [[ $1 != -* ]] || { echo "ablation_stages.sh: needs the name of the float system (small, say)" >&2; exit 2; }
parent=$1
shift
if [[ -e conf/$parent.yaml ]] && ! grep -q '^ *arch: ResNet18' "conf/$parent.yaml"; then
  echo "ablation_stages.sh: conf/$parent.yaml is no ResNet18, whose stages the rows kmqat2-* name" >&2
  exit 2
fi
systems="$parent ${parent}_float ${parent}_kmqat2"
for stage in conv1 stage1 stage2 stage3 stage4 embedding; do systems+=" ${parent}_kmqat2-$stage"; done
exec local/table.sh "ablation_stages_$parent" "$systems" "$@"
