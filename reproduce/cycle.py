"""The continual cycle (table T18): its banks, the points that a round is left with, and the table of reproduce/cycle.sh.

    python -m reproduce.cycle rounds --seed 0 --out runs/cycle/0               # round-1.jsonl ..., kept-1.jsonl ...
    python -m reproduce.cycle best LIBRARY --questions BANK --out FILE         # the best point of each cluster that BANK trains
    python -m reproduce.cycle table runs/cycle results                         # cycle.json, cycle.md, cycle.svg

Accuracy matrix: accuracy on the test questions of the clusters of each round, after every round. Backward transfer: after the last round
minus right after a cluster's own, over the clusters of earlier rounds; forward transfer: just before its own round minus at the start.
The unit is the cluster, averaged over seeds. Seeds put other clusters into the last (first) round, whose transfer is 0 by definition: all
clusters count, times R / (R - 1), so that the mean is that of the other rounds and every seed has the same clusters.
A library error is a cluster whose best point takes more than 0.05 off the start reader's accuracy on its test questions: about the
noise of a point that does nothing (12 questions, 8 answers each, with and without in the same orders of the options).
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np

from introspection import library
from introspection.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, frame, legend, pyplot
from introspection.stats import holm
from introspection.tables.units import minus
from reproduce.rivals import best_points, lines, measured

ROUNDS = 4
ARMS = {
    "ours": "ours: stages 1 and 2 on this round's corrections",
    "ours-kept": "ours, old questions kept for stage 2",
    "ours-dreamt": "ours, and stage 3 on this round's best points",
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
    ("ours-dreamt", "sft"),
]  # the first: primary, on backward transfer
WORSE = -0.05


# ---- banks and points ----------------------------------------------------------------------------------------------
def rounds(clusters: list[str], seed: int) -> list[list[str]]:
    """The clusters in rounds of equal size; a cluster's type is the last letter of its name, and types are dealt out evenly."""
    draw, order = random.Random(seed), sorted(clusters)
    draw.shuffle(order)
    order.sort(key=lambda name: name[-1])  # stable: shuffled within a type
    dealt = [order[k::ROUNDS] for k in range(ROUNDS)]
    draw.shuffle(dealt)
    return dealt


