"""The figures of a report that compare: points before and after training and against controls, transfer, recall,
dreams, rivals.
"""

import textwrap

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
    sample_size,
    series,
    start_and_end,
    unit_means,
    window,
)
from introspection.tables.points import BLIND
from introspection.tables.recall import needs
from introspection.verdicts import Verdict, by_cluster, gap_words, judge, words_of


# ---- dots and dumbbells --------------------------------------------------------------------------------------------
def dots(plt, title: str, note: str, xlabel: str, rows: list[tuple], height: float):
    """A figure of rows (label, what stands behind it, dots) from top to bottom, the dots of a row below each other.

    A dot is (mean, low, high, color, side); the legend names each side once (None: it does not).
    """
    figure, (axis,) = frame(plt, title, note, height=height, xlabel=xlabel)
    named = {None}
    for y, (_, _, shown) in enumerate(rows[::-1]):
        for k, (mean, low, high, color, side) in enumerate(shown):
            axis.errorbar(
                mean,
                y + 0.14 * (len(shown) - 1) - 0.28 * k,
                xerr=[[mean - low], [high - mean]],
                fmt="o",
                color=color,
                markersize=4,
                capsize=2,
                linewidth=1.2,
                label=None if side in named else side,
            )
            named.add(side)
    axis.axvline(0, color=GREY, linewidth=0.6)
    labels = ["\n".join(textwrap.wrap(label + detail, 38)) for label, detail, _ in rows[::-1]]
    axis.set_yticks(range(len(rows)), labels, fontsize=7)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.locator_params(axis="x", nbins=6)  # more numbers would run into each other where changes are small
    if named != {None}:
        legend(axis, 3)
    return figure


def dumbbells(axis, rows: list[tuple]) -> None:
    """Rows (label, before, after, aim or None) from top to bottom."""
    for y, (_, before, after, aim) in enumerate(rows[::-1]):
        axis.plot([before, after], [y, y], color=GREY, linewidth=1)
        axis.plot(before, y, "o", color=GREY, markersize=4, label="before" if y == 0 else None)
        axis.plot(after, y, "o", color=BLUE, markersize=4, label="after" if y == 0 else None)
        if aim is not None:
            name = "start model, point in context" if y == len(rows) - 1 else None  # the top row always has an aim
            axis.plot(aim, y, "|", color=ORANGE, markersize=11, markeredgewidth=2, label=name)
    axis.set_yticks(range(len(rows)), [label for label, *_ in rows[::-1]], fontsize=7)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(rows) - 0.4))
    legend(axis, 3)


# ---- what points are worth -----------------------------------------------------------------------------------------
def both_accuracies(sides) -> str:
    """What every advantage is shown with: accuracy with a point, and without one."""
    told = ", then ".join(f"{with_point:.2f} / {without:.2f}" for with_point, without in sides)
    return f" (with / without: {told})"


def trained_rows(stages: list) -> list[tuple]:
    """What a training's own logs say: on rewarded questions, and on those of its evaluations."""
    rows = []
    for kind, words in KINDS.items():
        start, end = (unit_means(window(stages, *part), f"advantage_{kind}") for part in ((0, 0.1), (0.9, 1)))
        if start and end:
            with_point, without = (start_and_end(series(stages, f"accuracy/{side}")) for side in ("verify", "fresh"))
            shown = [(*bar_of(start), GREY, "start"), (*bar_of(end), BLUE, "end")]
            rows.append((f"training: {words}", both_accuracies(zip(with_point, without, strict=True)), shown))
    evaluated = [s.records["eval"] for s in stages if len(s.records["eval"]) > 1]
    if evaluated:
        shown, accuracies = [], []
        for place, color, name in ((0, GREY, "start"), (-1, BLUE, "end")):
            seeds = [evaluations[place]["per_question"] for evaluations in evaluated]
            pairs = {q: [seed[q] for seed in seeds if q in seed] for q in seeds[0]}  # (with, without) of each seed
            gains = [mean_of_measured(w - wo for w, wo in part) for part in pairs.values()]
            shown.append((*bar_of(gains), color, name))
            accuracies.append([mean_of_measured(p[k] for part in pairs.values() for p in part) for k in (0, 1)])
        rows.append((f"{evaluated[0][0]['split']}: questions never rewarded", both_accuracies(accuracies), shown))
    return rows


def bar_of_row(row: dict) -> tuple[float, float, float]:
    """(mean, low, high) of the advantage in a row of eval.py's table."""
    return row["advantage"]["mean"], row["advantage"]["low"], row["advantage"]["high"]


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
            (found[writer], color, name)
            for writer, color, name in (("start", GREY, "start"), ("trained", BLUE, "end"))
            if writer in found
        ]
        if sides:
            shown = [(*bar_of_row(r), color, name) for r, color, name in sides]
            rows.append((words, both_accuracies((r["with"], r["without"]) for r, *_ in sides), shown))
    return rows


