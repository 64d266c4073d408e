#!/usr/bin/env bash
# Rebuilds results/dreaming.json and .svg: points worked into the weights, and what else could explain it (table T9).
# Six ways of dreaming x three seeds on the ideal points of 8 questions, about 20 minutes on 2 cores; everything resumes.
# --quick: two steps, one seed, a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" runs=runs/dreaming out=results more=(--set n_eval=8 --set n_label=8)
if [ "${1:-}" = "--quick" ]; then
    seeds="0" runs=runs/dreaming_quick out=runs/dreaming_quick
    more=(--set steps=2 --set eval_every=2 --set eval_questions=8 --set n_eval=2 --set dream_questions=2 --set variants=4 --set n_label=2)
fi
declare -A arms=(
    [majority]=""
    [log-ratio]="--set reward=log_ratio"
    [gold]="--set reward=gold"
    [with-point]="--set context=with"
    [own-questions]="--set vary_with=model"
    [false-point]="--set library=data/points_wrong.jsonl"
)
for seed in $seeds; do
    for arm in majority log-ratio gold with-point own-questions false-point; do
        # shellcheck disable=SC2086
        python dream_tta.py --config configs/bank.yaml --run-dir "$runs/$arm-$seed" --resume --set "shared.seed=$seed" ${arms[$arm]} "${more[@]}"
    done
done
python reproduce/dreaming.py "$runs" "$out"
