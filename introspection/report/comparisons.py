"""The figures of a report that compare: points before and after training and against controls, transfer, recall, dreams, rivals."""

import textwrap

import numpy as np

from introspection.report.figures import (
    BLUE,
    GREY,
    KINDS,
    ORANGE,
    ends,
    frame,
    interval,
    legend,
    mean,
    moved,
    series,
    size,
    units,
    window,
)
from introspection.tables.recall import needs


# ---- dots and dumbbells --------------------------------------------------------------------------------------------
def dots(axis, rows: list[tuple]) -> None:
    """Rows (label, [(mean, low, high, color, side)]) from top to bottom, the dots of a row side by side."""
    seen = set()
    for y, (_, shown) in enumerate(rows[::-1]):
        for k, (m, low, high, color, side) in enumerate(shown):
            place, label = y + 0.14 * (len(shown) - 1) - 0.28 * k, None if side in seen else side
            axis.errorbar(
                m,
                place,
                xerr=[[m - low], [high - m]],
                fmt="o",
                color=color,
                markersize=4,
                capsize=2,
                linewidth=1.2,
                label=label,
            )
            seen.add(side)
    axis.axvline(0, color=GREY, linewidth=0.6)
    axis.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(label, 38)) for label, _ in rows[::-1]], fontsize=7)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.locator_params(axis="x", nbins=6)  # more numbers would run into each other where changes are small
    if seen - {None}:
        legend(axis, 3)


def dumbbells(axis, rows: list[tuple]) -> None:
    """Rows (label, before, after, aim or None) from top to bottom."""
    for y, (_, before, after, aim) in enumerate(rows[::-1]):
        axis.plot([before, after], [y, y], color=GREY, linewidth=1)
        axis.plot(before, y, "o", color=GREY, markersize=4, label="before" if y == 0 else None)
        axis.plot(after, y, "o", color=BLUE, markersize=4, label="after" if y == 0 else None)
        if aim is not None:
            axis.plot(
                aim,
                y,
                "|",
                color=ORANGE,
                markersize=11,
                markeredgewidth=2,
                label="start model, point in context" if y == len(rows) - 1 else None,
            )
    axis.set_yticks(range(len(rows)), [label for label, *_ in rows[::-1]], fontsize=7)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(rows) - 0.4))
    legend(axis, 3)


# ---- what points are worth -----------------------------------------------------------------------------------------
def both_accuracies(sides) -> str:
    """What every advantage is shown with: accuracy with a point, and without one."""
    return (
        " (with / without: "
        + ", then ".join(f"{with_point:.2f} / {without:.2f}" for with_point, without in sides)
        + ")"
    )


def trained_rows(stages: list) -> list[tuple]:
    """What a training's own logs say: on rewarded questions, and on those of its evaluations."""
    rows = []
    for kind, words in KINDS.items():
        parts = [
            units(window(stages, *part), lambda r, kind=kind: r[f"advantage_{kind}"]) for part in ((0, 0.1), (0.9, 1))
        ]
        if all(parts):
            shown = zip(parts, (GREY, BLUE), ("start", "end"), strict=True)
            sides = zip(ends(series(stages, "accuracy/verify")), ends(series(stages, "accuracy/fresh")), strict=True)
            rows.append(
                (
                    f"training: {words}{both_accuracies(sides)}",
                    [(*interval(part), color, name) for part, color, name in shown],
                )
            )
    evaluated = [s.records["eval"] for s in stages if len(s.records["eval"]) > 1]
    if evaluated:
        shown, told = [], []
        for place, color, name in ((0, GREY, "start"), (-1, BLUE, "end")):
            seeds = [e[place]["per_question"] for e in evaluated]
            both = {q: [(seed[q][0], seed[q][1]) for seed in seeds if q in seed] for q in seeds[0]}
            shown.append((*interval([mean(w - wo for w, wo in pairs) for pairs in both.values()]), color, name))
            told.append(tuple(mean(pair[k] for pairs in both.values() for pair in pairs) for k in (0, 1)))
        rows.append((f"{evaluated[0][0]['split']}: questions never rewarded{both_accuracies(told)}", shown))
    return rows


def measured_rows(table: list[dict]) -> list[tuple]:
    """What eval.py says: memory and skill, the start model reading."""
    rows = []
    for split, words in (
        ("test", "memory and skill: new questions of rewarded clusters"),
        ("test_clusters", "skill: clusters never rewarded"),
    ):
        found = {
            r["writer"]: r for r in table if (r["split"], r["condition"], r["reader"]) == (split, "points", "start")
        }
        sides = [
            (found[w], color, name)
            for w, color, name in (("start", GREY, "start"), ("trained", BLUE, "end"))
            if w in found
        ]
        shown = [(*(r["advantage"][k] for k in ("mean", "low", "high")), color, name) for r, color, name in sides]
        if shown:
            rows.append((f"{words}{both_accuracies((r['with'], r['without']) for r, *_ in sides)}", shown))
    return rows


