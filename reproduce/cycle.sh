#!/usr/bin/env bash
# Rebuilds results/cycle.json, cycle.md and .svg: the cycle of all stages, clusters arriving in 4 rounds of 5 (T18).
# A round of ours: deploy and collect wrong answers, stage 1 on them, merge its library with the earlier ones, stage 2;
# each stage starts from the weights of the one before, so that writing and recalling both go on. What stage 2 leaves
# is deployed, measured, and collects next. In ours-dreamt stage 3 takes the place of stage 2 and dreams of every
# question that was answered wrong, with its cluster's best point (its explanation where there is none).
# What is asked is of another seed of the world than anything that was tuned on.
# Points need questions to be recalled on: ours, sft and grpo have this round's alone and never see an old one again;
# in ours-kept, sft-kept and grpo-kept the current model is asked all questions so far (stage 2 with the merged
# library, SFT on what it gets wrong now), for the same number of optimiser steps. From round 2 on a question counts
# as not needing a point if the model that recalls already answers it.
# bash reproduce/cycle.sh [--quick] [arm...]; arms are below, default all. Three seeds, two to three hours on one
# core; everything resumes. --quick: one seed, two rounds, tiny numbers, about six minutes of one core, most of it to
# load and start (an argument names fewer arms).
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" rounds="1 2 3 4" runs=runs/cycle out=results most=0
arms="ours sft grpo resd ours-kept sft-kept grpo-kept ours-dreamt"
# answers to each question of a round (a wrong one is a correction), to each test question
attempts=4 n=8
# of stage 1; of stage 2 (epochs / round in arms kept); of stage 3 (exchanges.py's after 16 exchanges of each of 12
# clusters; 340 steps for those are 140 for five)
writing=(--set steps=10 --set group_size=8 --set eval_every=0 --set eval_questions=8 --set show_every=0)
epochs=36 recalling=(--set n_measure=4 --set eval_split=val --set eval_questions=8)
dreaming=(--set dream_questions=1000 --set variants=4 --set n_label=4 --set own_answers=1 --set steps=140)
dreaming+=(--set stop_drop=1 --set eval_every=1000 --set eval_questions=8 --set n_eval=1)
# of sft (32 corrections a step), grpo (8 questions, 16 answers: four passes), resd (10 batches of 8, 4 steps on
# each: one pass)
steps=40
if [ "${1:-}" = "--quick" ]; then
    shift
    seeds="0" rounds="1 2" runs=runs/cycle_quick out=runs/cycle_quick most=4 attempts=1 n=1 epochs=2 steps=2
    writing+=(--set steps=2 --set group_size=4) recalling+=(--set n_measure=2 --set candidates=1 --set rehearse=1)
    dreaming+=(--set steps=2 --set dream_questions=8 --set n_label=2 --set rehearse=1)
fi
arms=${*:-$arms}
declare -A own=( # learning rates of reproduce/rivals.sh, not tuned for the cycle
    [sft]="--set on=corrections --set reveal=explanation --set attempts=$attempts --set lr=1e-4"
    [grpo]="--set lr=4e-4"
    [resd]="--set reveal=explanation --set lr=4e-4"
)
# script, settings; 96 tokens hold a recalled point (or an explanation) and an answer, 48, the default, would cut a
# deployed model off
stage() {
    # shellcheck disable=SC2086
    python $1 --config configs/bank.yaml --run-dir "$home" --resume --set "shared.seed=$seed" \
        --set "shared.model=$model" --set max_new_tokens=96 "${@:2}"
}
answers() { # model, file, more options of answers.py
    python -m reproduce.answers "$1" --questions "$runs/asked.jsonl" --n "$n" --out "$2" "${@:3}"
}
mkdir -p "$runs"
python -m reproduce.recall questions 20261207 "$runs/asked.jsonl"
for seed in $seeds; do
    python -m reproduce.cycle rounds --seed "$seed" --most "$most" --out "$runs/$seed"
    answers organism/weights "$runs/answers-0.json" --splits test,canary # of every seed
    for arm in $arms; do
        method=${arm%-*} model=organism/weights libraries=()
        for round in $rounds; do
            home=$runs/$seed/$arm/$round new=$runs/$seed/round-$round.jsonl bank=$new passes=$epochs
            if [ "$round" = 1 ]; then home=$runs/$seed/$method/1 # variants begin alike
            elif [ "${arm#*-}" = kept ]; then bank=$runs/$seed/kept-$round.jsonl passes=$((epochs / round)); fi
            if [ "$method" = ours ]; then
                python -m reproduce.collect "$model" --questions "$new" --out "$home/exchanges.jsonl" \
                    --seed "$seed" --n "$attempts"
                stage grpo_introspect.py --set "shared.questions=$new" --set "exchanges=$home/exchanges.jsonl" \
                    "${writing[@]}"
                model=$home/grpo_introspect/final libraries+=("$home/grpo_introspect/library.jsonl")
                python -m introspection.library merge "${libraries[@]}" --out "$home/library.jsonl"
                if [ "$arm" = ours-dreamt ]; then
                    python -m reproduce.cycle every "$home/grpo_introspect/library.jsonl" --questions "$new" \
                        --exchanges "$home/exchanges.jsonl" --out "$home/every.jsonl"
                    stage dream_tta.py --set "shared.questions=$new" --set "library=$home/every.jsonl" \
                        "${dreaming[@]}"
                    model=$home/dream_tta/final
                else
                    stage sft_recall.py --set "shared.questions=$bank" --set "library=$home/library.jsonl" \
                        --set "epochs=$passes" "${recalling[@]}"
                    model=$home/sft_recall/final
                fi
            else # their own evaluations are not used
                # shellcheck disable=SC2086
                stage "-m baselines.$method" --set "shared.questions=$bank" --set "steps=$steps" --set eval_problems=8 \
                    --set n_eval=1 ${own[$method]?unknown arm $arm}
                model=$home/$method/final
            fi
            rm -rf "$home"/*/checkpoint-* # of stages that are done: gigabytes
            answers "$model" "$runs/$seed/$arm/answers-$round.json" --splits test,canary
            if [ "$method" = ours ] && [ "$arm" != ours-dreamt ]; then # its likeliest point wherever the threshold says
                answers "$model" "$runs/$seed/$arm/recalled-$round.json" --splits test,canary --recall
            fi
        done
        # is the library right? the start reader, each test question with the best point of its cluster
        if [ "$method" = ours ]; then
            to=$runs/$seed/$arm
            python -m reproduce.cycle best "$home/library.jsonl" --questions "$runs/$seed/kept-$round.jsonl" \
                --out "$to/best.jsonl"
            answers organism/weights "$to/with-points.json" --splits test --points "$to/best.jsonl"
        fi
    done
done
python -m reproduce.cycle table "$runs" "$out"
