#!/usr/bin/env bash
# Rebuilds results/observations.json and .svg: four things that a throw-away prototype showed once, with one seed and
# unequal settings, tested with V = 4 everywhere. Four arms x two seeds, about 60 minutes on 2 cores; resumes.
# An argument names the seeds; --quick: two steps, one seed, a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${1:-0 1} runs=runs/observations out=results training=() measuring=()
if [ "${1:-}" = "--quick" ]; then
    seeds="0" runs=runs/observations_quick out=runs/observations_quick
    training=(--set steps=2 --set eval_questions=8) measuring=(--set eval_questions=8)
fi
declare -A arms=(
    [default]="--set steps=60"
    [same]="--set steps=60 --set verify_on=same"
    [fast]="--set steps=120 --set lr=3e-4 --set kl_coef=0"
    [answers]="--set steps=50 --set mask=conversation+verification"
)
for seed in $seeds; do
    for arm in same fast answers default; do
        # shellcheck disable=SC2086
        python grpo_introspect.py --config configs/bank.yaml --run-dir "$runs/$arm-$seed" --resume \
            --set "shared.seed=$seed" --set reveal=answer --set n_verify=4 --set n_fresh=2 --set eval_every=0 \
            ${arms[$arm]} "${training[@]}"
        python eval.py --config configs/bank.yaml --run-dir "$runs/$arm-$seed" --resume --set splits=val \
            --set reveal=answer --set blind=false --set best_of=0 --set library=data/points_ideal.jsonl \
            --set "writers=$runs/$arm-$seed/grpo_introspect/final" "${measuring[@]}"
    done
done
python -m reproduce.observations "$runs" "$out"
