"""Where the points of one question help (T5, table transfer of reproduce/points.sh), whether rules show in it (T15).

    python -m reproduce.transfer runs/points/transfer/eval results        # transfer.json, transfer.md, transfer.svg

A point is read on its own question, on others of its cluster, on other clusters of its type (A: two thresholds, B: two
signs, the last letter of a cluster's name) and on clusters of the other type. The unit is the cluster of the point,
averaged over writers.

T15, in part: questions are grouped by where their points help (correlation of the gains on all questions, average
linkage, as many groups as there are clusters), and the groups are held against the hidden clusters (adjusted Rand
index: 0 by chance, 1 the same partition; p: labels permuted). Beside it the same by the words of the questions, which
need no point.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

import common
from introspection.report.comparisons import heat_map
from introspection.stats import cluster_means, estimate
from introspection.tables.transfer import label_test
from introspection.tables.units import gain
from reproduce.records import group, markdown_table, read_lines, save_picture, shown_interval, write_table
from reproduce.rivals import seeds_by_cluster
from tasks.bank import load_questions

WHERE = ("its own question", "others of its cluster", "other clusters of its type", "the other type")


def place(record: dict) -> str:
    """Which of WHERE a pair of a point's question and a question that it is read on is."""
    if record["question_id"] == record["on"]:
        return WHERE[0]
    if record["cluster"] == record["on_cluster"]:
        return WHERE[1]
    return WHERE[2 if record["cluster"][-1] == record["on_cluster"][-1] else 3]


def writer_name(unit: dict) -> str:
    return "start" if unit["writer"] == "start" else Path(unit["writer"]).parent.parent.name


def gains(records: list[dict], kind: str) -> dict[str, list[float]]:
    """Mean gain of each point's question, by the point's cluster. kind: the type of these clusters, empty for all."""
    part = [r for r in records if r["cluster"].endswith(kind)]
    each = group(((r["cluster"], r["question_id"]), gain(r)) for r in part)
    return group((cluster, float(np.mean(values))) for (cluster, _), values in each.items())


def rows(units: list[dict]) -> list[dict]:
    made, parts = [], group(("start" if u["writer"] == "start" else "trained", u["questions"]) for u in units)
    for writer, where, kind in itertools.product(("start", "trained"), WHERE, ("", "A", "B")):
        seeds = [gains([r for r in records if place(r) == where], kind) for records in parts[writer]]
        if seeds[0]:
            made.append({
                "writer": writer, "where": where, "type": kind or "all", **estimate(seeds, "test_clusters"),
                "clusters": len(seeds[0]), "seeds": [float(cluster_means([s]).mean()) for s in seeds],
                "by_cluster": seeds_by_cluster(seeds),
            })  # fmt: skip
    return made


