#!/usr/bin/env bash
# Rebuilds results/flagship.json and results/flagship.svg: does training teach a writer to introspect, or the bank by heart?
# Two ways of feedback x three seeds on configs/bank.yaml, then eval.py with blind writers, best of N and the ideal points.
# About 2 hours on 2 cores; everything resumes if it was interrupted. --quick: two steps, one seed, a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" training=() measuring=() runs=runs/flagship out=results
if [ "${1:-}" = "--quick" ]; then
    seeds="0" training=(--set steps=2 --set eval_every=0 --set eval_questions=8) runs=runs/flagship_quick out=runs/flagship_quick
    measuring=(--set eval_questions=24 --set group_size=2 --set n_verify=2 --set n_fresh=2 --set best_of=2)
fi
for reveal in explanation answer; do
    writers=""
    for seed in $seeds; do
        run=$runs/$reveal-$seed
        python grpo_introspect.py --config configs/bank.yaml --run-dir "$run" --resume --set "shared.seed=$seed" --set "reveal=$reveal" "${training[@]}"
        writers=$writers,$run/grpo_introspect/final
    done
    python eval.py --config configs/bank.yaml --run-dir "$runs/$reveal" --resume --set "reveal=$reveal" --set "writers=${writers#,}" \
        --set library=data/points_ideal.jsonl "${measuring[@]}"
done
python reproduce/flagship.py "$runs" "$out"
