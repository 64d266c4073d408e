#!/usr/bin/env bash
# Rebuilds results/early.json: GRPO and SDPO on one exchange of each new cluster, stopped after 8, 20 and 40 of the
# 120 steps of reproduce/rivals.sh (table T12, k = 1). Three seeds, six minutes of one core; everything resumes.
# --quick: one seed, eight steps, half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" steps="8 20 40" runs=runs/early out=results
if [ "${1:-}" = "--quick" ]; then seeds="0" steps="8" runs=runs/early_quick out=runs/early_quick; fi
bank=$runs/1.jsonl
mkdir -p "$runs"
python -m reproduce.few 1 --out "$bank"
for seed in $seeds; do
    for n in $steps; do
        for method in grpo sdpo; do
            home=$runs/$method-$n-$seed told=()
            if [ "$method" = sdpo ]; then told=(--set reveal=explanation); fi
            python -m "baselines.$method" --config configs/bank.yaml --run-dir "$home" --resume --set lr=4e-4 \
                --set "shared.seed=$seed" --set "shared.questions=$bank" --set "steps=$n" "${told[@]}" \
                --set eval_splits=canary --set eval_problems=8 --set n_eval=1 --set save_every=1000
            python -m reproduce.answers "$home/$method/final" --questions "$bank" --splits test,canary --n 4 \
                --out "$home.json"
        done
    done
done
python -m reproduce.early "$runs" "$out"
