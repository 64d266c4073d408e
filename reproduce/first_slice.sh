#!/usr/bin/env bash
# Rebuilds results/first_slice.jsonl: the four shipped configs of stage 1, before and after. About 25 minutes on 2
# cores; each run resumes if it was interrupted; --quick makes two steps of each.
set -euo pipefail
cd "$(dirname "$0")/.."
quick=()
out=results/first_slice.jsonl
runs=runs/first_slice
if [ "${1:-}" = "--quick" ]; then
    quick=(--set steps=2)
    out=runs/first_slice_quick.jsonl
    runs=runs/first_slice_quick
fi
jobs=(preeclampsia-0 preeclampsia-1 bank-0 paper_minicluster-0 paper-0) # config and seed
for job in "${jobs[@]}"; do
    more=()
    if [ "${job%-*}" = preeclampsia ]; then more=(--set steps=60); fi # 20 more than the config has: do they teach anything?
    python grpo_introspect.py --config "configs/${job%-*}.yaml" --run-dir "$runs/$job" --resume \
        --set "shared.seed=${job##*-}" "${more[@]}" "${quick[@]}"
done
python -m reproduce.first_slice "$runs" "$out" "${jobs[@]}"
