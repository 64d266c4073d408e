"""What reproduce/rivals.sh needs beside stages and rivals: the point that each cluster is given, and the table (T12).

  best LIBRARY OUT    the library's best point of each cluster, by lower bound over all questions that tried a wording
  told BANK OUT SEED  the explanation of one exchange of each cluster as it stands: a context without introspection
  table RUNS OUT      rivals.json, rivals.md, rivals.svg

The unit is the cluster (composites: their parents), averaged over seeds. The primary contrast was named before any
test run: ours dreamt against the rival that was best on val within the canary's limit (SDPO with explanations;
docs/LOG.md), neither with anything in context, four exchanges of each new cluster.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np

from introspection import library
from introspection.report import figures
from introspection.stats import cluster_means, estimate, holm
from introspection.tables.units import minus
from organism import rules
from reproduce.records import (
    group,
    markdown_table,
    quantity,
    read_lines,
    save_picture,
    shown_interval,
    write_lines,
    write_table,
)
from tasks.bank import load_questions

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
    "grpo": (figures.GREY, "GRPO"),
    "sft-explanation": (figures.PURPLE, "SFT, told explanations"),
    "sdpo": (figures.ORANGE, "SDPO, told explanations"),
    "resd": (figures.GREEN, "Resd, told explanations"),
    "dreamt": (figures.BLUE, "ours: stage 3, dreamt"),
    "written": ("#d64570", "ours: stage 1, in context"),
    "untrained": ("#8c6d31", "stage 1 from the start model"),
    "told": (figures.INK, "an explanation in context"),
}


def best_points(records: list[dict]) -> list[dict]:
    """One record a cluster; leaks left out. A wording that came of several questions is judged by all its samples."""
    usable = [r for r in records if r["text"] and not r["leak"]]
    pooled = library.merge([r | {"question_id": r["cluster"], "from": r["question_id"]} for r in usable])
    clusters = dict.fromkeys(r["cluster"] for r in pooled)
    chosen = [library.best([r for r in pooled if r["cluster"] == name]) for name in clusters]
    return [{name: value for name, value in r.items() if name != "from"} | {"question_id": r["from"]} for r in chosen]


def told_points(bank: Path, seed: int) -> list[dict]:
    explained = group((q.cluster, q.explanation) for q in load_questions(bank) if q.split == "train" and q.explanation)
    return [{"cluster": cluster, "text": texts[seed % len(texts)]} for cluster, texts in explained.items()]


# ---- what was measured ---------------------------------------------------------------------------------------------
def group_by_cluster(each: dict[str, float], cluster_of: dict[str, str]) -> dict[str, list[float]]:
    return group((cluster_of[question], accuracy) for question, accuracy in each.items())


def seeds_by_cluster(seeds: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """{cluster: [the mean over its questions, of each seed]}."""
    return {cluster: [float(np.mean(seed[cluster])) for seed in seeds] for cluster in seeds[0]}


def estimate_units(seeds: list[dict[str, list[float]]], split: str = "test") -> dict:
    """What tables say of a mean over clusters (or other units of questions), and what it was measured on."""
    return {
        **estimate(seeds, split),
        "clusters": len(seeds[0]),
        "questions": sum(map(len, seeds[0].values())),
        "seeds": [float(cluster_means([s]).mean()) for s in seeds],
    }


def estimate_clusters(seeds: list[dict[str, list[float]]], split: str = "test") -> dict:
    return estimate_units(seeds, split) | {"by_cluster": seeds_by_cluster(seeds)}


def sampled_tokens(step: dict) -> float:
    """Tokens that a step of stage 1 sampled, by its log."""
    return step["tokens_per_second"] * sum(step[f"time/rollout{i}"] for i in (1, 2, 3))


def cost(run: Path) -> dict:
    """Tokens that were generated and trained, and seconds of its steps, where a run's log has them."""
    found = {}
    for log in sorted(run.glob("*/metrics.jsonl")):
        records = read_lines(log)
        found |= {name: records[-1][name] for name in ("generated_tokens", "trained_tokens") if name in records[-1]}
        if "time/step" in records[-1]:
            found["seconds"] = sum(r["time/step"] for r in records)
        if "tokens_per_second" in records[-1]:  # stage 1
            found["generated_tokens"] = round(sum(map(sampled_tokens, records)))
    return found


def read_seed(answers: Path, cluster_of: dict[str, str]) -> dict:
    """What a seed of an arm measured: accuracies by split and cluster, and the cost of its run."""
    each = json.loads(answers.read_text())["each"]
    splits = {split: group_by_cluster(part, cluster_of) for split, part in each.items()}
    return {"splits": splits, "cost": cost(answers.with_suffix(""))}


