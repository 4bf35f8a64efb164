#!/usr/bin/env bash
# Compresses a network to several sizes with steps/compress.sh, and puts them side by side: <out>/table.md and table.tsv,
# with EER, minDCF and the cosine to the float network of every step.
#
# Usage: local/compression_table.sh "<megabytes> ..." <out> [options of steps/compress.sh]
#   e.g. local/compression_table.sh "1.4 0.7 0.5 0.36" exp/resemblyzer --model corpus/resemblyzer/pretrained.pt \
#          --from resemblyzer --data data/train --trials data/test/trials --crop-seconds 1.6
#
# Each size has a folder of its own, <out>/<megabytes>. A finished piece of work is skipped.
set -euo pipefail
if [[ ${1-} == --help ]]; then sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 0; fi
refuse() { echo "compression_table.sh: $1" >&2; exit 2; }
if (($# < 2)) || [[ $1 == -* || $2 == -* || -z $2 ]]; then
  refuse 'needs "<megabytes> ..." and <out> (--help says more)'
fi
read -ra sizes <<< "$1"
out=${2%/}
shift 2
((${#sizes[@]})) || refuse 'needs "<megabytes> ...", such as "1.4 0.7"'
for size in "${sizes[@]}"; do
  [[ $size =~ ^[0-9]+(\.[0-9]+)?$ ]] || refuse "$size: no number of megabytes"
done
for word in "$@"; do
  case $word in --out | --out=* | --target-mb | --target-mb=* | --target_mb | --target_mb=*)
    refuse "$word: sizes and folder are given before the options" ;;
  esac
done

. ./path.sh
for size in "${sizes[@]}"; do
  bash "$SVQ_ROOT/steps/compress.sh" "$@" --target-mb "$size" --out "$out/$size"
done
for word in "$@"; do
  case $word in --dry-run | --dry-run=* | --dry_run | --dry_run=* | --stop-stage | --stop-stage=* | --stop_stage | --stop_stage=*)
    exit 0 ;;                                     # there may be no reports yet
  esac
done
python3 -m svq.bin.compress table "${sizes[@]/#/$out/}" --table "$out/table"
