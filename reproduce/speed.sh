#!/usr/bin/env bash
# Rebuilds results/rollouts.json, step.json, memory.json, precision.json, gemma_cpu.json (on a GPU gemma_gpu.json,
# step_gpu.json) and rollouts.svg (table T7). About an hour on 2 cores, on which nothing else should run, half of it
# generate() with the larger model; needs requirements-dev.txt (TRL, peft).
set -euo pipefail
cd "$(dirname "$0")/.."
export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=8589934592 # for all sides alike (glibc)
for benchmark in rollouts step memory precision gemma; do
    python -m "benchmarks.$benchmark" --save
done
python -m reproduce.speed results
