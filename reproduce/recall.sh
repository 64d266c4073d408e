#!/usr/bin/env bash
# Rebuilds results/recall.json, recall_table.md, recall_joined.md: what models recall that were taught by stage 2 (table T8).
# The library is what the three runs of reproduce/flagship.sh's arm 'losers' wrote, pooled; three seeds of stage 2, and three in which half
# of the targets are two questions in one turn (`joined`). About 50 minutes of one core beyond those runs; everything resumes.
# --quick: small numbers, two or three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" training=() teaching=() measuring=(--set n_verify=8) sources=runs/flagship runs=runs/recall out=results
if [ "${1:-}" = "--quick" ]; then
    seeds="0" training=(--set steps=2 --set eval_every=0 --set eval_questions=8) sources=runs/flagship_quick runs=runs/recall_quick out=runs/recall_quick
    teaching=(--set epochs=2 --set n_measure=2 --set candidates=1) measuring=(--set n_verify=2 --set eval_questions=24)
fi
libraries=()
for seed in $seeds; do
    python grpo_introspect.py --config configs/bank.yaml --run-dir "$sources/losers-$seed" --resume --set "shared.seed=$seed" --set contributors=losers --set eval_every=0 "${training[@]}"
    libraries+=("$sources/losers-$seed/grpo_introspect/library.jsonl")
done
mkdir -p "$runs"
python -m library merge "${libraries[@]}" --out "$runs/library.jsonl"
for joined in 0 0.5; do
    home=$runs writers=""
    if [ "$joined" != 0 ]; then home=$runs/joined; fi
    for seed in $seeds; do
        python sft_recall.py --config configs/bank.yaml --run-dir "$home/$seed" --resume --set "shared.seed=$seed" --set "library=$runs/library.jsonl" \
            --set "joined=$joined" "${teaching[@]}"
        writers=$writers,$home/$seed/sft_recall/final
    done
    python eval.py --config configs/bank.yaml --run-dir "$home" --resume --set table=recall --set "writers=${writers#,}" --set "library=$runs/library.jsonl" \
        --set ideal=data/points_ideal.jsonl --set wrong=data/points_wrong.jsonl --set splits=test,composite,test_clusters,canary "${measuring[@]}"
done
python reproduce/recall.py "$runs" "$out"