def advantage(plt, name: str, stages: list, tables: list[list[dict]]):
    """Introspection advantage before and after: same, transfer, held out, memory, skill."""
    rows = (trained_rows(stages) if stages else []) + [row for table in tables for row in measured_rows(table)]
    if not rows:
        return None
    label, shown = rows[-1]  # the hardest test that was made
    where = label.split(" (")[0]
    title = f"Introspection advantage {moved(shown[0][0], shown[-1][0])} ({where})"
    note = f"{size(name, stages)}; bars: 95 % intervals over clusters (tests: seeds > clusters > questions; evaluations of the training: questions)"
    figure, (axis,) = frame(plt, title, note, height=0.9 + 0.6 * len(rows))
    dots(axis, rows)
    axis.set_xlabel("accuracy with the point - without")
    return figure


def conditions(plt, name: str, table: list[dict], split: str):
    """Every condition of an evaluation on one split (its first, if that was not measured): trained writers beside the controls."""
    split = split if any(r["split"] == split for r in table) else table[0]["split"]
    part = [r for r in table if r["split"] == split][:40]
    rows = []
    for r in part:
        m, low, high = (r["advantage"][k] for k in ("mean", "low", "high"))
        told = "" if " - " in r["condition"] else f" ({r['with']:.2f}, {r['without']:.2f})"
        reader = "" if r["reader"] == "start" else f", {r['reader']} reader"
        rows.append(
            (
                f"{r['writer']}: {r['condition']}{reader}{told}",
                [(m, low, high, BLUE if r["writer"] == "trained" else GREY, f"{r['writer']} writer")],
            )
        )
    gains = {(r["writer"], r["condition"]): r["advantage"]["mean"] for r in part if r["reader"] == "start"}
    ours = next(
        (key for key in (("trained", "points"), ("trained", "recalled"), *gains) if key in gains),
        (part[0]["writer"], part[0]["condition"]),
    )
    blind = [gain for (writer, condition), gain in gains.items() if writer == ours[0] and condition.startswith("blind")]
    title = f"On {split}, {ours[1]} ({ours[0]} writer): {gains.get(ours, part[0]['advantage']['mean']):+.2f}" + (
        f"; written blind: at most {max(blind):+.2f}" if blind else ""
    )
    first = part[0]
    note = f"{name}; seeds: {max(r['seeds'] for r in part)}, {first['clusters']} clusters, {first['questions']} questions; in brackets accuracy with and without; bars: 95 %"
    figure, (axis,) = frame(plt, title, note, height=1.0 + 0.3 * len(rows))
    dots(axis, rows)
    axis.set_xlabel("accuracy with the text - without")
    return figure


def heat_map(plt, name: str, pairs: dict[tuple[str, str], list[float]], clusters: dict[str, str]):
    """Mean gain of points from one question on another: questions by type of cluster or, where there are many, the clusters."""
    names = sorted(clusters, key=lambda q: (clusters[q].rpartition("-")[2], clusters[q], q))  # type: what follows the last dash
    own = [v for (a, b), values in pairs.items() if a == b for v in values]
    elsewhere = {(a, b): values for (a, b), values in pairs.items() if a != b}
    near, far = (
        [v for (a, b), values in elsewhere.items() if (clusters[a] == clusters[b]) == same for v in values]
        for same in (True, False)
    )
    if not far:
        return None
    if len(names) > 40:
        names, pooled = list(dict.fromkeys(clusters[q] for q in names)), {}
        for (a, b), values in elsewhere.items():
            pooled.setdefault((clusters[a], clusters[b]), []).extend(values)
        pairs = pooled
    grid = np.array([[mean(pairs.get((a, b), [])) for b in names] for a in names])
    title = f"Points gain {mean(near):+.2f} on other questions of their cluster, {mean(far):+.2f} on other clusters"
    note = f"{name}; {len(clusters)} questions" + f"; on the own question (diagonal) {mean(own):+.2f}" * bool(own)
    figure, (axis,) = frame(plt, title, note, height=4.2)
    top = max(0.1, float(np.nanmax(np.abs(grid))))
    colors = plt.get_cmap("RdBu", 11)  # few enough to stay vectors: the page's policy loads no image, not even its own
    cells = axis.pcolormesh(grid, cmap=colors, vmin=-top, vmax=top, edgecolor="face", linewidth=0.2)
    axis.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90, fontsize=5)
    axis.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=5)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.set(xlabel="read on", ylabel="point written on")
    figure.colorbar(cells, ax=axis, shrink=0.7, label="accuracy with - without")
    return figure