def compare(found: dict[str, list[dict]], arm: str, split: str) -> dict:
    """An arm's accuracy on a split, and how it differs from the start model and from rivals with as many seeds."""
    part = [seed["splits"][split] for seed in found[arm]]
    made, others = estimate_clusters(part, split), {"start": found["start"][:1] * len(part)}
    if arm not in AGAINST:
        others |= {rival: found.get(rival, []) for rival in AGAINST}
    for name, seeds in others.items():
        if arm != "start" and len(seeds) == len(part):
            difference = minus(part, [seed["splits"][split] for seed in seeds])
            made[f"against {name}"] = estimate_clusters(difference, split)
    return made


def place(exchanges: str) -> tuple[bool, str]:
    """The order of tables: by number of exchanges, the bank last."""
    return exchanges == "bank", exchanges.zfill(4)


def collect(runs: Path) -> list[dict]:
    rows = []
    for name in sorted((p.name for p in runs.iterdir() if p.is_dir()), key=place):
        bank = Path("data/bank.jsonl") if name == "bank" else runs / f"{name}.jsonl"
        cluster_of = {q.id: q.cluster for q in load_questions(bank)}
        answers = [(arm, path) for arm in ARMS for path in sorted((runs / name).glob(f"{arm}-[0-9].json"))]
        found = group((arm, read_seed(path, cluster_of)) for arm, path in answers)
        for arm, seeds in found.items():
            splits = {split: compare(found, arm, split) for split in seeds[0]["splits"]}
            rows.append({"exchanges": name, "arm": arm, "cost": [seed["cost"] for seed in seeds], "splits": splits})
    return rows


def together(rows: list[dict], earlier: list[dict]) -> list[dict]:
    """`rows`, and those of other numbers of exchanges that were measured earlier (runs may be gone, tables stay).

    p is corrected over all of them, but for the primary contrast: `p_holm` is set anew in each.
    """
    measured = {r["exchanges"] for r in rows}
    rows = [r for r in earlier if r["exchanges"] not in measured] + rows
    rows.sort(key=lambda r: place(r["exchanges"]))
    others = [(r, rival) for r in rows for rival in AGAINST if (r["exchanges"], "test", r["arm"], rival) != PRIMARY]
    against = [r["splits"]["test"].get(f"against {rival}") for r, rival in others]
    against = [contrast for contrast in against if contrast]
    for contrast, p in zip(against, holm([contrast["p"] for contrast in against]), strict=True):
        contrast["p_holm"] = p
    return rows


# ---- the table -----------------------------------------------------------------------------------------------------
def shown(e: dict | None) -> str:
    return shown_interval(e, ".3f", ".2f") if e else ""


def first_cells(arm: str) -> list[str]:
    what, revealed, context = ARMS[arm]
    return [f"{revealed}, text in context" if context else revealed, what]


def few_table(at: dict[tuple[str, str], dict], ks: list[str]) -> list[str]:
    """Accuracy on new clusters after k exchanges of each."""
    start, found = at[ks[0], "start"]["test"], {arm: [at.get((k, arm), {}) for k in ks] for arm in ARMS}
    rows = [
        [*first_cells(arm), *(shown(splits.get(name)) for name in ("test", "canary") for splits in part)]
        for arm, part in found.items()
        if any(part)
    ]
    head = ["revealed", "method", *(f"k = {k}" for k in ks), *(f"canary, k = {k}" for k in ks)]
    return [
        f"New clusters: accuracy on {start['questions']} questions after k exchanges of each of "
        f"{start['clusters']} clusters that nothing was trained on",
        "",
        *markdown_table(head, rows),
    ]


def mean_cost(costs: list[dict]) -> str:
    """'1,234 k; 56': tokens and seconds, means over seeds, where all of them know."""
    tokens, seconds = ([c.get(name) for c in costs] for name in ("generated_tokens", "seconds"))
    told = "-" if None in tokens else f"{np.mean(tokens) / 1000:,.0f} k"
    return told if None in seconds else f"{told}; {np.mean(seconds):.0f}"


def bank_table(rows: list[dict]) -> list[str]:
    """Accuracy on each split after all exchanges of the bank, and what the last stage cost."""
    row_of = {r["arm"]: r for r in rows}
    splits = list(row_of["start"]["splits"])
    seeds = max(len(e["seeds"]) for r in rows for e in r["splits"].values())
    lines = [
        [*first_cells(arm), *(shown(row_of[arm]["splits"].get(s)) for s in splits), mean_cost(row_of[arm]["cost"])]
        for arm in ARMS
        if arm in row_of
    ]
    return [
        "",
        f"The bank: all 16 exchanges of each of its 20 train clusters ({quantity(seeds, 'seed')})",
        "",
        *markdown_table(["revealed", "method", *splits, "sampled by the last stage; seconds"], lines),
    ]


