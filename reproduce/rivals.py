"""What reproduce/rivals.sh needs beside the stages and the rivals: the point that each cluster is given, and the table (T12).

  best LIBRARY OUT    the library's best point of each cluster, by lower bound over all questions on which a wording was tried
  told BANK OUT SEED  the explanation of one exchange of each cluster as it stands: what a context without introspection would hold
  table RUNS OUT      rivals.json, rivals.md, rivals.svg

The unit is the cluster (composites: their parents), averaged over seeds. The primary contrast was named before any test run: ours dreamt against
the rival that was best on val within the canary's limit (SDPO with explanations; LOG.md), neither with anything in context, four exchanges of each new cluster.
"""

import json
import sys
from pathlib import Path

import numpy as np

from introspection import library
from introspection.report import figures
from introspection.stats import cluster_means, estimate, holm
from introspection.tables.units import minus
from organism import rules
from tasks.mcq import load_questions

ARMS = {  # arm: (what it is, what is revealed of an exchange, whether a text stands in context)
    "start": ("start model", "nothing", False),
    "ssd": ("SSD", "nothing", False),
    "grpo": ("GRPO", "right or wrong", False),
    "grpo-long": ("GRPO, 600 steps instead of 120", "right or wrong", False),
    "dr-grpo": ("Dr. GRPO", "right or wrong", False),
    "composer": ("Composer 2's chain", "right or wrong", False),
    "retry": ("Reflect, Retry, Reward", "right or wrong", False),
    "sft-gold": ("SFT on gold answers", "answer", False),
    "sft-answer": ("SFT on corrections", "answer", False),
    "sdpo-answer": ("SDPO", "answer", False),
    "sft-explanation": ("SFT on corrections", "explanation", False),
    "sdpo": ("SDPO", "explanation", False),
    "sdpo-ss": ("SDPO+ss", "explanation", False),
    "sdpo-long": ("SDPO, 600 steps instead of 120", "explanation", False),
    "sdpo-slow": ("SDPO, 600 steps at a quarter of the rate", "explanation", False),
    "resd": ("Resd", "explanation", False),
    "resd-long": ("Resd, 600 steps instead of 120", "explanation", False),
    "recalled": ("ours: stage 2, recalled", "explanation", False),
    "dreamt": ("ours: stage 3, dreamt", "explanation", False),
    "told": ("the explanation itself in context", "explanation", True),
    "untrained": ("the best point of a pass of stage 1 from the start model", "explanation", True),
    "written": ("ours: stage 1, its best point in context", "explanation", True),
}
PRIMARY = ("4", "test", "dreamt", "sdpo")
AGAINST = ("sdpo", "grpo", "grpo-long")  # every other arm is compared with these
SHOWN = {  # in the picture: colour, label
    "grpo": (figures.GREY, "GRPO"), "sft-explanation": (figures.PURPLE, "SFT, told explanations"), "sdpo": (figures.ORANGE, "SDPO, told explanations"),
    "resd": (figures.GREEN, "Resd, told explanations"), "dreamt": (figures.BLUE, "ours: stage 3, dreamt"), "written": ("#d64570", "ours: stage 1, in context"),
    "untrained": ("#8c6d31", "stage 1 from the start model"), "told": (figures.INK, "an explanation in context"),
}  # fmt: skip


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def best_points(records: list[dict]) -> list[dict]:
    """One record a cluster; leaks left out. A wording that came of several questions is judged by all its samples."""
    pooled = library.merge(
        [r | {"question_id": r["cluster"], "from": r["question_id"]} for r in records if r["text"] and not r["leak"]]
    )
    clusters = dict.fromkeys(r["cluster"] for r in pooled)
    chosen = [library.best([r for r in pooled if r["cluster"] == name]) for name in clusters]
    return [{name: value for name, value in r.items() if name != "from"} | {"question_id": r["from"]} for r in chosen]


def told_points(bank: Path, seed: int) -> list[dict]:
    explained: dict[str, list[str]] = {}
    for question in load_questions(bank):
        if question.split == "train" and question.explanation:
            explained.setdefault(question.cluster, []).append(question.explanation)
    return [{"cluster": cluster, "text": texts[seed % len(texts)]} for cluster, texts in explained.items()]


# ---- the table -----------------------------------------------------------------------------------------------------
def by_cluster(each: dict[str, float], cluster_of: dict[str, str]) -> dict[str, list[float]]:
    clusters: dict[str, list[float]] = {}
    for question, accuracy in each.items():
        clusters.setdefault(cluster_of[question], []).append(accuracy)
    return clusters


def measured(seeds: list[dict[str, list[float]]], split: str = "test") -> dict:
    """What tables say of a mean over clusters, and what it was measured on."""
    size = {
        "clusters": len(seeds[0]),
        "questions": sum(map(len, seeds[0].values())),
        "seeds": [float(cluster_means([s]).mean()) for s in seeds],
    }
    return estimate(seeds, split) | size


