#!/usr/bin/env bash
# Runs the systems of a table and puts them side by side: <exp>/<table>_<network>/{results.tsv,report.html}, and table.md
# and table.tex with the columns of Liu et al., table III. Every row is trained where it is missing.
#
# Usage, in a recipe's folder: local/table.sh <table> <network> [options of run.sh]
#                              local/table.sh <name> "<system> ..." [options of run.sh]
#   e.g. local/table.sh quantization teacher --backends cosine --norms asnorm
#        local/table.sh low_bits "teacher teacher_kmqat2 teacher_mixed2" --backends cosine
#
# Tables:
#   quantization  tables III and V of Liu et al.: every quantizer and bit width, mixed precision, the binary quantizers,
#                 our own; the control finetuned in float, and each method before finetuning
#   retention     table I: KMQAT at 4 bits with levels fitted to 100, 90 and 80 % of the weights (step 1 of section III-B
#                 read as parts of equally many weights), the other reading (equal width) and k-means proper
#   rescaling     table II: KMQAT at 4 bits with asymmetric (eq. 6) and symmetric (eq. 7) rescaling
#   mixed         what mixed precision at 2 bits owes to what: the same bits finetuned all at once in place of algorithm 1,
#                 and exact bits for every layer in place of bits that fall with the Hessian trace
#   stages        what each stage of a ResNet18 loses at 2 bits: finetuned with one after the other left in float
#   ptq           without training (arXiv 2407.08991): integer grids of 8 to 3 bits, 8 bits but for blocks that an EER
#                 budget leaves in float and, of an ECAPA-TDNN, but for its later SE-Res2Blocks; INT8 arithmetic
#   distillation  several levels of a teacher (arXiv 2303.01125): each alone, concatenations, the same students with
#                 labels only, and two of them at 2 bits, finetuned with labels and towards their own embeddings
set -euo pipefail
(($# >= 2)) && [[ $1 =~ ^[A-Za-z0-9_.-]+$ && $2 != -* ]] || {
  [[ ${1-} != --help ]] || { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 0; }
  echo "table.sh: needs <table> <network>, or <name> \"<systems>\" (--help says more)" >&2
  exit 2
}
[[ -e run.sh ]] || { echo "table.sh: no run.sh here; call it in a recipe's folder" >&2; exit 2; }
table=$1 net=$2
shift 2
before=()                                         # rows that are also wanted without finetuning
case $table in
  quantization)
    before=(uniform{4,3,2,1} kmqat{4,3,2,1} kmqat{4,3,2}-{width,count} mixed{3,2,1.7,1.3,1.1} static adaptive pot4
      apot{4,3,2} twn admm6 best{4,3,2,1} calibrated{4,3,2,1})
    rows=(float "${before[@]}") ;;
  retention) rows=(kmqat4-r100 kmqat4-count kmqat4-r80 kmqat4-width kmqat4) ;;
  rescaling) rows=(kmqat4-asymmetric kmqat4) ;;
  mixed) rows=(kmqat2 mixed2-onestage mixed2 mixed2-exact best2) ;;
  stages)
    if [[ -e conf/$net.yaml ]] && ! grep -q '^ *arch: ResNet18' "conf/$net.yaml"; then
      echo "table.sh: conf/$net.yaml is no ResNet18, whose stages the rows kmqat2-* name" >&2
      exit 2
    fi
    rows=(float kmqat2 kmqat2-{conv1,stage1,stage2,stage3,stage4,embedding}) ;;
  ptq)
    rows=() before=(integer8 selected8 integer6 integer4 integer3)
    if grep -qs 'arch: *ECAPA' "conf/$net.yaml"; then before+=(selective8); fi ;;
  distillation) rows=() ;;
  *) rows=() ;;
esac
case $table in
  distillation)
    systems="$net student-labels student-labels-wide"
    for row in utterance narrowBN wideBN {sp,lde}-aggr {narrowBN,wideBN,sp-aggr}-mn utterance+{narrowBN,wideBN,sp-aggr} \
      narrowBN+wideBN utterance+narrowBN+wideBN utterance+narrowBN+sp-aggr+lde-aggr; do
      systems+=" student-$net-$row"
    done
    for row in utterance utterance+narrowBN; do systems+=" student-$net-${row}_kmqat2 student-$net-${row}_kmqat2-distil"; done ;;
  quantization | retention | rescaling | mixed | stages | ptq)
    systems=$net
    if [[ $table == ptq ]]; then systems+=" $net-int8"; fi
    for row in ${rows[@]+"${rows[@]}"}; do systems+=" ${net}_$row"; done
    for row in ${before[@]+"${before[@]}"}; do systems+=" ${net}_$row-ptq"; done ;;
  *) systems=$net net="" ;;
esac
exec bash run.sh --systems "$systems" --table "$table${net:+_$net}" "$@"
