"""The figures of a report that compare: points before and after training and against controls, transfer, recall,
dreams, rivals.
"""

import textwrap
from typing import NamedTuple

import numpy as np

from introspection.report.figures import (
    BLUE,
    GREY,
    KINDS,
    ORANGE,
    bar_of,
    frame,
    legend,
    mean_of_measured,
    movement,
    sample_size,
    series,
    start_and_end,
    unit_means,
    window,
)
from introspection.tables.points import BLIND
from introspection.tables.recall import needs

# What the two splits of table points say of a writer.
MEASURED = {
    "test": "memory and skill: new questions of rewarded clusters",
    "test_clusters": "skill: clusters never rewarded",
}


# ---- dots and dumbbells --------------------------------------------------------------------------------------------
class Dot(NamedTuple):
    """A mean with its 95 % interval; dots of one side share a color and an entry of the legend (None: no entry)."""

    mean: float
    low: float
    high: float
    color: str
    side: str | None


class Row(NamedTuple):
    label: str
    dots: list[Dot]
    detail: str = ""  # what stands behind the label


def dots(axis, rows: list[Row]) -> None:
    """Rows from top to bottom, the dots of a row below each other."""
    named = {None}
    for y, row in enumerate(rows[::-1]):
        for k, dot in enumerate(row.dots):
            place = y + 0.14 * (len(row.dots) - 1) - 0.28 * k
            axis.errorbar(
                dot.mean,
                place,
                xerr=[[dot.mean - dot.low], [dot.high - dot.mean]],
                fmt="o",
                color=dot.color,
                markersize=4,
                capsize=2,
                linewidth=1.2,
                label=None if dot.side in named else dot.side,
            )
            named.add(dot.side)
    axis.axvline(0, color=GREY, linewidth=0.6)
    labels = ["\n".join(textwrap.wrap(row.label + row.detail, 38)) for row in rows[::-1]]
    axis.set_yticks(range(len(rows)), labels, fontsize=7)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.locator_params(axis="x", nbins=6)  # more numbers would run into each other where changes are small
    if named - {None}:
        legend(axis, 3)


def dumbbells(axis, rows: list[tuple]) -> None:
    """Rows (label, before, after, aim or None) from top to bottom."""
    for y, (_, before, after, aim) in enumerate(rows[::-1]):
        is_bottom, is_top = y == 0, y == len(rows) - 1  # one row of all names each mark in the legend
        axis.plot([before, after], [y, y], color=GREY, linewidth=1)
        axis.plot(before, y, "o", color=GREY, markersize=4, label="before" if is_bottom else None)
        axis.plot(after, y, "o", color=BLUE, markersize=4, label="after" if is_bottom else None)
        if aim is not None:
            name = "start model, point in context" if is_top else None
            axis.plot(aim, y, "|", color=ORANGE, markersize=11, markeredgewidth=2, label=name)
    axis.set_yticks(range(len(rows)), [label for label, *_ in rows[::-1]], fontsize=7)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(rows) - 0.4))
    legend(axis, 3)


# ---- what points are worth -----------------------------------------------------------------------------------------
def both_accuracies(sides) -> str:
    """What every advantage is shown with: accuracy with a point, and without one."""
    told = ", then ".join(f"{with_point:.2f} / {without:.2f}" for with_point, without in sides)
    return f" (with / without: {told})"


def trained_rows(stages: list) -> list[Row]:
    """What a training's own logs say: on rewarded questions, and on those of its evaluations."""
    rows = []
    for kind, words in KINDS.items():
        start = unit_means(window(stages, 0, 0.1), f"advantage_{kind}")
        end = unit_means(window(stages, 0.9, 1), f"advantage_{kind}")
        if start and end:
            with_point = start_and_end(series(stages, "accuracy/verify"))
            without = start_and_end(series(stages, "accuracy/fresh"))
            shown = [Dot(*bar_of(start), GREY, "start"), Dot(*bar_of(end), BLUE, "end")]
            rows.append(Row(f"training: {words}", shown, both_accuracies(zip(with_point, without, strict=True))))
    evaluated = [s.records["eval"] for s in stages if len(s.records["eval"]) > 1]
    if evaluated:
        shown, accuracies = [], []
        for place, color, name in ((0, GREY, "start"), (-1, BLUE, "end")):
            seeds = [evaluations[place]["per_question"] for evaluations in evaluated]
            pairs_of = {q: [seed[q] for seed in seeds if q in seed] for q in seeds[0]}  # (with, without) of each seed
            gains = [mean_of_measured(w - wo for w, wo in pairs) for pairs in pairs_of.values()]
            shown.append(Dot(*bar_of(gains), color, name))
            all_pairs = [pair for pairs in pairs_of.values() for pair in pairs]
            accuracies.append((mean_of_measured(w for w, _ in all_pairs), mean_of_measured(wo for _, wo in all_pairs)))
        split = evaluated[0][0]["split"]
        rows.append(Row(f"{split}: questions never rewarded", shown, both_accuracies(accuracies)))
    return rows


