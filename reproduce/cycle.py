"""The continual cycle (table T18): banks, the points that a round is left with, and the table of reproduce/cycle.sh.

    python -m reproduce.cycle rounds --seed 0 --out runs/cycle/0           # round-1.jsonl ..., kept-1.jsonl ...
    python -m reproduce.cycle best LIBRARY --questions BANK --out FILE     # the best point of each cluster in training
    python -m reproduce.cycle every LIBRARY --questions BANK --exchanges FILE --out FILE   # what a round dreams
    python -m reproduce.cycle table runs/cycle results                     # cycle.json, cycle.md, cycle.svg

Accuracy matrix: accuracy on the test questions of the clusters of each round, after every round. Backward transfer:
after the last round minus right after a cluster's own, over the clusters of earlier rounds; forward transfer: just
before its own round minus at the start.
The unit is the cluster, averaged over seeds. Seeds put other clusters into
the last (first) round, whose transfer is 0 by definition: all clusters count, times R / (R - 1), so that the mean
is that of the other rounds and every seed has the same clusters.
A library error is a cluster whose best point
takes more than 0.05 off the start reader's accuracy on its test questions: about the noise of a point that does
nothing (12 questions, 8 answers each, with and without in the same orders of the options).
"""

import argparse
import random
from pathlib import Path

import numpy as np

from introspection import library
from introspection.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, frame, legend
from introspection.stats import cluster_means, holm
from introspection.tables.units import minus
from reproduce.answers import read_answers
from reproduce.records import (
    group,
    markdown_table,
    read_lines,
    save_picture,
    shown_accuracy,
    shown_interval,
    write_lines,
    write_table,
)
from reproduce.rivals import best_points, estimate_clusters, every_exchange
from tasks.bank import load_questions

ROUNDS = 4
ARMS = {
    "ours": "ours: stages 1 and 2 on this round's corrections, recalled by threshold",
    "ours-kept": "ours, old questions kept for stage 2, recalled by threshold",
    "ours-sampled": "ours, turns sampled",
    "ours-kept-sampled": "ours, old questions kept for stage 2, turns sampled",
    "ours-dreamt": "ours: stages 1 and 3 on this round's corrections",
    "sft": "SFT on this round's corrections",
    "sft-kept": "SFT, old questions kept",
    "grpo": "GRPO",
    "grpo-kept": "GRPO, old questions kept",
    "resd": "Resd",
}
PAIRS = [
    ("ours", "sft"),
    ("ours", "grpo"),
    ("ours", "resd"),
    ("ours-kept", "sft-kept"),
    ("ours-kept", "grpo-kept"),
    ("ours-dreamt", "ours"),
    ("ours-dreamt", "grpo"),
    ("ours-dreamt", "grpo-kept"),
]  # the first: primary, on backward transfer
WORSE = -0.05


def asked_of(arm: str) -> tuple[str, str]:
    """(folder of an arm, how the files of its answers begin): what recalls is asked in two ways (cycle.sh)."""
    if arm.endswith("-sampled"):
        return arm.removesuffix("-sampled"), "answers"
    return arm, "recalled" if arm in ("ours", "ours-kept") else "answers"


def has_library(arm: str) -> bool:
    return arm.startswith("ours") and asked_of(arm)[0] == arm


# ---- banks and points ----------------------------------------------------------------------------------------------
def rounds(clusters: list[str], seed: int) -> list[list[str]]:
    """The clusters in rounds of equal size, their types (last letters of their names) dealt out evenly."""
    draw, order = random.Random(seed), sorted(clusters)
    draw.shuffle(order)
    order.sort(key=lambda name: name[-1])  # stable: shuffled within a type
    dealt = [order[k::ROUNDS] for k in range(ROUNDS)]
    draw.shuffle(dealt)
    return dealt