# ---- recall, dreams, rivals ----------------------------------------------------------------------------------------
def recall_calibration(plt, name: str, units: list[dict]):
    """Whether recall's probability says where a point is needed, and how often recall fires there and elsewhere."""
    best = {r["question_id"]: r for u in units if u["condition"] == "best point" for r in u["questions"]}
    records = [r for u in units if (u["condition"], u["reader"]) == ("recalled", "start") for r in u["questions"]]
    kinds = needs(list(best.values()) or records)
    judged = [r for r in records if r["question_id"] in kinds]
    fired = {kind: [r["fired"] for r in judged if kinds[r["question_id"]] == kind] for kind in (True, False)}
    if not judged:
        return None
    title = f"Recall fires on {mean(fired[True]):.0%} where a point is needed, on {mean(fired[False]):.0%} where not".replace(
        "nan%", "-"
    )
    note = (
        f"{name}; {len(fired[True])} answers' questions need a point, {len(fired[False])} do not (beside the dots: n)"
    )
    figure, (axis,) = frame(plt, title, note)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, linestyle="--", label="perfectly calibrated")
    bins = np.minimum((np.array([r["score"] for r in judged]) * 5).astype(int), 4)
    for k in sorted(set(bins.tolist())):
        part = [r for r, b in zip(judged, bins, strict=True) if b == k]
        x, y = mean([r["score"] for r in part]), mean([kinds[r["question_id"]] for r in part])
        axis.plot(x, y, "o", color=BLUE)
        axis.annotate(f" {len(part)}", (x, y), fontsize=7)
    axis.set(
        xlabel="probability that the turn begins with a recalled point",
        ylabel="share of questions that need one",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.08),
    )
    legend(axis)
    return figure


def dreams(plt, name: str, stages: list):
    """Each question that was not dreamt, before and after; the mark is the start model with the point in context."""
    firsts, lasts = ([s.records["eval"][k] for s in stages] for k in (0, -1))
    rows = []
    for group in ("target", "agreement", "neighbour", "canary"):
        part = [
            (f[group], e[group], f.get(f"{group}_with_point")) for f, e in zip(firsts, lasts, strict=True) if group in f
        ]
        if part:
            aim = None if part[0][2] is None else mean([p[2] for p in part])
            rows.append((f"MEAN OF {group}", mean([p[0] for p in part]), mean([p[1] for p in part]), aim))
    questions = []
    for f, e in zip(firsts, lasts, strict=True):
        told = f["each"]["target_with_point"]
        questions += [(q, before, e["each"]["target"][q], told[q]) for q, before in f["each"]["target"].items()]
    questions.sort(key=lambda row: row[1] - row[2])
    _, before, after, aim = rows[0]
    closed = (
        f", {(after - before) / (aim - before):.0%} of the gap to the point in context"
        if abs(aim - before) > 0.02
        else ""
    )
    note = f"{size(name, stages)}; {len(questions)} questions" + ", the 30 of the largest rise" * (len(questions) > 30)
    rows += questions[:30]
    figure, (axis,) = frame(
        plt,
        f"After dreaming, accuracy without the point {moved(before, after)}{closed}",
        note,
        height=1.1 + 0.17 * len(rows),
    )
    dumbbells(axis, rows)
    axis.set_xlabel("accuracy (agreement: with the start model that has the point)")
    return figure


def rivals(plt, groups: dict[str, list[tuple[dict, dict]]]):
    """Methods on the same questions without a point in context.

    groups: by method and split, (before, after) of each seed by question.
    """
    rows, best = [], ("", -1.0)
    for name, seeds in groups.items():
        shared = set.intersection(*({*before} & {*after} for before, after in seeds))
        changes = [mean([after[q] - before[q] for before, after in seeds]) for q in sorted(shared)]
        if not changes:
            continue
        ends_ = [mean([side[k][q] for side in seeds for q in shared]) for k in (0, 1)]
        rows.append(
            (
                f"{name} ({ends_[0]:.2f} to {ends_[1]:.2f}; {len(seeds)} x {len(shared)})",
                [(*interval(changes), BLUE, None)],
            )
        )
        best = max(best, (name, rows[-1][1][0][0]), key=lambda b: b[1])
    title = f"Accuracy without a point changes most with {best[0]}: {best[1]:+.2f}"
    note = "in brackets: accuracy before and after, seeds x questions; bars: 95 % intervals over questions"
    figure, (axis,) = frame(plt, title, note, height=0.9 + 0.36 * len(rows))
    dots(axis, rows)
    axis.set_xlabel("change of accuracy by training")
    return figure
