"""Stage 1 runs as lines: what T2 and T3 keep of a run's logs.

A step of these has one question, so that its cluster is that of the step.
"""

from pathlib import Path

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
