"""Table transfer (T5): the points of each question tried on every question of the split, its own included."""

import numpy as np
import torch

from common import RolloutPhase, rng
from introspection.rollouts import rollout_3, unmeasured
from introspection.tables.points import write_points
from introspection.tables.units import Cast, Condition, Settings
from tasks.mcq import same_views

MATRIX = "matrix"  # the one condition

HEADS = ("with", "without", "advantage")


def primary(cfg: Settings) -> None:
    """No contrast was named beforehand: the test of this table permutes cluster labels."""


def conditions(cfg: Settings, writer: str, trained: list[str]) -> list[Condition]:
    readers = ["start", "own"] if writer != "start" and cfg.own_reader else ["start"]
    return [Condition(MATRIX, MATRIX, reader) for reader in readers]


def measure(cfg: Settings, condition: Condition, cast: Cast) -> list[dict]:
    """One record a pair of questions: the one whose points are read, and the one that they are read on."""
    questions, reader = cast.questions, cast.reader
    groups = write_points(cfg, cast.writer, questions, cfg.reveal, cfg.group_size, 1)
    for g in groups:
        g.views_V = []
        for j, q in enumerate(questions):
            g.views_V += same_views(q, cfg.n_verify, rng(*reader.key, RolloutPhase.VIEWS, g.number, j))
        g.kinds_V = ["transfer"] * len(g.views_V)
        for p in g.points:
            p.accuracies_V, p.rewards_V = unmeasured(len(g.views_V))
    rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward="sampled")
    records = []
    for g in groups:
        fresh = g.fresh_accuracies_V
        accuracies = torch.stack([p.accuracies_V if p.valid else fresh for p in g.points]).mean(0)
        for j, q in enumerate(questions):
            part = slice(j * cfg.n_verify, (j + 1) * cfg.n_verify)
            pair = {"question_id": g.question.id, "cluster": g.question.cluster, "on": q.id, "on_cluster": q.cluster}
            records.append(pair | {"with": accuracies[part].mean().item(), "without": fresh[part].mean().item()})
    return records


def expand(cfg: Settings, units: list[dict]) -> list[dict]:
    """A unit for the points on their own questions, and one for each pair of clusters.

    In those the unit of inference is the point's question.
    """
    made = []
    for u in units:
        pairs: dict[str, list[dict]] = {}
        for r in u["questions"]:
            if r["on"] == r["question_id"]:
                pairs.setdefault("own question", []).append(r)
            else:
                pairs.setdefault(f"{r['cluster']} on {r['on_cluster']}", []).append(r | {"cluster": r["question_id"]})
        made += [u | {"condition": name, "questions": pairs[name]} for name in sorted(pairs)]
    return made


def label_test(records: list[dict], draws: int = 2000) -> tuple[float, float]:
    """(contrast, one-sided p from permuted labels).

    Contrast: advantage on other questions of the point's cluster minus that on other clusters.
    """
    names = {r["question_id"]: r["cluster"] for r in records} | {r["on"]: r["on_cluster"] for r in records}
    order, labels = sorted(names), np.unique([names[q] for q in sorted(names)], return_inverse=True)[1]
    place = {q: i for i, q in enumerate(order)}
    pairs = np.array([(place[r["question_id"]], place[r["on"]]) for r in records if r["question_id"] != r["on"]])
    gains = np.array([r["with"] - r["without"] for r in records if r["question_id"] != r["on"]])

    def contrast(labels: np.ndarray) -> float:
        near = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        return gains[near].mean() - gains[~near].mean() if near.any() and not near.all() else 0.0

    draw, seen = np.random.default_rng(0), contrast(labels)
    permuted = [contrast(draw.permutation(labels)) for _ in range(draws)]
    return float(seen), (1 + sum(value >= seen for value in permuted)) / (draws + 1)


def remark(units: list[dict]) -> tuple[None, str]:
    """The permutation test of each unit, in words."""
    lines = []
    for u in units:
        contrast, p = label_test(u["questions"])
        who = f"{u['writer']} on {u['split']}, read by {u['reader']}"
        lines.append(f"{who}: same cluster minus other clusters {contrast:+.3f}, p {p:.4f} (permuted labels)")
    return None, "".join(f"\n\n{line}" for line in lines)