def said_of_advantage(stages: list, tables: list[list[dict]]) -> str:
    """The verdict on the change in the hardest test that was made of trained writers; empty without one."""
    for split in ("test_clusters", "test"):
        place = (split, "trained", "points", "start")
        rows = [r for table in tables for r in table]
        found = [r for r in rows if (r["split"], r["writer"], r["condition"], r["reader"]) == place]
        changed = [r for r in found if "change" in r]
        if changed:
            return words_of(changed[-1]["change"]["low"], changed[-1]["change"]["high"], changed[-1]["questions"])
        if found:
            return ""
    ends = [(s.records["eval"][0], s.records["eval"][-1]) for s in stages if len(s.records["eval"]) > 1]
    changes = []
    for first, last in ends:
        gains = [{q: w - wo for q, (w, wo) in e["per_question"].items()} for e in (first, last)]
        changes.append(by_cluster({q: gains[1][q] - gain for q, gain in gains[0].items()}, last.get("clusters", {})))
    if not changes or any(changes[0].keys() != each.keys() for each in changes):
        return ""
    verdict = judge(changes, ends[0][1].get("rewarded", True))
    return f"{verdict.words} {verdict.where}"


def advantage(plt, name: str, stages: list, tables: list[list[dict]]):
    """Introspection advantage before and after: same, transfer, held out, memory, skill."""
    rows = trained_rows(stages) + [row for table in tables for row in measured_rows(table)]
    if not rows:
        return None
    where, _, shown = rows[-1]  # the hardest test that was made
    said = said_of_advantage(stages, tables)
    title = f"Introspection advantage, {where}: {shown[0][0]:+.2f} to {shown[-1][0]:+.2f}" + (said and f" ({said})")
    note = (
        f"{sample_size(name, stages)}; bars: 95 % intervals over clusters "
        "(tests: seeds > clusters > questions; evaluations of the training: questions)"
    )
    return dots(plt, title, note, "accuracy with the point - without", rows, 0.9 + 0.6 * len(rows))


EXPLAINED = {  # by the beginning of a condition's label: what it controls for
    "blind: nothing": "the same writer, told neither what is right nor whether it was",
    "blind: swapped": "told that a wrong answer is right",
    "blind: other": "points of another cluster's exchange",
    "points - blind": "what was read from the exchange",
    "best of": "the start model's best point of several, chosen on other questions",
    "library": "points of a file",
    "recall: emptied": "nothing stands where a point was recalled",
    "recall: random": "a point of another cluster stands there",
    "recall: wrong": "a false rule stands there",
    "BM25": "retrieved by the question's words, nothing is taught",
    "parent": "the point of one of a composite's two clusters",
    "interaction": "beyond the sum of both parents",
    "union of recalls": "what the question recalled as a whole and with each sentence left out, one point a cluster",
}


def explained(labels: list[str]) -> str:
    """What the controls among the conditions are, for a note."""
    words = [f"{label}: {told}" for label, told in EXPLAINED.items() if any(x.startswith(label) for x in labels)]
    return "".join(f"; {told}" for told in words)


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
        shown = [(*bar_of_row(r), BLUE if r["writer"] == "trained" else GREY, f"{r['writer']} writer")]
        rows.append((f"{r['writer']}: {r['condition']}{reader}", accuracies, shown))
    gains = {(r["writer"], r["condition"]): r["advantage"]["mean"] for r in part if r["reader"] == "start"}
    first = part[0]
    told = [key for key in (("trained", "points"), ("trained", "recalled by threshold"), *gains) if key in gains]
    writer, condition = told[0] if told else (first["writer"], first["condition"])  # of whom the title speaks
    gain = gains.get((writer, condition), first["advantage"]["mean"])
    blind = [gain for key, gain in gains.items() if key[0] == writer and key[1] in BLIND]
    at_most = f"; written blind: at most {max(blind):+.2f}" if blind else ""
    title = f"On {split}, {condition} ({writer} writer): {gain:+.2f}{at_most}"
    note = (
        f"{name}; seeds: {max(r['seeds'] for r in part)}, {first['clusters']} clusters, "
        f"{first['questions']} questions; in brackets accuracy with and without; bars: 95 %"
        + explained([r["condition"] for r in part])
    )
    return dots(plt, title, note, "accuracy with the text - without", rows, 1.0 + 0.3 * len(rows))


