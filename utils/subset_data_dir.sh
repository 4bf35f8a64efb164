#!/usr/bin/env bash
# Makes a data directory of some utterances of another. Trial lists are left out.
# Usage: utils/subset_data_dir.sh [--first|--last|--shortest|--per-spk|--speakers] <src-dir> <count> <dest-dir>
#        utils/subset_data_dir.sh --per-spk --num-spk <speakers> <src-dir> <count> <dest-dir>
#        utils/subset_data_dir.sh --utt-list <file> | --spk-list <file> <src-dir> <dest-dir>
# Without an option, it takes <count> utterances spread evenly over the list.
set -euo pipefail
first=false     # take the first <count>
last=false      # take the last <count>
shortest=false  # take the shortest <count> (by utt2dur)
per_spk=false   # take <count> of each speaker (all of a speaker that has fewer)
num_spk=0       # with --per-spk, of so many speakers, drawn; <count> may be 0 then: all of each. 0: of all speakers
seed=1          # seed of the draw of speakers
speakers=false  # take whole speakers until there are <count> utterances
utt_list=       # file whose first column names the utterances
spk_list=       # file whose first column names the speakers
. "${0%"${0##*/}"}../utils/parse_options.sh"
usage() { echo "${0##*/}: $1 (--help says more)" >&2; exit 2; }
ways=()
for way in first last shortest per_spk speakers; do
  [[ ${!way} == false ]] || ways+=("${way//_/-}")
done
if [[ -n $utt_list || -n $spk_list ]]; then
  [[ ${#ways[@]} -eq 0 && $# -eq 2 ]] || usage "with a list: <src-dir> <dest-dir>, no count, no other choice"
  [[ -z $utt_list || -z $spk_list ]] || usage "either --utt-list or --spk-list"
  args=(--utt-list="$utt_list" -- "$1" "$2")
  [[ -z $spk_list ]] || args=(--spk-list="$spk_list" -- "$1" "$2")
else
  [[ ${#ways[@]} -le 1 ]] || usage "one of ${ways[*]/#/--}"
  [[ $# -eq 3 && $2 =~ ^[0-9]+$ ]] || usage "usage: [options] <src-dir> <count> <dest-dir>"
  args=(--count "$2" --how "${ways[0]:-even}" --num-spk "$num_spk" --seed "$seed" -- "$1" "$3")
fi
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir subset "${args[@]}"
