#!/usr/bin/env bash
# Rebuilds results/retry.json and retry.md: Reflect, Retry, Reward, its control and other rivals on Countdown and
# function calling (table T13). Five ways x two tasks x three seeds, about 40 minutes on 2 cores; everything resumes.
# Each has the best of the same three learning rates on val of each task (docs/LOG.md).
# --quick: two steps, one seed, a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" runs=runs/retry out=results more=(--set steps=100 --set eval_problems=100)
if [ "${1:-}" = "--quick" ]; then
    seeds="0" runs=runs/retry_quick out=runs/retry_quick
    more=(--set steps=2 --set eval_problems=8 --set n_eval=2)
fi
declare -A lr=(
    [countdown-reflect]=1e-4 [countdown-control]=2e-4 [countdown-grpo]=2e-4 [countdown-ssd]=2e-4 [countdown-sft]=4e-4
    [calls-reflect]=1e-4 [calls-control]=2e-4 [calls-grpo]=1e-4 [calls-ssd]=2e-4 [calls-sft]=4e-4
)
for seed in $seeds; do
    for task in countdown calls; do
        run() { # arm, module, settings
            python -m "baselines.$2" --config "configs/$task.yaml" --run-dir "$runs/$task-$1-$seed" --resume \
                --set "shared.seed=$seed" --set "lr=${lr[$task-$1]}" "${@:3}" "${more[@]}"
        }
        run reflect reflect_retry
        run control reflect_retry --set reflect=false
        run grpo grpo
        run ssd ssd
        run sft sft
    done
done
python -m reproduce.retry "$runs" "$out"
