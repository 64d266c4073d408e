#!/usr/bin/env bash
# Rebuilds results/recall.json, results/recall_table.md: what models recall that were taught by stage 2 (table T8).
# The library is what the three runs of reproduce/flagship.sh's arm 'losers' wrote, pooled; three seeds of stage 2.
# About 30 minutes on 2 cores beyond those runs; everything resumes. --quick: small numbers, a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds="0 1 2" training=() teaching=() measuring=(--set n_verify=4) sources=runs/flagship runs=runs/recall out=results
if [ "${1:-}" = "--quick" ]; then
    seeds="0" sources=runs/flagship_quick runs=runs/recall_quick out=runs/recall_quick
    training=(--set steps=2 --set eval_every=0 --set eval_questions=8)
    teaching=(--set epochs=2 --set n_measure=2 --set candidates=1 --set rehearse=1) measuring=(--set n_verify=2 --set eval_questions=24)
fi
libraries=() writers=""
for seed in $seeds; do
    python grpo_introspect.py --config configs/bank.yaml --run-dir "$sources/losers-$seed" --resume \
        --set "shared.seed=$seed" --set contributors=losers --set eval_every=0 "${training[@]}"
    libraries+=("$sources/losers-$seed/grpo_introspect/library.jsonl")
done
mkdir -p "$runs"
python -m introspection.library merge "${libraries[@]}" --out "$runs/library.jsonl"
for seed in $seeds; do
    python sft_recall.py --config configs/bank.yaml --run-dir "$runs/$seed" --resume \
        --set "shared.seed=$seed" --set "library=$runs/library.jsonl" "${teaching[@]}"
    writers=$writers,$runs/$seed/sft_recall/final
done
# Asked are questions of another seed of the world than anything that was tuned on.
seed=20261210
python -m reproduce.recall questions "$seed" "$runs/asked.jsonl"
for kind in ideal wrong; do python -m organism.world --seed "$seed" --points "$kind" --out "$runs/$kind.jsonl"; done
python eval.py --config configs/bank.yaml --run-dir "$runs" --resume --set table=recall --set "writers=${writers#,}" \
    --set "shared.questions=$runs/asked.jsonl" --set "library=$runs/library.jsonl" \
    --set "ideal=$runs/ideal.jsonl" --set "wrong=$runs/wrong.jsonl" \
    --set splits=test,composite,test_clusters,canary "${measuring[@]}"
python -m reproduce.recall table "$runs" "$out"