def measured_dot(row: dict, color: str, side: str) -> Dot:
    """The advantage of a row of eval.py's table."""
    advantage = row["advantage"]
    return Dot(advantage["mean"], advantage["low"], advantage["high"], color, side)


def measured_rows(table: list[dict]) -> list[Row]:
    """What eval.py says: memory and skill, the start model reading."""
    rows = []
    for split, words in MEASURED.items():
        place = (split, "points", "start")
        found = {r["writer"]: r for r in table if (r["split"], r["condition"], r["reader"]) == place}
        sides = (("start", GREY, "start"), ("trained", BLUE, "end"))
        shown = [measured_dot(found[writer], color, side) for writer, color, side in sides if writer in found]
        accuracies = [(found[writer]["with"], found[writer]["without"]) for writer, *_ in sides if writer in found]
        if shown:
            rows.append(Row(words, shown, both_accuracies(accuracies)))
    return rows


def advantage(plt, name: str, stages: list, tables: list[list[dict]]):
    """Introspection advantage before and after: same, transfer, held out, memory, skill."""
    rows = trained_rows(stages) if stages else []
    for table in tables:
        rows += measured_rows(table)
    if not rows:
        return None
    hardest = rows[-1]  # of the tests that were made
    before, after = hardest.dots[0].mean, hardest.dots[-1].mean
    title = f"Introspection advantage {movement(before, after)} ({hardest.label})"
    units = "tests: seeds > clusters > questions; evaluations of the training: questions"
    note = f"{sample_size(name, stages)}; bars: 95 % intervals over clusters ({units})"
    figure, (axis,) = frame(plt, title, note, height=0.9 + 0.6 * len(rows))
    dots(axis, rows)
    axis.set_xlabel("accuracy with the point - without")
    return figure


def conditions(plt, name: str, table: list[dict], split: str):
    """Every condition of an evaluation on one split (its first, if that was not measured): trained writers beside the
    controls.
    """
    if not any(r["split"] == split for r in table):
        split = table[0]["split"]
    part = [r for r in table if r["split"] == split][:40]
    rows = []
    for r in part:
        reader = "" if r["reader"] == "start" else f", {r['reader']} reader"
        is_difference = " - " in r["condition"]  # of two conditions: its sides are gains, no accuracies
        accuracies = "" if is_difference else f" ({r['with']:.2f}, {r['without']:.2f})"
        color = BLUE if r["writer"] == "trained" else GREY
        shown = measured_dot(r, color, f"{r['writer']} writer")
        rows.append(Row(f"{r['writer']}: {r['condition']}{reader}{accuracies}", [shown]))
    gains = {(r["writer"], r["condition"]): r["advantage"]["mean"] for r in part if r["reader"] == "start"}
    first = part[0]
    told = [key for key in (("trained", "points"), ("trained", "recalled"), *gains) if key in gains]
    writer, condition = told[0] if told else (first["writer"], first["condition"])  # of whom the title speaks
    gain = gains.get((writer, condition), first["advantage"]["mean"])
    title = f"On {split}, {condition} ({writer} writer): {gain:+.2f}"
    blind = [gain for key, gain in gains.items() if key[0] == writer and key[1] in BLIND]
    if blind:
        title += f"; written blind: at most {max(blind):+.2f}"
    counts = f"seeds: {max(r['seeds'] for r in part)}, {first['clusters']} clusters, {first['questions']} questions"
    note = f"{name}; {counts}; in brackets accuracy with and without; bars: 95 %"
    figure, (axis,) = frame(plt, title, note, height=1.0 + 0.3 * len(rows))
    dots(axis, rows)
    axis.set_xlabel("accuracy with the text - without")
    return figure


