#!/usr/bin/env bash
# Rebuilds results/rivals.json and rivals.md: ours against its rivals on all 16 exchanges of each of the bank's 20 train
# clusters (table T12; after a few exchanges of new clusters: python -m reproduce.exchanges).
# Three seeds, about an hour of one core a seed, beyond reproduce/recall.sh, whose library and models it uses; all of it
# resumes. An argument names seeds, so that two shells can share them. Learning rates of SFT, SDPO, GRPO and Resd are
# the best of three or four on the clusters of split val that cost the canary at most 0.05 (docs/LOG.md); others borrow
# them, SSD and Reflect-Retry-Reward have the default. Steps are 120 (SFT: 40), and 600; the dream is that of
# exchanges.py after 16 exchanges, of which nine clusters for tuning are taught here too. What is asked is of another
# seed of the world than anything that was tuned on.
# --quick: two steps, one seed, two to three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${1:-0 1 2} runs=runs/rivals out=results recalled=runs/recall n=4 more=() dreaming=()
if [ "${1:-}" = "--quick" ]; then
    seeds="0" runs=runs/rivals_quick out=runs/rivals_quick n=1
    more=(--set steps=2) dreaming=(--set steps=2 --set dream_questions=8 --set n_label=2 --set rehearse=1)
fi
if [ ! -f "$recalled/library.jsonl" ]; then
    echo "rivals.sh: no $recalled/library.jsonl; first bash reproduce/recall.sh" >&2
    exit 2
fi

answers() { # arm, model, more options of answers.py
    python -m reproduce.answers "$2" --questions "$runs/asked.jsonl" --splits test,composite,test_clusters,canary \
        --n "$n" --out "$runs/$1-$seed.json" "${@:3}"
}
rival() { # arm, module, settings: its own evaluations are kept small, answers.py measures
    python -m "baselines.$2" --config configs/bank.yaml --run-dir "$runs/$1-$seed" --resume \
        --set "shared.seed=$seed" --set eval_splits=canary --set eval_problems=8 \
        --set n_eval=1 --set save_every=1000 --set steps=120 "${@:3}" "${more[@]}"
    answers "$1" "$runs/$1-$seed/$2/final"
}

# Of all seeds: the start model, alone and with the library's best point of each cluster.
seed=0 chosen=$runs/written.jsonl
mkdir -p "$runs"
python -m reproduce.recall questions 20261206 "$runs/asked.jsonl"
answers start organism/weights
answers start-greedy organism/weights --temperature 0
python -m reproduce.rivals best "$recalled/library.jsonl" "$chosen"
answers written organism/weights --points "$chosen"
python -m reproduce.rivals every "$chosen" "$runs/every.jsonl"
for seed in $seeds; do
    rival grpo grpo --set lr=4e-4
    rival sft-explanation sft --set on=corrections --set reveal=explanation --set lr=1e-4 --set steps=40
    rival sdpo sdpo --set reveal=explanation --set lr=4e-4
    rival resd resd --set reveal=explanation --set single_pass=false --set lr=4e-4
    rival sft-gold sft --set lr=1e-4 --set steps=40
    rival sft-answer sft --set on=corrections --set lr=1e-4 --set steps=40
    rival sdpo-answer sdpo --set lr=4e-4
    rival sdpo-ss sdpo --set reveal=explanation --set own_success=true --set lr=4e-4
    rival dr-grpo grpo --set scale_rewards=false --set loss=dr_grpo --set lr=4e-4
    # Answers end long before a chain would be cut, so this is Dr. GRPO with a k1 in the reward.
    rival composer grpo --set scale_rewards=false --set loss=dr_grpo --set reward_kl=0.02 \
        --set context_limit=150 --set lr=4e-4
    rival grpo-long grpo --set lr=4e-4 --set steps=600 # about as many sampled tokens as one of our writers
    rival sdpo-long sdpo --set reveal=explanation --set lr=4e-4 --set steps=600
    rival sdpo-slow sdpo --set reveal=explanation --set lr=1e-4 --set steps=600
    rival resd-long resd --set reveal=explanation --set single_pass=false --set lr=4e-4 --set steps=600
    rival ssd ssd
    rival retry reflect_retry
    answers recalled "$recalled/$seed/sft_recall/final"
    answers by-threshold "$recalled/$seed/sft_recall/final" --recall
    python dream_tta.py --config configs/bank.yaml --run-dir "$runs/dreamt-$seed" --resume \
        --set "shared.seed=$seed" --set "library=$runs/every.jsonl" --set dream_questions=1000 --set variants=4 \
        --set n_label=4 --set own_answers=1 --set steps=340 --set stop_drop=1 --set save_every=1000 \
        --set eval_every=1000 --set eval_questions=8 --set n_eval=1 "${dreaming[@]}"
    answers dreamt "$runs/dreamt-$seed/dream_tta/final"
    # A recalled point is not sampled, all else is: what everyone loses by that.
    for arm in grpo grpo-long sdpo; do
        answers "$arm-greedy" "$runs/$arm-$seed/${arm%-long}/final" --temperature 0
    done
    answers by-threshold-greedy "$recalled/$seed/sft_recall/final" --recall --temperature 0
    answers dreamt-greedy "$runs/dreamt-$seed/dream_tta/final" --temperature 0
done
python -m reproduce.rivals table "$runs" "$out"
