#!/usr/bin/env bash
# Rebuilds results/rivals.json, rivals.md, rivals.svg: ours against its rivals on the same exchanges (table T12).
#   bash reproduce/rivals.sh [--quick] [k ...]
# k: 1 2 4 8 16 32 exchanges of each of 12 clusters that nothing was trained on, or `bank`: all 16 of each of the bank's
# 20 train clusters; default all of these.
# Three seeds, about ten minutes of one core a seed for each k (bank: 60), beyond reproduce/recall.sh, whose writers
# and libraries it uses; everything resumes. The rivals' learning rates are the best of three or four on the clusters
# of split val that cost the canary at most 0.05 (docs/LOG.md), their steps as many as a dream has (SFT: 40, likewise);
# ours is as its own tables left it, but that `bank` dreams single facts (type C) too.
# --quick: k 2, two steps, one seed, two to three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" runs=runs/rivals out=results writers=runs/flagship recalled=runs/recall n=4
few=() more=() writing=() dreaming=()
if [ "${1:-}" = "--quick" ]; then
    shift
    seeds="0" runs=runs/rivals_quick out=runs/rivals_quick n=1 few=(2)
    more=(--set steps=2) writing=(--set steps=2) dreaming=(--set steps=2 --set variants=4 --set n_label=2)
fi
if [ $# -gt 0 ]; then few=("$@"); elif [ ${#few[@]} -eq 0 ]; then few=(1 2 4 8 16 32 bank); fi

answers() { # arm, model, more options of answers.py
    python -m reproduce.answers "$2" --questions "$bank" --splits "$splits" --n "$n" \
        --out "$runs/$k/$1-$seed.json" "${@:3}"
}
rival() { # arm, module, settings: its own evaluations are kept small, answers.py measures
    python -m "baselines.$2" --config configs/bank.yaml --run-dir "$runs/$k/$1-$seed" --resume \
        --set "shared.seed=$seed" --set "shared.questions=$bank" --set eval_splits=canary --set eval_problems=8 \
        --set n_eval=1 --set save_every=1000 --set steps=120 "${@:3}" "${more[@]}"
    answers "$1" "$runs/$k/$1-$seed/$2/final"
}
# arm, model that writes: one pass of stage 1 over the exchanges (two for a single one, which its own question verifies)
written() {
    local steps=$((3 * k / 2)) verify_on=transfer
    if [ "$k" = 1 ]; then steps=3 verify_on=same; fi
    python grpo_introspect.py --config configs/bank.yaml --run-dir "$runs/$k/$1-$seed" --resume \
        --set "shared.seed=$seed" --set "shared.questions=$bank" --set "shared.model=$2" --set contributors=losers \
        --set group_size=8 --set eval_every=0 --set eval_split=test --set eval_questions=8 \
        --set "steps=$steps" --set "verify_on=$verify_on" "${writing[@]}"
    python -m reproduce.rivals best "$runs/$k/$1-$seed/grpo_introspect/library.jsonl" "$runs/$k/$1-$seed.jsonl"
    answers "$1" organism/weights --points "$runs/$k/$1-$seed.jsonl"
}
dreamt() { # arm, points: one of each cluster
    python dream_tta.py --config configs/bank.yaml --run-dir "$runs/$k/$1-$seed" --resume \
        --set "shared.seed=$seed" --set "shared.questions=$bank" --set "library=$2" --set dream_questions=100 \
        --set eval_every=60 --set eval_questions=24 --set n_eval=2 "${dreaming[@]}"
    answers "$1" "$runs/$k/$1-$seed/dream_tta/final"
}

for k in "${few[@]}"; do
    bank=$runs/$k.jsonl splits=test,canary
    if [ "$k" = bank ]; then bank=data/bank.jsonl splits=test,composite,test_clusters,canary
    else python -m reproduce.few "$k" --out "$bank"; fi
    for seed in $seeds; do
        if [ "$seed" = 0 ]; then answers start organism/weights; fi
        rival grpo grpo --set lr=4e-4
        rival sft-explanation sft --set on=corrections --set reveal=explanation --set lr=1e-4 --set steps=40
        rival sdpo sdpo --set reveal=explanation --set lr=4e-4
        rival resd resd --set reveal=explanation --set single_pass=false --set lr=4e-4
        if [ "$k" = bank ]; then
            rival sft-gold sft --set lr=1e-4 --set steps=40
            rival sft-answer sft --set on=corrections --set lr=1e-4 --set steps=40
            rival sdpo-answer sdpo --set lr=4e-4
            rival sdpo-ss sdpo --set reveal=explanation --set own_success=true --set lr=4e-4
            rival dr-grpo grpo --set scale_rewards=false --set loss=dr_grpo --set lr=4e-4
            rival composer grpo --set scale_rewards=false --set loss=dr_grpo --set reward_kl=0.02 \
                --set context_limit=150 --set lr=4e-4
            rival grpo-long grpo --set lr=4e-4 --set steps=600 # about as many sampled tokens as one of our writers
            rival sdpo-long sdpo --set reveal=explanation --set lr=4e-4 --set steps=600
            rival sdpo-slow sdpo --set reveal=explanation --set lr=1e-4 --set steps=600
            rival resd-long resd --set reveal=explanation --set single_pass=false --set lr=4e-4 --set steps=600
            rival ssd ssd
            rival retry reflect_retry
            python -m reproduce.rivals best "$recalled/library.jsonl" "$runs/$k/written-$seed.jsonl"
            if [ "$seed" = 0 ]; then answers written organism/weights --points "$runs/$k/written-$seed.jsonl"; fi
            answers recalled "$recalled/$seed/sft_recall/final"
        else
            python -m reproduce.rivals told "$bank" "$runs/$k/told-$seed.jsonl" "$seed"
            answers told organism/weights --points "$runs/$k/told-$seed.jsonl"
            written untrained organism/weights
            written written "$writers/losers-$seed/grpo_introspect/final"
        fi
        dreamt dreamt "$runs/$k/written-$seed.jsonl"
    done
done
python -m reproduce.rivals table "$runs" "$out"