def write_banks(bank: list[dict], seed: int, out: Path, most: int = 0) -> None:
    """round-r: its own train questions; kept-r: those of earlier rounds too.

    Both with all of test, canary, and val for the stages' own logs. most: questions of each cluster and split, 0: all.
    """
    asked, known = {"test", "canary", "val"}, []
    out.mkdir(parents=True, exist_ok=True)
    parts = group(((r["cluster"], r["split"]), r["id"]) for r in bank)
    kept = {name for part in parts.values() for name in part[: most or None]}
    bank = [r for r in bank if r["id"] in kept]
    for number, new in enumerate(rounds(list({r["cluster"] for r in bank if r["split"] == "train"}), seed), start=1):
        known += new
        for name, trained in (("round", new), ("kept", known)):
            part = [r for r in bank if r["split"] in asked or (r["split"] == "train" and r["cluster"] in trained)]
            write_lines(out / f"{name}-{number}.jsonl", part)


# ---- what was measured ---------------------------------------------------------------------------------------------
def transfer_by_cluster(after: list[dict], learned: dict[str, int], backward: bool) -> dict[str, list[float]]:
    """Transfer of each cluster's questions; their mean over clusters is that over the rounds that have any.

    after: accuracies of each cluster's questions after round 0, 1, ... R; learned: the round of each cluster. Backward:
    what is left at the end minus what there was after its own round; forward: what there was before its own round minus
    at the start.
    """
    last = len(after) - 1
    scale = last / max(last - 1, 1)
    ends = {c: (last, own) if backward else (own - 1, 0) for c, own in learned.items()}
    pairs = {c: zip(after[end][c], after[begin][c], strict=True) for c, (end, begin) in ends.items()}
    return {c: [scale * (a - b) for a, b in pair] for c, pair in pairs.items()}


class Seed:
    """What a seed of an arm measured: accuracies by cluster after each round, and its library."""

    def __init__(self, runs: Path, seed: str, arm: str, questions: list):
        name, begin = asked_of(arm)
        folder = runs / seed / name
        paths = [runs / "answers-0.json", *sorted(folder.glob(f"{begin}-*.json"))]
        each = [read_answers(path, questions) for path in paths]
        self.after, self.canary = ([splits[name] for splits in each] for name in ("test", "canary"))
        self.last = len(self.after) - 1
        self.learned, self.records, self.gains = {}, [], {}
        for number in range(1, self.last + 1):
            bank = read_lines(runs / seed / f"round-{number}.jsonl")
            self.learned |= {q["cluster"]: number for q in bank if q["split"] == "train"}
            if has_library(arm):
                home = folder if number > 1 else runs / seed / "ours"  # round 1 is shared (cycle.sh)
                self.records.append(len(read_lines(home / str(number) / "library.jsonl")))
        self.columns = {
            "final": {c: self.after[-1][c] for c in self.learned},
            "new": {c: self.after[own][c] for c, own in self.learned.items()},
            "forward": transfer_by_cluster(self.after, self.learned, backward=False),
            "backward": transfer_by_cluster(self.after, self.learned, backward=True),
        }
        if (folder / "with-points.json").exists():
            told = read_answers(folder / "with-points.json", questions)["test"]
            (gains,) = minus([told], self.after[:1])
            self.gains = {r["cluster"]: float(np.mean(gains[r["cluster"]])) for r in read_lines(folder / "best.jsonl")}

    def matrix(self) -> np.ndarray:
        """(rounds + 1, rounds): accuracy after each round on the clusters of each round."""
        means = np.array([[np.mean(accuracies[c]) for c in self.learned] for accuracies in self.after])
        own = np.array(list(self.learned.values()))
        return np.stack([means[:, own == number].mean(1) for number in range(1, self.last + 1)], axis=1)

    def gains_of(self, number: int) -> list[float]:
        return [gain for c, gain in self.gains.items() if self.learned[c] == number]


