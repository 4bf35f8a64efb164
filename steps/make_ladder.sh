#!/usr/bin/env bash
# Writes the ladder of a cascade from systems of a recipe, the cheapest first. steps/cascade.sh takes it.
#
# Usage: steps/make_ladder.sh [options] <ladder.yaml> <system> <system> ...
#   e.g. steps/make_ladder.sh exp/cascade/2-4-32.yaml small_kmqat2 small_kmqat4 small_float
set -euo pipefail
exp=exp             # folder of the systems
models=             # systems that are files, as NAME=FILE; exp/NAME/NAME.onnx is one without it
cohort=cohort       # data set whose mean embedding was subtracted before scoring
score=cosine_none   # BACKEND_NORM of the scores to use
operating=eer       # threshold: eer (that of the last system on the development list), or for a prior, such as 0.01
map=logistic        # how the scores of all systems get one scale: logistic, affine or isotonic
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# >= 3)) || { echo "make_ladder.sh: needs <ladder.yaml> and two systems or more (--help says more)" >&2; exit 2; }
out=$1
shift
ins=()
for system; do
  # A summary is written with the packed file; the ladder names the packed file where it is there.
  ins+=(--in "$exp/$system/summary.json" --in "$exp/$system/embeddings/$cohort/mean.vec")
done
step "${ins[@]}" --out "$out"

read -ra named <<< "$models"
quoted() { printf "'%s'" "${1//\'/\'\'}"; }  # as YAML quotes

# Prints one line of the ladder. It names the file that runs: packed, exported, or the nested file of all precisions.
rung() {                                          # <system>
  local model=$exp/$1 more='' file
  for file in model.svq model.xml model.onnx; do
    if [[ -e $exp/$1/$file ]]; then model=$exp/$1/$file; break; fi
  done
  if [[ $model == "$exp/$1" && ! -e $exp/$1/config.yaml && -e $exp/$1/$1.onnx ]]; then model=$exp/$1/$1.onnx; fi
  for file in ${named[@]+"${named[@]}"}; do
    if [[ ${file%%=*} == "$1" ]]; then model=${file#*=}; fi
  done
  if [[ $1 =~ ^(.*)-([0-9])bit$ && -e $exp/${BASH_REMATCH[1]}/model.svq ]]; then
    model=$exp/${BASH_REMATCH[1]}/model.svq more=", precision: ${BASH_REMATCH[2]}"
  fi
  printf -- '- {name: %s, model: %s, scores: %s, map: %s, mean: %s%s}\n' "$(quoted "$1")" "$(quoted "$model")" \
    "$(quoted "$exp/$1/scores")" "$(quoted "$map")" "$(quoted "$exp/$1/embeddings/$cohort/mean.vec")" "$more"
}

mkdir -p "$(dirname "$out")"
{
  printf 'score: %s\n' "$(quoted "$score")"
  if [[ $operating == eer ]]; then echo "operating: {eer: true}"; else echo "operating: {p_target: $operating}"; fi
  printf 'rungs:\n'
  for system; do rung "$system"; done
} > "$out.tmp"
mv "$out.tmp" "$out"
