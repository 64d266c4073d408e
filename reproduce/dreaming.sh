#!/usr/bin/env bash
# Rebuilds results/dreaming.json and .svg: points worked into the weights, and what else could explain it (table T9).
# Ten ways of dreaming x three seeds on the ideal points of 8 questions, about 80 minutes of one core; everything
# resumes. Points that state a rule are dreamt; single facts (type C) are left out, as they say nothing about other
# questions, but for the arm all-types. An argument names the arms to run (the others keep their rows), --quick: two
# steps, one seed, a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" runs=runs/dreaming out=results more=(--set n_eval=8 --set n_label=8)
all="majority false-point twins gold with-point log-ratio all-types own gentle rehearse"
names=${1:-$all}
if [ "${1:-}" = "--quick" ]; then
    names=$all seeds="0" runs=runs/dreaming_quick out=runs/dreaming_quick
    more=(--set steps=2 --set eval_every=2 --set eval_questions=8 --set n_eval=2 --set n_label=2)
    more+=(--set dream_questions=2 --set variants=4)
fi
mkdir -p "$runs"
for kind in ideal wrong; do grep -v -- '"cluster": "[a-z]*-C"' "data/points_$kind.jsonl" > "$runs/$kind.jsonl"; done
declare -A arms=(
    [majority]=""
    [log-ratio]="--set reward=log_ratio"
    [gold]="--set reward=gold --set vary_with=task"
    [with-point]="--set context=with"
    [twins]="--set vary_with=task"
    [false-point]="--set library=$runs/wrong.jsonl"
    [all-types]="--set library=data/points_ideal.jsonl"
    [own]="--set own_answers=1"
    [gentle]="--set kl_coef=0.02"
    [rehearse]="--set rehearse=16"
)
for arm in $names; do
    for seed in $seeds; do
        # shellcheck disable=SC2086
        python dream_tta.py --config configs/bank.yaml --run-dir "$runs/$arm-$seed" --resume \
            --set "shared.seed=$seed" --set "library=$runs/ideal.jsonl" --set rehearse=0 ${arms[$arm]} "${more[@]}"
    done
done
python -m reproduce.dreaming "$runs" "$out"