def row(arm: str, seeds: list[Seed]) -> dict:
    """What the table says of an arm."""
    made = {
        "arm": arm,
        "what": ARMS[arm],
        "matrix": np.mean([s.matrix() for s in seeds], axis=0).tolist(),
        **{name: estimate_clusters([s.columns[name] for s in seeds]) for name in seeds[0].columns},
        "canary": [
            float(np.mean([cluster_means([s.canary[r]]).mean() for s in seeds])) for r in range(seeds[0].last + 1)
        ],
        "canary_change": estimate_clusters([minus(s.canary[-1:], s.canary[:1])[0] for s in seeds]),
    }
    if has_library(arm):  # the start reader, new test questions; lists are by round
        gains = [[gain for s in seeds for gain in s.gains_of(number)] for number in range(1, seeds[0].last + 1)]
        made["library"] = {
            "records": np.mean([s.records for s in seeds], axis=0).tolist(),
            "points": [len(part) for part in gains],
            "gain": [float(np.mean(part)) for part in gains],
            "errors": [sum(gain < WORSE for gain in part) for part in gains],
        }
    return made


def collect(runs: Path) -> dict:
    """A row for each arm that is done, and the contrasts of PAIRS."""
    questions = load_questions(runs / "asked.jsonl")
    last = max(path.stem[-1] for path in runs.glob("[0-9]*/*/answers-*.json"))  # an arm not done yet is left out
    done = {}
    for arm in ARMS:
        folder, begin = asked_of(arm)
        done[arm] = sorted(path.parent.parent.name for path in runs.glob(f"[0-9]*/{folder}/{begin}-{last}.json"))
    found = {arm: [Seed(runs, seed, arm, questions) for seed in seeds] for arm, seeds in done.items() if seeds}
    contrasts = []
    for ours, theirs in (pair for pair in PAIRS if done[pair[0]] == done[pair[1]] != []):
        for name in ("backward", "final"):
            both = ([s.columns[name] for s in found[arm]] for arm in (ours, theirs))
            primary = (ours, theirs, name) == (*PAIRS[0], "backward")
            contrasts.append(
                {"what": name, "arm": ours, "against": theirs, "primary": primary, **estimate_clusters(minus(*both))}
            )
    others = [c for c in contrasts if not c["primary"]]
    for contrast, p in zip(others, holm([c["p"] for c in others]), strict=True):
        contrast["p_holm"] = p
    return {"arms": [row(arm, seeds) for arm, seeds in found.items()], "contrasts": contrasts}


# ---- the table -----------------------------------------------------------------------------------------------------
def matrix_table(arms: list[dict], last: int) -> list[str]:
    rows = []
    for r in arms:
        for after, values in enumerate(r["matrix"]):
            if after or r is arms[0]:  # all start from the same model
                shares = [f"{v:.3f}" for v in [*values, r["canary"][after]]]
                rows.append([r["what"] if after else "start model", str(after), *shares])
    return markdown_table(["accuracy on the clusters of round", "after", *map(str, range(1, last + 1)), "canary"], rows)


def library_table(arms: list[dict]) -> list[str]:
    rows = []
    for r in (r for r in arms if "library" in r):
        kept = r["library"]
        errors = [f"{e} of {n}" for e, n in zip(kept["errors"], kept["points"], strict=True)]
        cells = [f"{n:.0f}" for n in kept["records"]], [f"{g:+.2f}" for g in kept["gain"]], errors
        rows.append([r["what"], *map(", ".join, cells)])
    return markdown_table(
        ["library, by round", "records, merged", "gain of the best points, start reader", "errors"], rows
    )


def shown_contrast(c: dict) -> str:
    name = "primary: " if c["primary"] else ""
    words = {"backward": "backward transfer", "final": "accuracy on all clusters after the last round"}[c["what"]]
    p = f"{c['p']:.4f}" if c["primary"] else f"{c['p_holm']:.4f} (Holm)"
    return f"- {name}{words}, {c['arm']} minus {c['against']}: {shown_interval(c)}, p = {p}"


