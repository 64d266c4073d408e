"""Stage 1 runs as lines: what T2 and T3 keep of a run's logs.

A step of these has one question, so that its cluster is that of the step.
"""

from pathlib import Path

import numpy as np

from introspection import library
from reproduce.records import read_lines
from reproduce.runs import rounded, start

KEPT = {
    "attempt": "accuracy/attempt",
    "same": "introspection_advantage/same",
    "other": "introspection_advantage/transfer",
    "reward": "reward",
    "norm": "grad_norm",
    "applied": "update_ratio",
}


def train(run_dir: Path, config: str, settings: dict, program: tuple[str, ...] = ("grpo_introspect.py",)) -> dict:
    """A run of stage 1: `log`, what each step measured, and `evaluations` before, between and after."""
    home = start(list(program), config, run_dir, settings) / "grpo_introspect"
    points: dict[int, list[dict]] = {}
    for record in read_lines(home / "rollouts.jsonl"):
        points.setdefault(record["step"], []).append(record)
    log, known = [], set()
    for metrics in read_lines(home / "metrics.jsonl"):
        written = points.get(metrics["step"], [])
        essences = [library.essence(r["text"]) for r in written if r["text"]]
        log.append({
            "step": metrics["step"],
            "question": written[0]["question_id"] if written else None,
            "cluster": written[0]["cluster"] if written else None,
            **{name: metrics[key] for name, key in KEPT.items()},
            "points": len(essences), "distinct": len(set(essences)), "known": sum(e in known for e in essences),
        })  # fmt: skip
        known |= set(essences)
    return rounded({"log": log, "evaluations": read_lines(home / "eval.jsonl")})


def slope(log: list[dict], name: str, within: str) -> float:
    """Change a step of what steps measured, least squares within each question or cluster (`within`).

    Steps differ by their question far more than by what was learned: each group is held against its own mean.
    """
    parts: dict[str, list[tuple[int, float]]] = {}
    for step, measured in enumerate(log, 1):
        if measured[name] is not None and measured[within] is not None:
            parts.setdefault(measured[within], []).append((step, measured[name]))
    squares = products = 0.0
    for part in parts.values():
        steps, values = (np.array(column) - np.mean(column) for column in zip(*part, strict=True))
        squares, products = squares + (steps**2).sum(), products + (steps * values).sum()
    return float(products / squares) if squares else float("nan")


def in_ten(e: dict) -> dict:
    """An estimate of a slope as the change in ten steps."""
    return {key: [10 * v for v in value] if isinstance(value, list) else 10 * value for key, value in e.items()}
