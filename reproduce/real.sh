#!/usr/bin/env bash
# A real model on a published bank, the paper's procedure and ours: results/real.md. About an hour and a half on two CPU
# cores with a model of 135 M parameters, 14 GiB for the two of them; a run that is finished is not made again.
#   reproduce/real.sh MODEL FILE      MODEL: a folder or hub name; FILE: MedMCQA or MedQA as published
set -euo pipefail
cd "$(dirname "$0")/.."
model=$1 file=$2
for config in medmcqa medmcqa_ours; do
    out=runs/real/$config
    resume=()
    if [ -e "$out/grpo_introspect" ]; then resume=(--resume); fi
    OMP_NUM_THREADS=1 python grpo_introspect.py --config "configs/$config.yaml" --set "shared.model=$model" \
        --set "shared.questions=$file" --set log_verifications=true --run-dir "$out" "${resume[@]}" &
done
wait
python -m reproduce.real runs/real "$model"
