#!/usr/bin/env bash
# Runs systems of a recipe and puts them side by side: <exp>/<name>/{results.tsv,report.html} and the
# table with the columns of Liu et al., table III, as table.md and table.tex.
#
# Usage, in a recipe's folder: local/table.sh <name> "<systems>" [options of run.sh]
#   e.g. local/table.sh low_bits "teacher teacher_kmqat2 teacher_mixed2" --backends cosine --norms asnorm
#
# Every row is trained where it is missing; nothing that is finished is done again.
set -euo pipefail
(($# >= 2)) && [[ $1 =~ ^[A-Za-z0-9_.-]+$ ]] || { echo "table.sh: needs <name> \"<systems>\" [options of run.sh]" >&2; exit 2; }
[[ -e run.sh ]] || { echo "table.sh: no run.sh here; call it in a recipe's folder" >&2; exit 2; }
name=$1 systems=$2
shift 2
exp=exp dry_run=false
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --debug | --debug=true) exp=debug/exp ;;  # where mini's run.sh puts it
    --dry[-_]run | --dry[-_]run=true) dry_run=true ;;
    --exp) next=$((i + 1)); exp=${!next-} ;;
    --exp=*) exp=${!i#--exp=} ;;
  esac
done
out=$exp/$name
bash run.sh --systems "$systems" --report "$out" "$@"
[[ $dry_run == false && -e $out/results.tsv ]] || exit 0  # nothing was run, or not up to the report
. ./path.sh
[[ -e $out/table.md ]] || printf '# %s\n\n<!-- results:begin -->\n<!-- results:end -->\n' "$name" > "$out/table.md"
python3 -m svq.bin.results_md --results "$out/results.tsv" --exp "$exp" --layout paper --into "$out/table.md" \
  --latex "$out/table.tex"
