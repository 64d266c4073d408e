#!/usr/bin/env bash
# Rebuilds results/observations.json and .svg: four things that a throw-away prototype showed once, with one seed and unequal
# settings, tested with V = 4 everywhere. Four arms and our default x two seeds, about 60 minutes on 2 cores; resumes.
# --quick: two steps, one seed, a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1" steps=100 runs=runs/observations out=results more=()
if [ "${1:-}" = "--quick" ]; then
    seeds="0" steps=2 runs=runs/observations_quick out=runs/observations_quick more=(--set eval_questions=8)
fi
declare -A arms=(
    [default]=""
    [same]="--set verify_on=same"
    [fast]="--set lr=3e-4 --set kl_coef=0"
    [answers]="--set mask=conversation+verification"
    [all-tokens]="--set mask=conversation --set train_loser_attempt=true"
)
for seed in $seeds; do
    for arm in default same fast answers all-tokens; do
        # shellcheck disable=SC2086
        python grpo_introspect.py --config configs/bank.yaml --run-dir "$runs/$arm-$seed" --resume --set "shared.seed=$seed" \
            --set "steps=$steps" --set reveal=answer --set n_verify=4 ${arms[$arm]} "${more[@]}"
        python eval.py --config configs/bank.yaml --run-dir "$runs/$arm-$seed" --resume --set splits=val --set reveal=answer --set blind=false \
            --set best_of=0 --set "writers=$runs/$arm-$seed/grpo_introspect/final" --set library=data/points_ideal.jsonl "${more[@]}"
    done
done
python reproduce/observations.py "$runs" "$out"