def cost(run: Path) -> dict:
    """Tokens that were generated and trained, and seconds of its steps, where a run's log has them."""
    found = {}
    for log in sorted(run.glob("*/metrics.jsonl")):
        records = lines(log)
        for name in ("generated_tokens", "trained_tokens"):
            if name in records[-1]:
                found[name] = records[-1][name]
        if "time/step" in records[-1]:
            found["seconds"] = sum(r["time/step"] for r in records)
        if "tokens_per_second" in records[-1]:  # stage 1
            found["generated_tokens"] = round(
                sum(r["tokens_per_second"] * sum(r[f"time/rollout{i}"] for i in (1, 2, 3)) for r in records)
            )
    return found


def collect(runs: Path) -> list[dict]:
    rows = []
    for folder in sorted((p for p in runs.iterdir() if p.is_dir()), key=lambda p: (p.name == "bank", p.name.zfill(4))):
        bank = Path("data/bank.jsonl") if folder.name == "bank" else runs / f"{folder.name}.jsonl"
        cluster_of = {q.id: q.cluster for q in load_questions(bank)}
        found: dict[str, list[dict]] = {}
        for arm in ARMS:
            for path in sorted(folder.glob(f"{arm}-[0-9].json")):
                each = json.loads(path.read_text())["each"]
                found.setdefault(arm, []).append(
                    {split: by_cluster(part, cluster_of) for split, part in each.items()}
                    | {"cost": cost(path.with_suffix(""))}
                )
        for arm, seeds in found.items():
            row = {"exchanges": folder.name, "arm": arm, "cost": [s.pop("cost") for s in seeds], "splits": {}}
            for split in seeds[0]:
                part = [s[split] for s in seeds]
                row["splits"][split] = measured(part, split)
                if arm != "start":
                    row["splits"][split]["against start"] = measured(
                        minus(part, [found["start"][0][split]] * len(part)), split
                    )
                for rival in AGAINST:
                    if len(part) == len(found.get(rival, [])) and arm not in ("start", *AGAINST):
                        row["splits"][split][f"against {rival}"] = measured(
                            minus(part, [s[split] for s in found[rival]]), split
                        )
            rows.append(row)
    return rows


def together(rows: list[dict], earlier: list[dict]) -> list[dict]:
    """`rows`, and those of numbers of exchanges that were measured earlier (runs may be gone, tables stay); p corrected over all."""
    rows = [r for r in earlier if r["exchanges"] not in {r["exchanges"] for r in rows}] + rows
    rows.sort(key=lambda r: (r["exchanges"] == "bank", r["exchanges"].zfill(4)))
    against = [
        r["splits"]["test"].get(f"against {n}")
        for r in rows
        for n in AGAINST
        if (r["exchanges"], "test", r["arm"], n) != PRIMARY
    ]
    against = [a for a in against if a]
    for part, p in zip(against, holm([a["p"] for a in against]), strict=True):
        part["p_holm"] = p
    return rows


def ceilings(k: int) -> tuple[float, float]:
    """Bayes-optimal accuracy on the new clusters after k revealed answers, and after k explanations (rules.ceiling)."""
    clusters = [c for c in rules.load_clusters().values() if c.split == "test_clusters"]
    return tuple(sum(rules.ceiling(c, k, explained) for c in clusters) / len(clusters) for explained in (False, True))


