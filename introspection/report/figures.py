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
STYLE = {
    "svg.hashsalt": "fixed",  # the same ids, and so the same bytes, every time
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,  # a $ in a name is a $
    "figure.dpi": 72,
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
}
KINDS = {"same": "own question", "transfer": "other questions of the cluster"}


def pyplot():
    """matplotlib.pyplot, set up to write the same bytes every time; None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("svg")
    matplotlib.rcParams.update(STYLE)
    from matplotlib import pyplot as plt

    return plt


def frame(plt, title: str, note: str, shape=(1, 1), height: float = 3.0, xlabel: str = "", ylabel: str = "", **options):
    """(figure, axes) with the finding above, n and seeds below, and each axis named."""
    lines = textwrap.wrap(title, 56)
    figure, axes = plt.subplots(
        *shape,
        figsize=(WIDTH, height + 0.15 * len(lines)),
        layout="constrained",
        squeeze=False,
        subplot_kw={"xlabel": xlabel, "ylabel": ylabel},
        **options,
    )
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    figure.supxlabel("\n".join(textwrap.wrap(note, 84)), x=0.01, ha="left", fontsize=7, color=GREY)
    return figure, axes.ravel()


def legend(axis, columns: int = 2) -> None:
    """Above the axes, where it covers no data; long names stand below each other."""
    handles, names = axis.get_legend_handles_labels()
    axis.legend(
        handles,
        ["\n".join(textwrap.wrap(name, 60)) for name in names],
        loc="lower center",
        bbox_to_anchor=(0.45, 1.0),
        ncols=columns if max(map(len, names)) < 32 else 1,
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

    def is_usual(key: str, value) -> bool:
        """What all have, or most, needs no words."""
        alike = sum(s.get(key) == value for s in settings)
        return alike == len(settings) or (alike > 1 and alike > len(settings) / 2)

    names = []
    for own in settings:
        told = ", ".join(f"{key} {value}" for key, value in own.items() if not is_usual(key, value))
        names.append(textwrap.shorten(told, 70, placeholder=" ..."))
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


def mean_of_measured(values) -> float:
    """The mean of what was measured, nan of nothing (numpy would warn)."""
    values = np.array([*values], dtype=float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def start_and_end(values: np.ndarray) -> tuple[float, float]:
    """Means over the first and the last tenth of the steps of (seeds, steps)."""
    k = max(1, values.shape[1] // 10)
    return mean_of_measured(values[:, :k]), mean_of_measured(values[:, -k:])


def movement(before: float, after: float) -> str:
    """A change in words; one of less than 0.02 is none."""
    if np.isnan(before) or np.isnan(after):
        return "was not measured"
    if abs(after - before) < 0.02:
        return f"stayed at {after:.2f}"
    return f"{'rose' if after > before else 'fell'} from {before:.2f} to {after:.2f}"


def sample_size(name: str, stages: list, unit: str = "seed") -> str:
    """What a note begins with: whose figure it is, seeds (or runs), learning points."""
    points = sum(len(s.records["rollouts"]) for s in stages)
    told = [name] if name else []
    told.append(f"{len(stages)} {unit}s" if len(stages) > 1 else f"{len(stages)} {unit}")
    return "; ".join(told) + (f", {points:,} learning points" if points else "")


def unit_means(records: list[dict], key: str) -> list[float]:
    """Means of a value by cluster, or by question where there is a single cluster; leaks do not count."""
    counted = [r for r in records if r["text"] is not None and not r["leak"] and r[key] is not None]
    unit = "cluster" if len({r["cluster"] for r in counted}) > 1 else "question_id"
    groups: dict[str, list[float]] = {}
    for record in counted:
        groups.setdefault(record[unit], []).append(record[key])
    return [sum(part) / len(part) for part in groups.values()]


def bar_of(values: list[float]) -> tuple[float, float, float]:
    """(mean, low, high) of one value a unit, 95 %; a single unit has no interval."""
    return bootstrap_mean(values) if len(values) > 1 else (mean_of_measured(values), float("nan"), float("nan"))


def window(stages: list, first: float, last: float) -> list[dict]:
    """The rollouts of a part of the steps, 0 to 1."""
    kept = []
    for stage in stages:
        steps = len(stage.records["metrics"])
        low, high = min(first * steps, steps - 1), max(last * steps, 1)  # a part holds at least one step
        kept += [r for r in stage.records["rollouts"] if low < r["step"] <= high]
    return kept


def own_gain(record: dict) -> float | None:
    """The introspection advantage of one rollout over all kinds of questions it was measured on; None without any."""
    known = [record[f"advantage_{kind}"] for kind in KINDS if record[f"advantage_{kind}"] is not None]
    return sum(known) / len(known) if known else None
