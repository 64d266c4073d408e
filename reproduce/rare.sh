#!/usr/bin/env bash
# Rebuilds results/rare.json, rare.md and rare.svg: Resd, SDPO and GRPO where at most one answer in a hundred is right
# (table T14), on
#   bank       the bank's questions that the start model practically never answers right (reproduce/hard.py); wrong
#              answers are told the explanation
#   countdown  Countdown targets that only a product reaches; wrong answers are told a right one. The model of the
#              puzzles was never taught to write reflections in blocks: none of Resd's parses there, so arms that
#              differ in reflections or the playbook run on the bank alone
# All arms of a task have equally many updates of 8 problems, as many as Resd's single pass has with 4 updates a batch.
# Twelve ways and eight x three seeds, about a minute of one core each; everything resumes. Learning rates were tuned
# on val (docs/LOG.md). --quick: a few steps, one seed.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" runs=runs/rare out=results
# its objective and its teacher
sdpo=(--set ratio_low=0 --set rebalance=false --set own_success=false --set solution_buffer=false --set ema=0.05)
# each batch once, 4 updates on it, as Resd
stream=("${sdpo[@]}" --set reflect=false --set playbook=false --set previous_trial=false)
if [ "${1:-}" = "--quick" ]; then seeds="0" runs=runs/rare_quick out=runs/rare_quick; fi
python -m reproduce.hard --out "$runs/bank.jsonl"
run() { # arm, module, settings
    python -m "baselines.$2" --config "configs/$config.yaml" --run-dir "$runs/$task/$1-$seed" --resume --set lr=4e-4 \
        --set "shared.seed=$seed" --set "steps=$steps" --set eval_splits=test,canary "${more[@]}" "${@:3}"
}
for seed in $seeds; do
    for task in countdown bank; do
        if [ "$task" = countdown ]; then
            config=countdown_rare steps=92 half=48 told=(--set reveal=answer) more=(--set eval_every=23)
        else
            config=bank steps=56 half=28 told=(--set reveal=explanation)
            more=(--set eval_every=14 --set "shared.questions=$runs/bank.jsonl")
        fi
        if [ "$runs" = runs/rare_quick ]; then steps=4 half=2 more+=(--set eval_problems=8 --set n_eval=2); fi
        # nothing is revealed but right or wrong
        run grpo grpo --set group_size=8
        run sdpo-8-nothing sdpo --set reveal=nothing
        # a wrong answer is told more
        run sdpo-8 sdpo "${told[@]}"
        run sdpo-1 sdpo "${told[@]}" --set group_size=1
        run sdpo-1-stream resd "${told[@]}" "${stream[@]}"
        run resd resd "${told[@]}"
        run resd-no-buffer resd "${told[@]}" --set solution_buffer=false
        run resd-then-grpo resd "${told[@]}" --set "steps=$half"
        run resd-then-grpo grpo --set group_size=8 --set "steps=$((steps - half))" \
            --set "shared.model=$runs/$task/resd-then-grpo-$seed/resd/final"
        if [ "$task" = bank ]; then
            run resd-no-reflection resd "${told[@]}" --set reflect=false
            run resd-no-playbook resd "${told[@]}" --set playbook=false
            run sdpo-1-context resd "${told[@]}" "${sdpo[@]}"
            run resd-nothing resd --set reveal=nothing
        fi
    done
done
python -m reproduce.rare "$runs" "$out"
