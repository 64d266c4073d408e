#!/usr/bin/env bash
# Rebuilds results/flagship.json and flagship.svg: does training teach a writer to introspect, or the bank by heart?
# Two ways of feedback, explanations with losers' points alone trained, and the same after SSD, x three seeds on
# configs/bank.yaml; then eval.py with blind writers, best of N and the ideal points. About 3 hours on 2 cores;
# everything resumes if it was interrupted.
# An argument names the arms to run (the others keep their rows), --quick: two steps, one seed, a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" first=() training=() measuring=() runs=runs/flagship out=results
arms=${1:-explanation answer losers ssd}
if [ "$arms" = "--quick" ]; then
    arms="explanation answer losers ssd" seeds="0" runs=runs/flagship_quick out=runs/flagship_quick
    first=(--set steps=2) training=(--set steps=2 --set eval_questions=8)
    measuring=(--set eval_questions=24 --set group_size=2 --set n_verify=2 --set n_fresh=2 --set best_of=2)
fi
for arm in $arms; do
    writers="" reveal=explanation contributors=both
    case $arm in answer) reveal=answer ;; losers | ssd) contributors=losers ;; esac
    for seed in $seeds; do
        run=$runs/$arm-$seed model=organism/weights
        if [ "$arm" = ssd ]; then
            python -m baselines.ssd --config configs/bank.yaml --run-dir "$run" --resume \
                --set "shared.seed=$seed" "${first[@]}"
            model=$run/ssd/final
        fi
        python grpo_introspect.py --config configs/bank.yaml --run-dir "$run" --resume --set eval_every=0 \
            --set "shared.seed=$seed" --set "shared.model=$model" --set "reveal=$reveal" \
            --set "contributors=$contributors" "${training[@]}"
        writers=$writers,$run/grpo_introspect/final
    done
    python eval.py --config configs/bank.yaml --run-dir "$runs/$arm" --resume --set "reveal=$reveal" \
        --set "writers=${writers#,}" --set splits=test_clusters --set library=data/points_ideal.jsonl "${measuring[@]}"
done
python -m reproduce.flagship "$runs" "$out"