def exam_strategies(plt, name: str, units: list[dict]):
    """The share of points that state an exam strategy, by how often the attempt before them had been corrected."""
    counts: dict[str, dict[int, list[int]]] = {}
    for u in (u for u in units if (u["condition"], u["reader"]) == ("points", "start")):
        of_writer = counts.setdefault("start" if u["writer"] == "start" else "trained", {})
        for record in u["questions"]:
            for turns, (points, strategies) in record["exam_strategy"].items():
                known = of_writer.setdefault(int(turns), [0, 0])
                of_writer[int(turns)] = [known[0] + points, known[1] + strategies]
    most = max(turns for of_writer in counts.values() for turns in of_writer)
    last = ", ".join(f"{w} writer {of[most][1] / of[most][0]:.2f}" for w, of in counts.items() if most in of)
    title = f"Exam strategies after {most} corrections: {last}"
    figure, (axis,) = frame(
        plt, title, f"{name}; beside the dots: points", xlabel="corrections before the point", ylabel="share of points"
    )
    for color, (writer, of_writer) in zip((GREY, BLUE), counts.items(), strict=False):
        turns = sorted(of_writer)
        shares = [of_writer[t][1] / of_writer[t][0] for t in turns]
        axis.plot(turns, shares, "o-", color=color, markersize=4, label=f"{writer} writer")
        for t, share in zip(turns, shares, strict=True):
            axis.annotate(f" {of_writer[t][0]}", (t, share), fontsize=7)
    axis.set(xticks=range(most + 1), ylim=(-0.03, 1.08))
    legend(axis)
    return figure


def heat_map(plt, name: str, pairs: dict[tuple[str, str], list[float]], clusters: dict[str, str]):
    """Mean gain of points from one question on another: questions by type of cluster or, where there are many, the
    clusters.

    pairs: gains by (question written on, read on); clusters: those of the questions.
    """
    # The type of a cluster is what follows its last dash.
    names = sorted(clusters, key=lambda q: (clusters[q].rpartition("-")[2], clusters[q], q))
    own = [v for (a, b), values in pairs.items() if a == b for v in values]
    elsewhere = {(a, b): values for (a, b), values in pairs.items() if a != b}
    near = [v for (a, b), values in elsewhere.items() if clusters[a] == clusters[b] for v in values]
    far = [v for (a, b), values in elsewhere.items() if clusters[a] != clusters[b] for v in values]
    if not far:
        return None
    if len(names) > 40:
        names, pairs = list(dict.fromkeys(clusters[q] for q in names)), {}
        for (a, b), values in elsewhere.items():
            pairs.setdefault((clusters[a], clusters[b]), []).extend(values)
    grid = np.array([[mean_of_measured(pairs.get((a, b), [])) for b in names] for a in names])  # (written on, read on)
    title = (
        f"Points gain {mean_of_measured(near):+.2f} on other questions of their cluster, "
        f"{mean_of_measured(far):+.2f} on other clusters"
    )
    diagonal = f"; on the own question (diagonal) {mean_of_measured(own):+.2f}" if own else ""
    note = f"{name}; {len(clusters)} questions{diagonal}"
    figure, (axis,) = frame(plt, title, note, height=4.2, xlabel="read on", ylabel="point written on")
    top = max(0.1, float(np.nanmax(np.abs(grid))))
    colors = plt.get_cmap("RdBu", 11)  # few enough to stay vectors: the page's policy loads no image, not even its own
    cells = axis.pcolormesh(grid, cmap=colors, vmin=-top, vmax=top, edgecolor="face", linewidth=0.2)
    axis.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90, fontsize=5)
    axis.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=5)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    figure.colorbar(cells, ax=axis, shrink=0.7, label="accuracy with - without")
    return figure