def write_banks(bank: list[dict], seed: int, out: Path, most: int = 0) -> None:
    """round-r: its own train questions; kept-r: those of earlier rounds too. Both with all of test, canary, and val for the stages' own logs.

    most: questions of each cluster and split, 0: all.
    """
    asked, known = {"test", "canary", "val"}, []
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[tuple, list[str]] = {}
    for r in bank:
        parts.setdefault((r["cluster"], r["split"]), []).append(r["id"])
    kept = {name for part in parts.values() for name in part[: most or None]}
    bank = [r for r in bank if r["id"] in kept]
    for number, new in enumerate(rounds(list({r["cluster"] for r in bank if r["split"] == "train"}), seed), start=1):
        known += new
        for name, trained in (("round", new), ("kept", known)):
            lines = [r for r in bank if r["split"] in asked or (r["split"] == "train" and r["cluster"] in trained)]
            (out / f"{name}-{number}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))


# ---- the table -----------------------------------------------------------------------------------------------------
def moved(after: list[dict], learned: dict[str, int], backward: bool) -> dict[str, list[float]]:
    """Transfer of each cluster's questions; their mean over clusters is that over the rounds that have any.

    after: accuracies of each cluster's questions after round 0, 1, ... R; learned: the round of each cluster. Backward: what is left
    at the end minus what there was after its own round; forward: what there was before its own round minus at the start.
    """
    last = len(after) - 1
    ends = {c: (last, r) if backward else (r - 1, 0) for c, r in learned.items()}
    scale = last / max(last - 1, 1)
    return {
        c: [scale * (a - b) for a, b in zip(after[end][c], after[begin][c], strict=True)]
        for c, (end, begin) in ends.items()
    }


class Seed:
    """What a seed of an arm measured: accuracies by cluster after each round, and its library."""

    def __init__(self, runs: Path, seed: str, arm: str, cluster_of: dict[str, str]):
        folder, self.after, self.canary = runs / seed / arm, [], []
        for path in [runs / "answers-0.json", *sorted(folder.glob("answers-*.json"))]:
            each = json.loads(path.read_text())["each"]
            accuracies: dict[str, list[float]] = {}
            for question, value in each["test"].items():
                accuracies.setdefault(cluster_of[question], []).append(value)
            self.after.append(accuracies)
            self.canary.append(each["canary"])
        self.last = len(self.after) - 1
        banks = {r: lines(runs / seed / f"round-{r}.jsonl") for r in range(1, self.last + 1)}
        self.learned = {
            c: r for r, bank in banks.items() for c in {q["cluster"] for q in bank if q["split"] == "train"}
        }
        self.columns = {
            "final": {c: self.after[-1][c] for c in self.learned}, "new": {c: self.after[r][c] for c, r in self.learned.items()},
            "forward": moved(self.after, self.learned, False), "backward": moved(self.after, self.learned, True),
        }  # fmt: skip
        homes = [
            runs / seed / (arm.partition("-")[0] if r == 1 else arm) / str(r) for r in banks
        ]  # round 1 is shared (cycle.sh)
        self.records = [len(lines(home / "library.jsonl")) for home in homes] if arm.startswith("ours") else []
        self.gains = {}
        if (folder / "with-points.json").exists():
            told = json.loads((folder / "with-points.json").read_text())["each"]["test"]
            alone = json.loads((runs / "answers-0.json").read_text())["each"]["test"]
            for record in lines(folder / "best.jsonl"):
                self.gains[record["cluster"]] = float(
                    np.mean([told[q] - alone[q] for q, c in cluster_of.items() if c == record["cluster"]])
                )

    def matrix(self) -> np.ndarray:
        """(rounds + 1, rounds): accuracy after each round on the clusters of each round."""
        clusters = [[c for c, r in self.learned.items() if r == number] for number in range(1, self.last + 1)]
        return np.array(
            [[np.mean([np.mean(accuracies[c]) for c in part]) for part in clusters] for accuracies in self.after]
        )

    def of_round(self, number: int) -> list[float]:
        return [gain for c, gain in self.gains.items() if self.learned[c] == number]


def row(arm: str, seeds: list[Seed]) -> dict:
    made = {"arm": arm, "what": ARMS[arm], "matrix": np.mean([s.matrix() for s in seeds], axis=0).tolist()}
    made |= {name: measured([s.columns[name] for s in seeds]) for name in seeds[0].columns}
    made["canary"] = [float(np.mean([list(s.canary[r].values()) for s in seeds])) for r in range(seeds[0].last + 1)]
    made["canary_change"] = measured(
        [{q: [value - s.canary[0][q]] for q, value in s.canary[-1].items()} for s in seeds]
    )
    if arm.startswith("ours"):  # the start reader, new test questions; lists are by round
        gains = [[gain for s in seeds for gain in s.of_round(r)] for r in range(1, seeds[0].last + 1)]
        made["library"] = {
            "records": np.mean([s.records for s in seeds], axis=0).tolist(), "points": [len(part) for part in gains],
            "gain": [float(np.mean(part)) for part in gains], "errors": [sum(gain < WORSE for gain in part) for part in gains],
        }  # fmt: skip
    return made


def collect(runs: Path) -> dict:
    bank = lines(sorted(runs.glob("[0-9]*/kept-1.jsonl"))[0])
    cluster_of = {r["id"]: r["cluster"] for r in bank if r["split"] == "test"}
    last = max(path.name for path in runs.glob("[0-9]*/*/answers-*.json"))  # an arm that is not done yet is left out
    done = {arm: sorted(path.parent.parent.name for path in runs.glob(f"[0-9]*/{arm}/{last}")) for arm in ARMS}
    found = {arm: [Seed(runs, seed, arm, cluster_of) for seed in seeds] for arm, seeds in done.items() if seeds}
    contrasts = []
    for ours, theirs in (pair for pair in PAIRS if done[pair[0]] == done[pair[1]] != []):
        for name in ("backward", "final"):
            both = ([s.columns[name] for s in found[arm]] for arm in (ours, theirs))
            primary = (ours, theirs, name) == (*PAIRS[0], "backward")
            contrasts.append(
                {"what": name, "arm": ours, "against": theirs, "primary": primary, **measured(minus(*both))}
            )
    others = [c for c in contrasts if not c["primary"]]
    for contrast, p in zip(others, holm([c["p"] for c in others]), strict=True):
        contrast["p_holm"] = p
    return {"arms": [row(arm, seeds) for arm, seeds in found.items()], "contrasts": contrasts}


def interval(e: dict, sign: str = "+") -> str:
    return f"{e['mean']:{sign}.3f} [{e['low']:{sign}.3f}, {e['high']:{sign}.3f}]"


def markdown(result: dict) -> str:
    arms = result["arms"]
    last = len(arms[0]["canary"]) - 1
    columns = {"final": "all clusters after the last round", "new": "a cluster right after its round"}
    columns |= {"forward": "forward transfer", "backward": "backward transfer", "canary_change": "change of the canary"}
    lines = ["| method | " + " | ".join(columns.values()) + " |", "|" + "---|" * (len(columns) + 1)]
    for r in arms:
        lines.append(
            f"| {r['what']} | "
            + " | ".join(interval(r[k], "" if k in ("final", "new") else "+") for k in columns)
            + " |"
        )
    lines += [
        "",
        f"| accuracy on the clusters of round | after | {' | '.join(map(str, range(1, last + 1)))} | canary |",
        "|" + "---|" * (last + 3),
    ]
    for r in arms:
        for after, values in enumerate(r["matrix"]):
            if after or r is arms[0]:  # all start from the same model
                shares = " | ".join(f"{v:.3f}" for v in [*values, r["canary"][after]])
                lines.append(f"| {r['what'] if after else 'start model'} | {after} | {shares} |")
    lines += [
        "",
        "| library, by round | records, merged | gain of the best points, start reader | errors |",
        "|---|---|---|---|",
    ]
    for r in (r for r in arms if "library" in r):
        kept = r["library"]
        errors = [f"{e} of {n}" for e, n in zip(kept["errors"], kept["points"], strict=True)]
        cells = [f"{n:.0f}" for n in kept["records"]], [f"{g:+.2f}" for g in kept["gain"]], errors
        lines.append(f"| {r['what']} | " + " | ".join(map(", ".join, cells)) + " |")
    lines.append("")
    for c in result["contrasts"]:
        p = f"p = {c['p']:.4f}" if c["primary"] else f"p = {c['p_holm']:.4f} (Holm)"
        words = {"backward": "backward transfer", "final": "accuracy on all clusters after the last round"}[c["what"]]
        lines.append(f"- {'primary: ' * c['primary']}{words}, {c['arm']} minus {c['against']}: {interval(c)}, {p}")
    e = arms[0]["final"]
    lines.append(
        f"\n{e['clusters']} clusters, {len(e['seeds'])} seeds, {last} rounds; 95 % intervals over seeds, clusters and questions."
    )
    return "\n".join(
        [*lines, "A method that learns nothing forgets nothing: read backward transfer beside the second column."]
    )


def picture(arms: list[dict], path: Path) -> None:
    plt = pyplot()
    if plt is None:
        print("no matplotlib (pip install -r requirements.txt): the picture is left out")
        return
    first, last = arms[0], len(arms[0]["canary"]) - 1
    best = max(arms, key=lambda r: r["final"]["mean"])
    start, sizes = (
        np.mean(first["matrix"][0]),
        f"{first['final']['clusters']} clusters, {len(first['final']['seeds'])} seeds",
    )
    title = f"After {last} rounds all clusters are at {best['final']['mean']:.2f} at best ({best['arm']}), {start:.2f} at the start"
    figure, axes = frame(
        plt, title, f"{sizes}; mean accuracy of first answers to test questions", (1, 2), 3.4, sharey=True
    )
    colors = {"ours": BLUE, "sft": ORANGE, "grpo": GREEN, "resd": PURPLE}
    for r in arms:
        base, _, variant = r["arm"].partition("-")
        style = {
            "color": colors[base],
            "linestyle": {"": "-", "kept": "--", "dreamt": ":"}[variant],
            "marker": "o",
            "markersize": 3,
            "linewidth": 1.3,
        }
        matrix = np.array(r["matrix"])
        axes[0].plot(matrix.mean(axis=1), label=r["arm"], **style)
        axes[1].plot(matrix[:, 0], **style)
    for axis, words in zip(axes, ("all clusters", "clusters of round 1"), strict=True):
        axis.axvline(1, color=GREY, linewidth=0.4)
        axis.set(xlabel=f"rounds done\n({words})", xticks=range(last + 1))
    axes[0].set_ylabel("accuracy")
    legend(axes[0])
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="the continual cycle: banks of its rounds, best points, table")
    actions = parser.add_subparsers(dest="action", required=True)
    rounds_, best_, table_ = (actions.add_parser(name) for name in ("rounds", "best", "table"))
    rounds_.add_argument("--seed", type=int, required=True)
    rounds_.add_argument("--most", type=int, default=0, help="questions of each cluster and split, 0: all")
    best_.add_argument("library", type=Path)
    best_.add_argument("--questions", type=Path, required=True)
    for part in (rounds_, best_):
        part.add_argument("--out", type=Path, required=True)
    table_.add_argument("runs", type=Path)
    table_.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.action == "rounds":
        write_banks(lines(Path("data/bank.jsonl")), args.seed, args.out, args.most)
    elif args.action == "best":
        trained = {q["cluster"] for q in lines(args.questions) if q["split"] == "train"}
        records = [r for r in library.load_library(args.library) if r["cluster"] in trained]
        args.out.write_text("".join(json.dumps(r) + "\n" for r in best_points(records)))
    else:
        result = collect(args.runs)
        (args.out / "cycle.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "cycle.md").write_text(markdown(result) + "\n")
        picture(result["arms"], args.out / "cycle.svg")
        print(markdown(result) + f"\n\nwrote {args.out}/cycle.json, cycle.md, cycle.svg")


if __name__ == "__main__":
    main()
