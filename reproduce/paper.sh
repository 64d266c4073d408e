#!/usr/bin/env bash
# Rebuilds the paper's own experiments: results/collapse.* (T1), stability.* (T2), minicluster.* (T3), gaming.* (T4) and
# contributors.* (T6, losers against winners). About 4 hours of one core, 2 on two: two runs at a time, a thread each.
# A run whose line stands in results/*.jsonl is not made again, and one that was cut goes on; --quick: a step or two.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
if [ "${1:-}" != "--quick" ]; then echo "about 2 hours on two cores; lines that are there are kept"; fi
for table in collapse stability minicluster gaming contributors; do
    python -m "reproduce.$table" --jobs 2 "$@"
done
