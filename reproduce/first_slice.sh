#!/usr/bin/env bash
# Rebuilds results/first_slice.jsonl: the three shipped configs of stage 1, before and after (about 20 minutes on 2 cores).
# Each run resumes if it was interrupted; --quick makes two steps of each.
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
mkdir -p "$runs" results
: >"$out.tmp"
for job in preeclampsia:0 preeclampsia:1 bank:0 paper_minicluster:0; do
    config=${job%:*} seed=${job#*:}
    dir=$runs/$config-$seed
    python grpo_introspect.py --config "configs/$config.yaml" --run-dir "$dir" --resume --set "shared.seed=$seed" "${quick[@]}"
    python - "$config" "$seed" "$dir/grpo_introspect/eval.jsonl" >>"$out.tmp" <<'PY'
import json, sys
config, seed, path = sys.argv[1:]
for line in open(path):
    record = json.loads(line)
    record["questions"] = len(record.pop("per_question"))
    print(json.dumps({"config": config, "seed": int(seed)} | record))
PY
done
mv "$out.tmp" "$out"
echo "wrote $out"