def markdown(rows: list[dict]) -> str:
    ks = [k for k in dict.fromkeys(r["exchanges"] for r in rows) if k != "bank"]
    at = {(r["exchanges"], r["arm"]): r for r in rows}

    def shown(e: dict | None) -> str:
        return "" if e is None else f"{e['mean']:.3f} [{e['low']:.2f}, {e['high']:.2f}]"

    def of(k: str, arm: str, split: str) -> dict | None:
        return at[k, arm]["splits"].get(split) if (k, arm) in at else None

    out = []
    if ks:
        start = of(ks[0], "start", "test")
        out += [
            f"New clusters: accuracy on {start['questions']} questions after k exchanges of each of {start['clusters']} clusters that nothing was trained on",
            "",
        ]
        out += [
            "| revealed | method | "
            + " | ".join(f"k = {k}" for k in ks)
            + "".join(f" | canary, k = {k}" for k in ks)
            + " |",
            "|" + "---|" * (2 * len(ks) + 2),
        ]
    for arm, (what, revealed, context) in ARMS.items() if ks else ():
        if any((k, arm) in at for k in ks):
            out.append(
                f"| {revealed}{', text in context' * context} | {what} | "
                + " | ".join(shown(of(k, arm, "test")) for k in [*ks])
                + "".join(f" | {shown(of(k, arm, 'canary'))}" for k in ks)
                + " |"
            )
    if ("bank", "start") in at:
        splits = list(at["bank", "start"]["splits"])
        asked = max(len(e["seeds"]) for (k, _), r in at.items() if k == "bank" for e in r["splits"].values())
        out += [
            "",
            f"The bank: all 16 exchanges of each of its 20 train clusters ({asked} seed{'s' * (asked > 1)})",
            "",
        ]
        out += [
            "| revealed | method | " + " | ".join(splits) + " | sampled by the last stage; seconds |",
            "|" + "---|" * (len(splits) + 3),
        ]
        for arm, (what, revealed, context) in ARMS.items():
            if ("bank", arm) in at:
                spent = at["bank", arm]["cost"]
                known = {
                    name: np.mean([c[name] for c in spent])
                    for name in ("generated_tokens", "seconds")
                    if all(name in c for c in spent)
                }
                told = f"{known['generated_tokens'] / 1000:,.0f} k" if "generated_tokens" in known else "-"
                told += f"; {known['seconds']:.0f}" if "seconds" in known else ""
                out.append(
                    f"| {revealed}{', text in context' * context} | {what} | "
                    + " | ".join(shown(of("bank", arm, s)) for s in splits)
                    + f" | {told} |"
                )
    for k, arm, rival in (
        (k, arm, rival) for k in [*ks, "bank"] for arm in ("dreamt", "recalled") for rival in AGAINST
    ):
        e = (of(k, arm, "test") or {}).get(f"against {rival}")
        if e:
            name, corrected = "Primary contrast, " * ((k, "test", arm, rival) == PRIMARY), " (Holm)" * ("p_holm" in e)
            difference = (
                f"{e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}], p = {e.get('p_holm', e['p']):.4f}{corrected}"
            )
            out.append(f"\n{name}k = {k}: ours {arm} minus {ARMS[rival][0]}, {difference}")
    seeds = max(len(e["seeds"]) for r in rows for e in r["splits"].values())
    means = f"Means over clusters and {seeds} seeds unless said otherwise, 95 % intervals over both and questions."
    return "\n".join([*out, f"\n{means} The start model is asked once, and so is a context that all seeds share."])


def picture(rows: list[dict], path: Path) -> None:
    plt, at = figures.pyplot(), {(r["exchanges"], r["arm"]): r["splits"]["test"] for r in rows}
    ks = sorted({int(r["exchanges"]) for r in rows if r["exchanges"] != "bank"})
    if plt is None or not ks:
        return
    last, ends = str(ks[-1]), []
    for k in map(str, dict.fromkeys((ks[0], ks[-1]))):
        best = max(
            (arm for arm in SHOWN if (k, arm) in at and not ARMS[arm][2]), key=lambda arm, k=k: at[k, arm]["mean"]
        )
        ends.append(
            f"from {k} exchange{'s' * (k != '1')} {at[k, 'start']['mean']:.2f} to {at[k, best]['mean']:.2f} ({ARMS[best][0]})"
        )
    title = f"New clusters, best with nothing in context: {', '.join(ends)}"
    start = at[last, "start"]
    seeds = max(len(e["seeds"]) for e in at.values())
    note = f"{seeds} seeds, {start['clusters']} clusters, {start['questions']} questions; bars: 95 % intervals; dashed: a text in context; grey, dotted: start model; finely dotted: a Bayesian who sees the answers alone"
    figure, (axis,) = figures.frame(plt, title, note, height=3.6)
    axis.axhline(start["mean"], color=figures.GREY, linewidth=0.8, linestyle=":")
    axis.plot(ks, [ceilings(k)[0] for k in ks], color=figures.GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    for i, (arm, (color, label)) in enumerate(SHOWN.items()):
        here = [k for k in ks if (str(k), arm) in at]
        if here:
            parts = [at[str(k), arm] for k in here]
            bars = [[p["mean"] - p["low"] for p in parts], [p["high"] - p["mean"] for p in parts]]
            axis.errorbar(
                [k * 1.02 ** (i - 3) for k in here],
                [p["mean"] for p in parts],
                yerr=bars,
                color=color,
                marker="o",
                markersize=3.5,
                linewidth=1.2,
                capsize=2,
                label=label,
                linestyle="--" if ARMS[arm][2] else "-",
            )
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.set(xlabel="exchanges of each new cluster", ylabel="accuracy on new questions", ylim=(0, 1))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2, fontsize=6.5)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    action, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if action == "table":
        known = out / "rivals.json"
        rows = together(collect(source), json.loads(known.read_text()) if known.exists() else [])
        (out / "rivals.json").write_text(json.dumps(rows, indent=1) + "\n")
        (out / "rivals.md").write_text(markdown(rows) + "\n")
        picture(rows, out / "rivals.svg")
        print(markdown(rows) + f"\n\nwrote {out}/rivals.json, rivals.md")
    else:
        points = (
            best_points(library.load_library(source)) if action == "best" else told_points(source, int(sys.argv[4]))
        )
        out.write_text("".join(json.dumps(p) + "\n" for p in points))
