#!/usr/bin/env bash
# Rebuilds results/transfer.*, handshake.* and invariance.* (tables T5, T10, T11): each question's points on every
# question of its cluster; writers and readers, trained, untrained and of another kind; whether a point stands for
# its exchange. All on clusters that were never rewarded, with the three writers of reproduce/recall.sh. About an
# hour of one core beyond those; everything resumes. --quick: small numbers.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=runs/points out=results writers="" more=()
for seed in 0 1 2; do writers=$writers,runs/flagship/losers-$seed/grpo_introspect/final; done
if [ "${1:-}" = "--quick" ]; then
    runs=runs/points_quick out=runs/points_quick writers=,organism/weights
    more=(--set eval_questions=24 --set group_size=2 --set n_verify=2 --set n_fresh=2)
elif [ ! -d runs/flagship/losers-2/grpo_introspect/final ]; then
    echo "points.sh: no trained writers in runs/flagship; first bash reproduce/recall.sh" >&2
    exit 2
fi
table() { # name, settings
    python eval.py --config configs/bank.yaml --run-dir "$runs/$1" --resume --set "writers=${writers#,}" \
        --set splits=test_clusters "${@:2}" "${more[@]}"
    if [ "$1" = transfer ]; then # its own table has a row for each pair of clusters
        python -m reproduce.transfer "$runs/$1/eval" "$out"
    else
        python -m reproduce.records "$runs/$1/eval/table.json" "$out/$1.json"
        cp "$runs/$1/eval/table.md" "$out/$1.md"
    fi
}
table handshake --set foreign=organism/second --set blind=false --set best_of=0 --set group_size=2 \
    --set eval_questions=120
table invariance --set table=invariance --set group_size=2 --set eval_questions=120
table transfer --set table=transfer --set group_size=2 --set eval_questions=60 --set own_reader=false