def markdown(result: dict) -> str:
    """Accuracy and transfer, the accuracy matrix, the libraries, the contrasts."""
    arms = result["arms"]
    last = len(arms[0]["canary"]) - 1
    columns = {"final": "all clusters after the last round", "new": "a cluster right after its round"}
    columns |= {"forward": "forward transfer", "backward": "backward transfer", "canary_change": "change of the canary"}
    accuracies = ("final", "new")  # the others are differences
    shown = [[(shown_accuracy if k in accuracies else shown_interval)(r[k]) for k in columns] for r in arms]
    rows = [[r["what"], *cells] for r, cells in zip(arms, shown, strict=True)]
    lines = [*markdown_table(["method", *columns.values()], rows), "", *matrix_table(arms, last), ""]
    lines += [*library_table(arms), "", *map(shown_contrast, result["contrasts"])]
    e = arms[0]["final"]
    lines.append(
        f"\n{e['clusters']} clusters, {len(e['seeds'])} seeds, {last} rounds; 95 % intervals over seeds, clusters and "
        "questions.\nA method that learns nothing forgets nothing: read backward transfer beside the second column."
    )
    return "\n".join(lines)


def draw(plt, arms: list[dict]):
    """Accuracy by round: all clusters, and those of the first round."""
    first, last = arms[0], len(arms[0]["canary"]) - 1
    best = max(arms, key=lambda r: r["final"]["mean"])
    start, end = np.mean(first["matrix"][0]), best["final"]["mean"]
    figure, axes = frame(
        plt,
        f"After {last} rounds all clusters are at {end:.2f} at best ({best['arm']}), {start:.2f} at the start",
        f"{first['final']['clusters']} clusters, {len(first['final']['seeds'])} seeds; "
        "mean accuracy of first answers to test questions",
        (1, 2),
        3.4,
        sharey=True,
    )
    colors, lines = {"ours": BLUE, "sft": ORANGE, "grpo": GREEN, "resd": PURPLE}, {"": "-", "kept": "--", "dreamt": ":"}
    for r in (r for r in arms if r["arm"] == asked_of(r["arm"])[0]):
        (base, _, variant), matrix = r["arm"].partition("-"), np.array(r["matrix"])
        style = {"color": colors[base], "linestyle": lines[variant], "marker": "o", "markersize": 3, "linewidth": 1.3}
        axes[0].plot(matrix.mean(axis=1), label=r["arm"], **style)
        axes[1].plot(matrix[:, 0], **style)
    for axis, words in zip(axes, ("all clusters", "clusters of round 1"), strict=True):
        axis.axvline(1, color=GREY, linewidth=0.4)
        axis.set(xlabel=f"rounds done\n({words})", xticks=range(last + 1))
    axes[0].set_ylabel("accuracy")
    legend(axes[0])
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="the continual cycle: banks of its rounds, best points, table")
    actions = parser.add_subparsers(dest="action", required=True)
    rounds_, best_, every_, table_ = (actions.add_parser(name) for name in ("rounds", "best", "every", "table"))
    rounds_.add_argument("--seed", type=int, required=True)
    rounds_.add_argument("--most", type=int, default=0, help="questions of each cluster and split, 0: all")
    for part in (best_, every_):
        part.add_argument("library", type=Path)
        part.add_argument("--questions", type=Path, required=True)
    every_.add_argument("--exchanges", type=Path, required=True)
    for part in (rounds_, best_, every_):
        part.add_argument("--out", type=Path, required=True)
    table_.add_argument("runs", type=Path)
    table_.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.action == "rounds":
        write_banks(read_lines(Path("data/bank.jsonl")), args.seed, args.out, args.most)
    elif args.action in ("best", "every"):
        trained = {q["cluster"] for q in read_lines(args.questions) if q["split"] == "train"}
        best = best_points([r for r in library.load_library(args.library) if r["cluster"] in trained])
        if args.action == "every":  # a question that was never answered wrong was not explained
            corrected = {r["question_id"] for r in read_lines(args.exchanges)}
            every = every_exchange(args.questions, {r["cluster"]: r["text"] for r in best})
            best = [r for r in every if r["question_id"] in corrected]
        write_lines(args.out, best)
    else:
        result = collect(args.runs)
        write_table(args.out, "cycle", result, markdown(result))
        save_picture(args.out / "cycle.svg", draw, result["arms"])


if __name__ == "__main__":
    main()