# ---- groups (T15) --------------------------------------------------------------------------------------------------
def rand_index(a: np.ndarray, b: np.ndarray) -> float:
    """Adjusted Rand index of two partitions, given as labels (Hubert and Arabie 1985)."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    together, in_a, in_b = ((counts * (counts - 1) / 2).sum() for counts in (table, table.sum(1), table.sum(0)))
    chance = in_a * in_b / (len(a) * (len(a) - 1) / 2)
    return float((together - chance) / ((in_a + in_b) / 2 - chance))


def group_rows(profiles: np.ndarray, k: int) -> np.ndarray:
    """Labels of k groups of the rows, by average linkage: the two groups whose rows correlate most are joined first."""
    with np.errstate(invalid="ignore"):
        similar = np.nan_to_num(np.corrcoef(profiles))  # a row without any spread is like no other
    groups = [[i] for i in range(len(profiles))]

    def likeness(pair: tuple[int, int]) -> float:
        return similar[np.ix_(groups[pair[0]], groups[pair[1]])].mean()

    while len(groups) > k:
        i, j = max(((i, j) for j in range(len(groups)) for i in range(j)), key=likeness)
        groups[i] += groups.pop(j)
    label_of = {member: label for label, members in enumerate(groups) for member in members}
    return np.array([label_of[i] for i in range(len(profiles))])


def structure(units: list[dict], questions: dict[str, str], permutations: int = 2000) -> list[dict]:
    """Whether questions whose points help alike share a hidden rule, for each writer, and by the questions' words."""
    cluster_of = {r["question_id"]: r["cluster"] for r in units[0]["questions"]}
    names = list(cluster_of)
    place_of = {name: i for i, name in enumerate(names)}
    profiles = {}
    for u in units:
        gains_QQ = np.zeros((len(names), len(names)))
        for r in u["questions"]:
            gains_QQ[place_of[r["question_id"]], place_of[r["on"]]] = gain(r)
        profiles[f"where points of writer {writer_name(u)} help"] = gains_QQ
    texts = [questions[name].split() for name in names]
    words = sorted(set(itertools.chain(*texts)))
    profiles["words of the questions"] = np.array([[text.count(w) for w in words] for text in texts], dtype=float)
    truth = {"clusters": list(cluster_of.values()), "types": [c[-1] for c in cluster_of.values()]}
    draw, found = np.random.default_rng(0), []
    for name, profile in profiles.items():
        row = {"by": name}
        for what, labels in truth.items():
            true = np.unique(labels, return_inverse=True)[1]
            made = group_rows(profile, true.max() + 1)
            drawn = [rand_index(made, draw.permutation(true)) for _ in range(permutations)]
            index = rand_index(made, true)
            row[what] = {"rand_index": index, "p": (1 + sum(d >= index for d in drawn)) / (1 + permutations)}
        found.append(row)
    return found


def markdown(table: list[dict], tests: dict[str, tuple[float, float]], groups: list[dict]) -> str:
    """The table by relation and type, the label tests, the groups."""
    kinds = {"all": "all clusters", "A": "two thresholds", "B": "two signs"}
    at = {(r["writer"], r["where"], r["type"]): r for r in table}
    shown = {key: shown_interval(r) for key, r in at.items()}
    cells = [
        [writer, where, *(shown.get((writer, where, kind), "-") for kind in kinds)]
        for writer in ("start", "trained")
        for where in WHERE
    ]
    lines = [*markdown_table(["writer", "the point is read on", *kinds.values()], cells), ""]
    lines += [
        *(
            f"- {name}: its cluster minus other clusters {value:+.3f}, p {p:.4f} (cluster labels permuted)"
            for name, (value, p) in tests.items()
        ),
        "",
        "Groups of questions against the hidden clusters, and two groups against the two types: adjusted Rand index "
        "(p, labels permuted)",
        "",
    ]
    cells = [
        [row["by"], *(f"{row[what]['rand_index']:.2f} ({row[what]['p']:.4f})" for what in ("clusters", "types"))]
        for row in groups
    ]
    lines += markdown_table(["grouped by", "clusters", "types"], cells)
    seeds, clusters = len(at["trained", WHERE[0], "all"]["seeds"]), at["start", WHERE[0], "all"]["clusters"]
    lines.append(
        f"\nAccuracy with the point minus without, start reader; {seeds} trained writers, {clusters} clusters; "
        "95 % intervals over writers, clusters and questions."
    )
    return "\n".join(lines)


def picture(units: list[dict], path: Path) -> None:
    trained = [u["questions"] for u in units if u["writer"] != "start"]
    records = [r for part in trained for r in part]
    pairs = group(((r["question_id"], r["on"]), gain(r)) for r in records)
    clusters = {r["on"]: r["on_cluster"] for r in records}
    note = f"{len(trained)} trained writers, start reader, clusters that were never rewarded"
    save_picture(path, heat_map, note, pairs, clusters)


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    units = read_lines(folder / "results.jsonl")
    tests = {writer_name(u): label_test(u["questions"]) for u in units}
    cfg = common.parse_yaml((folder / "config.yaml").read_text(), str(folder / "config.yaml"))
    bank = load_questions(cfg["questions"], split_by=cfg.get("split_by", "hash"))
    table, groups = rows(units), structure(units, {q.id: q.question for q in bank})
    write_table(
        out,
        "transfer",
        {"rows": table, "label tests": tests, "groups": groups},
        markdown(table, tests, groups),
    )
    picture(units, out / "transfer.svg")


if __name__ == "__main__":
    main()
