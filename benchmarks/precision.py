"""How much of an update reaches the weights (`update_ratio`): fp32, bf16 with fp32 masters, bf16 weights alone.

    python -m benchmarks.precision [--save]

Ten steps of a policy gradient on the bundled model for each precision, optimiser and learning rate; the clipped
norm is 1 in all of them. Bare bf16 weights are what a script gets that loads a model in bfloat16 and hands its
parameters to an optimiser.
"""

import statistics

import torch

from benchmarks.common import ROOT, options, save, take_step
from common import Shared
from introspection import models
from introspection.sampling import Trajectory, sample
from introspection.update import Updater
from tasks.bank import load_questions

MODEL, STEPS = "organism/weights", 10
PRECISIONS = {"fp32": ("float32", True), "bf16, fp32 masters": ("bfloat16", True), "bf16 alone": ("bfloat16", False)}
OPTIMISERS = [("sgd", 1e-5), ("sgd", 1e-3), ("sgd", 1e-1), ("adamw", 1e-6), ("adamw", 1e-5), ("adamw", 1e-4)]


def trajectories() -> list[Trajectory]:
    """Sampled answers to eight questions of the bank."""
    chat, policy = models.load_chat(MODEL), models.load_policy(MODEL, Shared())
    asked = [chat.first(q.turn) for q in load_questions(ROOT / "data/bank.jsonl")[:8]]
    completions = sample(policy, asked, 4, 48, 1.0, sorted(chat.eos_ids), [(0, i) for i in range(32)])
    return [Trajectory(asked[i // 4], [(c.ids, True)]) for i, c in enumerate(completions)]


def ratios(batch: list[Trajectory], dtype: str, masters: bool, optimizer: str, lr: float) -> list[float]:
    """`update_ratio` of each step."""
    policy = models.load_policy(MODEL, Shared(dtype=dtype))
    updater = Updater(policy, optimizer=optimizer, lr=lr, temperature=1.0, max_tokens=16384)
    if not masters:  # the optimiser steps the bf16 parameters themselves
        updater.masters = updater.parameters
        kept = {k: v for k, v in updater.optimizer.defaults.items() if k in ("lr", "betas", "weight_decay")}
        updater.optimizer = type(updater.optimizer)(updater.parameters, **kept)
    advantages = [1.0 if i % 2 else 0.5 for i in range(len(batch))]
    return [take_step(updater, batch, advantages)["update_ratio"] for _ in range(STEPS)]


def main() -> None:
    args = options(__doc__).parse_args()
    batch, record = trajectories(), []
    print(
        f"applied / intended update, median of {STEPS} steps\n" + " " * 14,
        *(f"{name:>22s}" for name in PRECISIONS),
        sep="",
    )
    for optimizer, lr in OPTIMISERS:
        row = {name: ratios(batch, dtype, masters, optimizer, lr) for name, (dtype, masters) in PRECISIONS.items()}
        record.append({"optimizer": optimizer, "lr": lr, "update_ratio": row})
        print(f"{optimizer:6s} {lr:7.0e}" + "".join(f"{statistics.median(values):22.4f}" for values in row.values()))
    if args.save:
        save(
            "precision",
            {
                "rows": record,
                "parameters": sum(p.numel() for p in models.load_policy(MODEL, Shared()).parameters()),
                "torch": torch.__version__,
            },
        )


if __name__ == "__main__":
    main()
