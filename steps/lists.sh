# shellcheck shell=bash disable=SC2154  # the variables are options of the step
# Sourced by the steps that read embeddings and score trial lists: says what they read and make, list by list.

# name_list LIST: sets `name` to the name of a list in scores and results (svq/names.py): dev for dev/trials, test_all for
# test/trials_all, test for far/test/trials.
name_list() {
  local file=${1##*/} folder=${1%/*}
  name=${folder##*/}${file#trials}
}

# or_xvectors FOLDER NAME: where a folder has Kaldi's xvector.scp and no embedding.scp (or spk_xvector.scp and no
# spk_embedding.scp), sets `vectors`, options of utils/step.sh, to it and the archives beside it; else leaves them as they are.
or_xvectors() {
  local kaldi=$1/${2/embedding/xvector} ark
  [[ ! -e $1/$2.scp && -e $kaldi.scp ]] || return 0
  vectors=(--in "$kaldi.scp")
  for ark in "$kaldi"*.ark; do vectors+=(--maybe "$ark"); done
}

# find_lists NORMS: sets `parts`, options of utils/step.sh, for every list, back end and norm to be scored: those of $lists,
# as pieces LIST:BACKEND:NORM, or the one list of the arguments. A norm other than none reads the scores of none.
find_lists() {
  local list name backend norm ins vectors
  parts=()
  if [[ -n $cohort ]]; then
    if [[ " $1 " == *" none "* ]]; then parts+=(--in "$cohort/mean.vec"); fi
    if [[ $1 != none ]]; then
      vectors=(--in "$cohort/spk_embedding.ark")
      or_xvectors "$cohort" spk_embedding
      parts+=("${vectors[@]}" --in "$cohort/mean.vec")
    fi
  fi
  for list in ${lists:-only}; do
    if [[ -n $lists ]]; then
      name_list "$list"
      vectors=(--in "$embeddings/${list%/*}/embedding.ark")
      or_xvectors "$embeddings/${list%/*}" embedding
      ins=(--in "$trials/$list" "${vectors[@]}" --maybe "$trials/${list%/*}/enroll.spk2utt")
    else
      name='' vectors=(--in "$embeddings/embedding.scp" --maybe "$embeddings/embedding.ark")
      or_xvectors "$embeddings" embedding
      if [[ -f $embeddings ]]; then vectors=(--in "$embeddings"); fi
      ins=(--in "$trials" "${vectors[@]}")
      if [[ -n $enroll_spk2utt ]]; then ins+=(--in "$enroll_spk2utt"); fi
    fi
    for backend in $backends; do
      for norm in $1; do
        if [[ -n $lists ]]; then parts+=(--piece "$list:$backend:$norm"); fi
        parts+=("${ins[@]}" --out "$scores${name:+/$name}/${backend}_$norm.score")
        if [[ $backend == plda && -n $plda ]]; then parts+=(--in "$plda"); fi
        if [[ $norm != none && ${0##*/} != score.sh ]]; then parts+=(--in "$scores${name:+/$name}/${backend}_none.score"); fi
      done
    done
  done
}

# find_rungs LADDER TRIALS...: sets `parts`, options of utils/step.sh, for the models that the file of a ladder names and
# for their scores of these lists, if the file is there: `- {name: ..., model: ..., scores: ..., ...}`.
find_rungs() {
  local line list folder file
  parts=()
  [[ -e $1 ]] || return 0
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line =~ model:\ *\'?([^\',}]+) ]]; then
      file=${BASH_REMATCH[1]}
      if [[ -d $file ]]; then file+=/model.safetensors; fi
      parts+=(--maybe "$file")
    fi
    if [[ $line =~ scores:\ *\'?([^\',}]+) ]]; then
      folder=${BASH_REMATCH[1]}
      for list in "${@:2}"; do
        name_list "${list#"${list%/*/*}/"}"
        parts+=(--maybe "$folder/$name/cosine_none.score")
      done
    fi
  done < "$1"
}
