"""How often the 95 % intervals of introspection/stats.py hold the truth: python -m reproduce.coverage, 20 minutes.

Made-up evaluations whose mean is known to be 0: S seeds, C clusters, Q questions, with differences between clusters,
seeds, both together and questions, normal or (skewed) exponential. Each row of results/coverage.json is one such world:
the share of evaluations whose interval covers 0, by the bootstrap that all tables had, and by `estimate` as it is now
(the same from FEW clusters on, where clusters differ more than seeds).
"""

import json
from pathlib import Path

import numpy as np

from common import ROOT
from introspection.stats import bootstrap_clusters, estimate
from reproduce.records import markdown_table, write_table

RUNS, SEEDS = 2000, 3
# Standard deviations of clusters, seeds, seeds in clusters, questions; questions a cluster; are clusters skewed?
WORLDS = {
    "clusters differ": (0.15, 0.03, 0.08, 0.1, 6, False),
    "clusters differ, many questions": (0.15, 0.03, 0.08, 0.1, 24, False),
    "clusters differ much": (0.30, 0.03, 0.08, 0.1, 24, False),
    "clusters differ, skewed": (0.15, 0.03, 0.08, 0.1, 6, True),
    "seeds differ too": (0.08, 0.06, 0.08, 0.1, 6, False),
    "little differs": (0.05, 0.0, 0.05, 0.1, 4, False),
    "seeds differ more than clusters": (0.15, 0.2, 0.08, 0.1, 6, False),
    "seeds differ much more": (0.15, 0.45, 0.08, 0.1, 6, False),
}
CLUSTERS = (4, 6, 8, 11, 12, 20)
ANSWER_NOISE = 0.25  # of one question's measured change


def read(path: Path = ROOT / "results/coverage.json") -> list[dict]:
    return json.loads(path.read_text())


def evaluation(world: tuple, clusters: int, draw: np.random.Generator) -> list[dict[str, list[float]]]:
    """Changes by cluster of each seed, true mean 0."""
    of_cluster, of_seed, of_both, of_question, questions, skewed = world
    shared = draw.exponential(of_cluster, clusters) - of_cluster if skewed else draw.normal(0, of_cluster, clusters)
    table = shared[:, None] + draw.normal(0, of_question, (clusters, questions))  # (C, Q)
    seeds = []
    for _ in range(SEEDS):
        own = draw.normal(0, of_seed) + draw.normal(0, of_both, (clusters, 1))
        values = table + own + draw.normal(0, ANSWER_NOISE, table.shape)
        seeds.append({f"c{k:02d}": values[k].tolist() for k in range(clusters)})
    return seeds


def simulate(row: dict) -> dict:
    """A row with the coverage of both intervals and their mean widths; keyed by its world and size alone."""
    draw = np.random.default_rng([row["clusters"], list(WORLDS).index(row["world"])])
    covered, width = np.zeros(2), np.zeros(2)
    for _ in range(row["runs"]):
        seeds = evaluation(WORLDS[row["world"]], row["clusters"], draw)
        now = estimate(seeds, "")
        for k, (low, high) in enumerate(
            (np.quantile(bootstrap_clusters(seeds), [0.025, 0.975]), (now["low"], now["high"]))
        ):
            covered[k] += low <= 0 <= high
            width[k] += high - low
    shares = {name: float(covered[k] / row["runs"]) for k, name in enumerate(("bootstrap", "ours"))}
    return row | shares | {f"width_{name}": round(float(width[k] / row["runs"]), 4) for k, name in enumerate(shares)}


def main() -> None:
    asked = [{"world": world, "clusters": c, "seeds": SEEDS, "runs": RUNS} for world in WORLDS for c in CLUSTERS]
    rows = [simulate(row) for row in asked]
    heads = ["world", "clusters", "bootstrap covers", "ours covers", "width", "ours"]
    cells = [
        [r["world"], str(r["clusters"]), f"{r['bootstrap']:.3f}", f"{r['ours']:.3f}", f"{r['width_bootstrap']:.3f}",
         f"{r['width_ours']:.3f}"]
        for r in rows
    ]  # fmt: skip
    text = "\n".join(["# Coverage of the 95 % intervals", "", *markdown_table(heads, cells)])
    write_table(ROOT / "results", "coverage", rows, text)


if __name__ == "__main__":
    main()