def heat_map(plt, name: str, pairs: dict[tuple[str, str], list[float]], clusters: dict[str, str]):
    """Mean gain of points from one question on another: questions by type of cluster or, where there are many, the
    clusters.

    pairs: gains by (written on, read on); clusters: those of the questions.
    """

    def by_type(question: str) -> tuple[str, str, str]:
        cluster = clusters[question]
        return cluster.rpartition("-")[2], cluster, question  # type: what follows the last dash

    names = sorted(clusters, key=by_type)
    own, near, far = [], [], []
    elsewhere: dict[tuple[str, str], list[float]] = {}  # by clusters
    for (a, b), values in pairs.items():
        if a == b:
            own += values
            continue
        elsewhere.setdefault((clusters[a], clusters[b]), []).extend(values)
        if clusters[a] == clusters[b]:
            near += values
        else:
            far += values
    if not far:
        return None
    cells_of = pairs
    if len(names) > 40:
        names, cells_of = list(dict.fromkeys(clusters[q] for q in names)), elsewhere
    grid = np.array([[mean_of_measured(cells_of.get((a, b), [])) for b in names] for a in names])  # (written, read)
    on_near, on_far = mean_of_measured(near), mean_of_measured(far)
    title = f"Points gain {on_near:+.2f} on other questions of their cluster, {on_far:+.2f} on other clusters"
    note = f"{name}; {len(clusters)} questions"
    if own:
        note += f"; on the own question (diagonal) {mean_of_measured(own):+.2f}"
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
    is_needed = needs(list(best.values()) or records)
    judged = [r for r in records if r["question_id"] in is_needed]  # those between needed and not are left out
    if not judged:
        return None
    needed = [r["fired"] for r in judged if is_needed[r["question_id"]]]
    other = [r["fired"] for r in judged if not is_needed[r["question_id"]]]
    shares = [f"{mean_of_measured(part):.0%}".replace("nan%", "-") for part in (needed, other)]
    title = f"Recall fires on {shares[0]} where a point is needed, on {shares[1]} where not"
    note = f"{name}; {len(needed)} answers' questions need a point, {len(other)} do not (beside the dots: n)"
    figure, (axis,) = frame(plt, title, note)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, linestyle="--", label="perfectly calibrated")
    bins = np.minimum((np.array([r["score"] for r in judged]) * 5).astype(int), 4)  # five of equal width
    for k in sorted(set(bins.tolist())):
        part = [r for r, b in zip(judged, bins, strict=True) if b == k]
        score = mean_of_measured(r["score"] for r in part)
        share = mean_of_measured(is_needed[r["question_id"]] for r in part)
        axis.plot(score, share, "o", color=BLUE)
        axis.annotate(f" {len(part)}", (score, share), fontsize=7)
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
    ends = [(s.records["eval"][0], s.records["eval"][-1]) for s in stages]  # (first, last) evaluation of each seed
    rows = []
    for group in ("target", "agreement", "neighbour", "canary"):
        part = [(first, last) for first, last in ends if group in first]
        if part:
            aims = [first.get(f"{group}_with_point") for first, _ in part]
            before = mean_of_measured(first[group] for first, _ in part)
            after = mean_of_measured(last[group] for _, last in part)
            rows.append((f"MEAN OF {group}", before, after, None if aims[0] is None else mean_of_measured(aims)))
    questions = []
    for first, last in ends:
        after, aim = last["each"]["target"], first["each"]["target_with_point"]
        questions += [(q, before, after[q], aim[q]) for q, before in first["each"]["target"].items()]
    questions.sort(key=lambda row: row[1] - row[2])  # the largest rise comes first
    _, before, after, aim = rows[0]
    title = f"After dreaming, accuracy without the point {movement(before, after)}"
    if abs(aim - before) > 0.02:
        title += f", {(after - before) / (aim - before):.0%} of the gap to the point in context"
    note = f"{sample_size(name, stages)}; {len(questions)} questions"
    if len(questions) > 30:
        note += ", the 30 of the largest rise"
    rows += questions[:30]
    figure, (axis,) = frame(plt, title, note, height=1.1 + 0.17 * len(rows))
    dumbbells(axis, rows)
    axis.set_xlabel("accuracy (agreement: with the start model that has the point)")
    return figure


def rivals(plt, groups: dict[str, list[tuple[dict, dict]]]):
    """Methods on the same questions without a point in context.

    groups: by method and split, (before, after) of each seed by question.
    """
    rows, best, most = [], "", -1.0
    for name, seeds in groups.items():
        shared = sorted(set.intersection(*({*before} & {*after} for before, after in seeds)))
        changes = [mean_of_measured(after[q] - before[q] for before, after in seeds) for q in shared]
        if not changes:
            continue
        start = mean_of_measured(before[q] for before, _ in seeds for q in shared)
        end = mean_of_measured(after[q] for _, after in seeds for q in shared)
        dot = Dot(*bar_of(changes), BLUE, None)
        rows.append(Row(f"{name} ({start:.2f} to {end:.2f}; {len(seeds)} x {len(shared)})", [dot]))
        if dot.mean > most:
            best, most = name, dot.mean
    title = f"Accuracy without a point changes most with {best}: {most:+.2f}"
    note = "in brackets: accuracy before and after, seeds x questions; bars: 95 % intervals over questions"
    figure, (axis,) = frame(plt, title, note, height=0.9 + 0.36 * len(rows))
    dots(axis, rows)
    axis.set_xlabel("change of accuracy by training")
    return figure