# ---- recall, dreams, rivals ----------------------------------------------------------------------------------------
def recall_calibration(plt, name: str, units: list[dict]):
    """Whether recall's probability says where a point is needed, and how often recall fires there and elsewhere."""
    best = {r["question_id"]: r for u in units if u["condition"] == "best point" for r in u["questions"]}
    records = [r for u in units if (u["condition"], u["reader"]) == ("recalled", "start") for r in u["questions"]]
    is_needed = needs(list(best.values()) or records)
    judged = [r for r in records if r["question_id"] in is_needed]  # questions in the middle are neither
    if not judged:
        return None
    needed, other = ([r["fired"] for r in judged if is_needed[r["question_id"]] == kind] for kind in (True, False))
    shares = [f"{mean_of_measured(fired):.0%}".replace("nan%", "-") for fired in (needed, other)]
    title = f"Recall fires on {shares[0]} where a point is needed, on {shares[1]} where not"
    note = f"{name}; {len(needed)} answers' questions need a point, {len(other)} do not (beside the dots: n)"
    figure, (axis,) = frame(plt, title, note, ylabel="share of questions that need one")
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, linestyle="--", label="perfectly calibrated")
    bins = np.minimum((np.array([r["score"] for r in judged]) * 5).astype(int), 4)  # five of equal width
    for k in sorted(set(bins.tolist())):
        part = [r for r, b in zip(judged, bins, strict=True) if b == k]
        score = mean_of_measured(r["score"] for r in part)
        share = mean_of_measured(is_needed[r["question_id"]] for r in part)
        axis.plot(score, share, "o", color=BLUE)
        axis.annotate(f" {len(part)}", (score, share), fontsize=7)
    axis.set(xlabel="probability that the turn begins with a recalled point", xlim=(-0.03, 1.03), ylim=(-0.03, 1.08))
    legend(axis)
    return figure


def dream_verdict(ends: list[tuple[dict, dict]]) -> Verdict:
    """Of the change on other questions of the dreamt clusters; ends: (first, last) evaluation of each seed."""
    seeds = []
    for first, last in ends:
        changes = {q: last["each"]["target"][q] - before for q, before in first["each"]["target"].items()}
        seeds.append(by_cluster(changes, first.get("clusters", {}).get("target", {})))
    shared = set.intersection(*(set(seed) for seed in seeds))
    alike = [{c: seed[c] for c in sorted(shared)} for seed in seeds]
    if any(len(seed[c]) != len(alike[0][c]) for seed in alike for c in seed) or not shared:
        alike = alike[:1]  # seeds that dreamt other questions cannot be averaged question by question
    return judge(alike, rewarded=True)


def dreams(plt, name: str, stages: list):
    """Each question that was not dreamt, before and after; the mark is the start model with the point in context."""
    ends = [(s.records["eval"][0], s.records["eval"][-1]) for s in stages]  # of each seed
    rows = []
    for group in ("target", "agreement", "neighbour", "canary"):
        part = [(first, last) for first, last in ends if group in first]
        if part:
            aims = [first.get(f"{group}_with_point") for first, _ in part]
            rows.append((
                f"MEAN OF {group}",
                mean_of_measured(first[group] for first, _ in part),
                mean_of_measured(last[group] for _, last in part),
                None if aims[0] is None else mean_of_measured(aims),
            ))  # fmt: skip
    questions = []
    for first, last in ends:
        after, aim = last["each"]["target"], first["each"]["target_with_point"]
        questions += [(q, before, after[q], aim[q]) for q, before in first["each"]["target"].items()]
    questions.sort(key=lambda row: row[1] - row[2])  # the largest rise comes first
    _, before, after, aim = rows[0]
    verdict = dream_verdict(ends)
    said = f"{before:.2f} to {after:.2f} ({verdict.words} {verdict.where})"
    title = f"After dreaming, accuracy without the point: {said}, {gap_words(before, after, aim)}"
    kept = ", the 30 of the largest rise" if len(questions) > 30 else ""
    note = f"{sample_size(name, stages)}; {len(questions)} questions{kept}"
    rows += questions[:30]
    figure, (axis,) = frame(plt, title, note, height=1.1 + 0.17 * len(rows))
    axis.set_xlabel("accuracy (agreement: with the start model that has the point)")
    dumbbells(axis, rows)
    return figure


def rivals(plt, groups: dict[str, list[tuple[dict, dict]]]):
    """Methods on the same questions without a point in context.

    groups: by method and split, (before, after) of each seed by question.
    """
    rows, best, most, said = [], "", -1.0, ""
    for name, seeds in groups.items():
        shared = sorted(set.intersection(*({*before} & {*after} for before, after in seeds)))
        changes = [mean_of_measured(after[q] - before[q] for before, after in seeds) for q in shared]
        if not changes:
            continue
        start, end = (mean_of_measured(side[k][q] for side in seeds for q in shared) for k in (0, 1))
        change, low, high = bar_of(changes)
        detail = f" ({start:.2f} to {end:.2f}; {len(seeds)} x {len(shared)})"
        rows.append((name, detail, [(change, low, high, BLUE, None)]))
        if change > most:
            best, most, said = name, change, words_of(low, high, len(shared))
    title = f"Accuracy without a point, highest change: {best}, {most:+.2f} ({said})"
    note = "in brackets: accuracy before and after, seeds x questions; bars: 95 % intervals over questions"
    return dots(plt, title, note, "change of accuracy by training", rows, 0.9 + 0.36 * len(rows))
