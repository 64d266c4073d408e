"""How the figures of a report look, and the numbers that they take from runs; curves.py and comparisons.py draw them.

Each is drawn only where the runs hold what it shows. Titles say what was found, axes their units; n and seeds stand at
the bottom. Start and end of a training are its first and last tenth of steps. The unit of an interval is the cluster
averaged over seeds, or the question where there is a single cluster. Colours are legible on white and on black; INK
becomes the text colour of the page.
"""

import json
import textwrap

import numpy as np

from introspection.stats import bootstrap_mean

INK, GREY, BLUE, ORANGE, GREEN, PURPLE = "#1f2328", "#80868f", "#3b82d6", "#d97706", "#2f9e62", "#9263d8"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#d64570", "#0f9aa8")
WIDTH = 4.6  # inches: fits a phone at full size
KINDS = {"same": "own question", "transfer": "other questions of the cluster"}


def pyplot():
    """matplotlib.pyplot, set up to write the same bytes every time; None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("svg")
    matplotlib.rcParams.update({
        "svg.hashsalt": "fixed", "svg.fonttype": "none", "text.parse_math": False, "font.size": 8, "axes.labelsize": 8, "axes.spines.top": False,
        "axes.spines.right": False, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
        "text.color": INK, "axes.labelcolor": INK, "legend.frameon": False, "legend.fontsize": 7.5, "axes.titlesize": 8, "figure.dpi": 72,
    })  # fmt: skip
    from matplotlib import pyplot as plt

    return plt


def frame(plt, title: str, note: str, shape=(1, 1), height: float = 3.0, **options):
    """(figure, axes) with the finding above and n and seeds below."""
    lines = textwrap.wrap(title, 56)
    figure, axes = plt.subplots(
        *shape, figsize=(WIDTH, height + 0.15 * len(lines)), layout="constrained", squeeze=False, **options
    )
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    figure.supxlabel("\n".join(textwrap.wrap(note, 84)), x=0.01, ha="left", fontsize=7, color=GREY)
    return figure, axes.ravel()


def legend(axis, columns: int = 2) -> None:
    """Above the axes, where it covers no data; long names stand below each other."""
    handles, names = axis.get_legend_handles_labels()
    columns = columns if max(map(len, names)) < 32 else 1
    axis.legend(
        handles,
        ["\n".join(textwrap.wrap(name, 60)) for name in names],
        loc="lower center",
        bbox_to_anchor=(0.45, 1.0),
        ncols=columns,
        borderaxespad=0.2,
    )


# ---- numbers of a run ----------------------------------------------------------------------------------------------
def arms(stages: list) -> dict[str, list]:
    """Runs that differ in nothing but their seed, by the settings that tell them from the others."""
    groups: dict[str, list] = {}
    for stage in stages:
        kept = {key: value for key, value in stage.config.items() if key not in ("seed", "expect")}
        groups.setdefault(json.dumps(kept, sort_keys=True), []).append(stage)
    settings = [json.loads(key) for key in groups]
    names = []
    for own in settings:
        told = []
        for key, value in own.items():
            alike = sum(s.get(key) == value for s in settings)
            if alike < len(settings) and not (alike > 1 and alike > len(settings) / 2):  # what most have needs no words
                told.append(f"{key} {value}")
        names.append(textwrap.shorten(", ".join(told), 70, placeholder=" ..."))
    if len(names) > 1:
        names = [name or "as most" for name in names]
    return dict(zip(names, groups.values(), strict=True))


def series(stages: list, key: str) -> np.ndarray:
    """(seeds, steps) of a metric, nan where it was not measured."""
    longest = max(len(s.records["metrics"]) for s in stages)
    values = np.full((len(stages), longest), np.nan)
    for row, stage in zip(values, stages, strict=True):
        measured = [record.get(key) for record in stage.records["metrics"]]
        row[: len(measured)] = [np.nan if value is None else value for value in measured]
    return values


def mean(values) -> float:
    """The mean of what was measured, nan of nothing (numpy would warn)."""
    values = np.array([*values], dtype=float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def ends(values: np.ndarray) -> tuple[float, float]:
    k = max(1, values.shape[1] // 10)
    return mean(values[:, :k]), mean(values[:, -k:])


def moved(before: float, after: float) -> str:
    word = "stayed at" if abs(after - before) < 0.02 else "rose from" if after > before else "fell from"
    return f"{word} {after:.2f}" if word == "stayed at" else f"{word} {before:.2f} to {after:.2f}"


def size(name: str, stages: list, unit: str = "seed") -> str:
    """What a note begins with: whose figure it is, seeds (or runs), learning points."""
    n = sum(len(s.records["rollouts"]) for s in stages)
    return (
        f"{name}; " * bool(name)
        + f"{len(stages)} {unit}{'s' * (len(stages) > 1)}"
        + f", {n:,} learning points" * bool(n)
    )


def units(records: list[dict], value) -> list[float]:
    """Means of what was measured by cluster, or by question where there is a single cluster; leaks do not count."""
    counted = [(r, value(r)) for r in records if r["text"] is not None and not r["leak"] and value(r) is not None]
    key = "cluster" if len({r["cluster"] for r, _ in counted}) > 1 else "question_id"
    groups: dict[str, list[float]] = {}
    for record, gain in counted:
        groups.setdefault(record[key], []).append(gain)
    return [sum(part) / len(part) for part in groups.values()]


def interval(values: list[float]) -> tuple[float, float, float]:
    """(mean, low, high), 95 %; a single unit has no interval."""
    return bootstrap_mean(values) if len(values) > 1 else (mean(values), float("nan"), float("nan"))


def window(stages: list, first: float, last: float) -> list[dict]:
    """The rollouts of a part of the steps, 0 to 1."""
    kept = []
    for stage in stages:
        steps = len(stage.records["metrics"])
        low, high = min(first * steps, steps - 1), max(last * steps, 1)
        kept += [r for r in stage.records["rollouts"] if low < r["step"] <= high]
    return kept


def own_gain(record: dict) -> float | None:
    known = [record[f"advantage_{kind}"] for kind in KINDS if record[f"advantage_{kind}"] is not None]
    return sum(known) / len(known) if known else None