def shown_contrast(at: dict[tuple[str, str], dict], k: str, arm: str, rival: str) -> list[str]:
    e = at.get((k, arm), {}).get("test", {}).get(f"against {rival}")
    if e is None:
        return []
    name = "Primary contrast, " if (k, "test", arm, rival) == PRIMARY else ""
    p = f"{e['p_holm']:.4f} (Holm)" if "p_holm" in e else f"{e['p']:.4f}"
    return [f"\n{name}k = {k}: ours {arm} minus {ARMS[rival][0]}, {shown_interval(e)}, p = {p}"]


def markdown(rows: list[dict]) -> str:
    """Both tables and the contrasts of ours with AGAINST."""
    ks = [k for k in dict.fromkeys(r["exchanges"] for r in rows) if k != "bank"]
    at = {(r["exchanges"], r["arm"]): r["splits"] for r in rows}
    lines = few_table(at, ks) if ks else []
    if ("bank", "start") in at:
        lines += bank_table([r for r in rows if r["exchanges"] == "bank"])
    for k, arm, rival in itertools.product((*ks, "bank"), ("dreamt", "recalled"), AGAINST):
        lines += shown_contrast(at, k, arm, rival)
    seeds = max(len(e["seeds"]) for r in rows for e in r["splits"].values())
    lines.append(
        f"\nMeans over clusters and {seeds} seeds unless said otherwise, 95 % intervals over both and questions. "
        "The start model is asked once, and so is a context that all seeds share."
    )
    return "\n".join(lines)


def shown_best(at: dict[tuple[str, str], dict], k: int) -> str:
    """How far the best arm gets with nothing in context."""
    alone = [arm for arm in SHOWN if (str(k), arm) in at and not ARMS[arm][2]]
    best = max(alone, key=lambda arm: at[str(k), arm]["mean"])
    start, end = (at[str(k), arm]["mean"] for arm in ("start", best))
    return f"from {quantity(k, 'exchange')} {start:.2f} to {end:.2f} ({ARMS[best][0]})"


def draw(plt, rows: list[dict], ks: list[int]):
    """Accuracy on new clusters by number of exchanges."""
    at = {(r["exchanges"], r["arm"]): r["splits"]["test"] for r in rows}
    ends = [shown_best(at, k) for k in dict.fromkeys((ks[0], ks[-1]))]
    title = f"New clusters, best with nothing in context: {', '.join(ends)}"
    start = at[str(ks[-1]), "start"]
    seeds = max(len(e["seeds"]) for e in at.values())
    note = (
        f"{seeds} seeds, {start['clusters']} clusters, {start['questions']} questions; bars: 95 % intervals; "
        "dashed: a text in context; grey, dotted: start model; finely dotted: a Bayesian who sees the answers alone"
    )
    figure, (axis,) = figures.frame(plt, title, note, height=3.6)
    axis.axhline(start["mean"], color=figures.GREY, linewidth=0.8, linestyle=":")
    new = [c for c in rules.load_clusters().values() if c.split == "test_clusters"]
    best = [rules.mean_ceiling(new, k) for k in ks]  # what the answers alone allow
    axis.plot(ks, best, color=figures.GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    for i, (arm, (color, label)) in enumerate(SHOWN.items()):
        here = [k for k in ks if (str(k), arm) in at]
        parts = [at[str(k), arm] for k in here]
        bars = [[p["mean"] - p["low"] for p in parts], [p["high"] - p["mean"] for p in parts]]
        beside = [k * 1.02 ** (i - 3) for k in here]  # bars of one k stand side by side
        if here:
            axis.errorbar(
                beside,
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
    return figure


if __name__ == "__main__":
    action, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if action == "table":
        known = out / "rivals.json"
        rows = together(collect(source), json.loads(known.read_text()) if known.exists() else [])
        write_table(out, "rivals", rows, markdown(rows))
        ks = sorted({int(r["exchanges"]) for r in rows if r["exchanges"] != "bank"})
        if ks:
            save_picture(out / "rivals.svg", draw, rows, ks)
    elif action == "best":
        write_lines(out, best_points(library.load_library(source)))
    else:
        write_lines(out, told_points(source, int(sys.argv[4])))
