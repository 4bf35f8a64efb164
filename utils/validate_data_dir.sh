#!/usr/bin/env bash
# Checks Kaldi data directories: names the file and the line of each mistake, and exits with 1 if there is any.
# Usage: utils/validate_data_dir.sh [options] <data-dir> ...
set -euo pipefail
check_audio=header  # header: open every recording; decode: also decode it whole and look for silence; none: open none
nj=4                # recordings opened at once
limit=20            # problems shown; the others are counted
remember=false      # true: a directory that has passed is not checked again until its lists change
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -ge 1 ]] || { echo "usage: ${0##*/} [options] <data-dir> ... (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"
if [[ $remember == true ]]; then
  parts=()
  for data; do
    data=${data%/} name=${data##*/}
    parts+=(--piece "${name// /_}" --in "$data/wav.scp" --recordings "$data/wav.scp" --in "$data/utt2spk" --maybe "$data/segments"
      --maybe "$data/reco2file_and_channel" --out "$data/utt2spk" --stamp "$data/.done.validate"
      --title "the check of $data")
  done
  step --neutral limit "${parts[@]}"
fi
for data; do
  data=${data%/} name=${data##*/}
  if [[ $remember == true && " ${pieces[*]} " != *" ${name// /_} "* ]]; then continue; fi
  python3 -m svq.bin.data_dir validate --check-audio "$check_audio" --threads "$nj" --limit "$limit" -- "$data"
done
