#!/usr/bin/env bash
# Rebuilds results/rare.json, rare.md and rare.svg: Resd, SDPO and GRPO where about one answer in a hundred is right (table T14, Countdown).
# Eleven ways x three seeds, one to two minutes of one core each; everything resumes. All have 92 updates of 8 problems: Resd's single pass of 23
# batches with 4 updates each. Learning rates: the better of two on val (LOG.md). --quick: four steps, one seed, about a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" runs=runs/rare out=results steps=92 half=48 more=(--set eval_every=23)
if [ "${1:-}" = "--quick" ]; then
    seeds="0" runs=runs/rare_quick out=runs/rare_quick steps=4 half=2 more=(--set eval_problems=8 --set n_eval=2)
fi
lr=4e-4
run() { # arm, module, settings
    python -m "baselines.$2" --config configs/countdown_rare.yaml --run-dir "$runs/$1-$seed" --resume --set "shared.seed=$seed" --set "lr=$lr" --set "steps=$steps" "${more[@]}" "${@:3}"
}
for seed in $seeds; do
    # nothing is revealed but right or wrong
    run grpo grpo --set group_size=8
    run sdpo-8-nothing sdpo --set reveal=nothing
    run resd-nothing resd --set reveal=nothing
    # a wrong answer is told the right one
    run sdpo-8 sdpo
    run sdpo-1 sdpo --set group_size=1
    run sdpo-1-context resd --set ratio_low=0 --set rebalance=false --set solution_buffer=false --set own_success=false --set ema=0.05  # SDPO's teacher and objective
    run resd resd
    run resd-no-reflection resd --set reflect=false
    run resd-no-playbook resd --set playbook=false
    run resd-no-buffer resd --set solution_buffer=false
    run resd-then-grpo resd --set "steps=$half"
    run resd-then-grpo grpo --set group_size=8 --set "steps=$((steps - half))" --set "shared.model=$runs/resd-then-grpo-$seed/resd/final"
done
python reproduce/rare.py "$runs" "$out"
