"""The figures of a report that show a training step by step: reward, accuracy, introspection advantage, winners and
losers, health.
"""

from itertools import cycle

import numpy as np

from introspection.report.figures import (
    BLUE,
    COLORS,
    GREEN,
    GREY,
    KINDS,
    ORANGE,
    bar_of,
    frame,
    legend,
    mean_of_measured,
    movement,
    own_gain,
    sample_size,
    series,
    start_and_end,
    unit_means,
    window,
)

HEALTH = {
    "entropy": "entropy (nats)",
    "kl": "KL to the start policy (nats)",
    "grad_norm": "gradient norm before clipping",
    "update_ratio": "applied / intended update",
    "leak_rate": "points that leak (share)",
    "completions/clipped_ratio": "turns cut off at the limit (share)",
}
SHARES = ("leak_rate", "completions/clipped_ratio", "update_ratio")  # of HEALTH, from 0 to 1


def curve(axis, values: np.ndarray, color: str, label: str | None, style: str = "-") -> None:
    """Values (seeds, steps): a thin line for each seed, a thick one for their mean over five steps."""
    steps = np.arange(1, values.shape[1] + 1)
    for row in values:
        axis.plot(steps, row, color=color, linewidth=0.6, alpha=0.35)
    smooth = [mean_of_measured(values[:, max(0, i - 4) : i + 1]) for i in range(values.shape[1])]
    axis.plot(steps, smooth, style, color=color, linewidth=1.8, label=label)
    axis.xaxis.get_major_locator().set_params(integer=True)


def note_of_arms(groups: dict[str, list]) -> str:
    """The note below all arms: runs that differ in more than their seed are not called seeds."""
    unit = "seed" if len(groups) == 1 else "run"
    everything = [s for stages in groups.values() for s in stages]
    return f"{sample_size('', everything, unit)}; thin: a {unit}, thick: mean of five steps"


def reward(plt, groups: dict[str, list]):
    """What training rewards, over the steps."""
    values = {name: series(stages, "reward") for name, stages in groups.items()}
    single = "" in groups  # a single arm has no name
    if single:
        title = f"The reward of points {movement(*start_and_end(values['']))}"
    else:
        last = {name: start_and_end(v)[1] for name, v in values.items()}
        best = max(last, key=lambda name: last[name])
        title = f"The reward ends highest ({last[best]:.2f}) with {best}"
    figure, (axis,) = frame(plt, title, note_of_arms(groups))
    for color, (name, v) in zip(cycle(COLORS), values.items(), strict=False):
        curve(axis, v, color, name)
    axis.set(xlabel="step", ylabel="mean score of learning points")
    if not single:
        legend(axis)
    return figure


def accuracy(plt, groups: dict[str, list]):
    """Accuracy with points and, on the same questions, without; a single arm also shows its first attempts."""
    single = "" in groups  # a single arm has no name
    with_point = {name: series(stages, "accuracy/verify") for name, stages in groups.items()}
    without = {name: series(stages, "accuracy/fresh") for name, stages in groups.items()}
    note = note_of_arms(groups)
    if single:
        title = f"Accuracy without a point {movement(*start_and_end(without['']))}"
        title += f", with one {movement(*start_and_end(with_point['']))}"
    else:
        most = max(groups, key=lambda name: abs(np.subtract(*start_and_end(without[name]))))
        title = f"Without a point, accuracy moves most with {most}: it {movement(*start_and_end(without[most]))}"
        note += "; solid: with points, dashed: without"
    figure, (axis,) = frame(plt, title, note)
    for color, name in zip(cycle(COLORS), groups, strict=False):
        if single:
            curve(axis, with_point[name], color, "with a learning point")
            curve(axis, without[name], ORANGE, "the same questions without one")
            curve(axis, series(groups[name], "accuracy/attempt"), GREY, "first attempts (rollout 1)")
        else:
            curve(axis, with_point[name], color, name)
            curve(axis, without[name], color, None, "--")
    label = "canary, without a point"
    for stages in groups.values():
        evaluations = [e for s in stages for e in s.records["eval"] if e.get("accuracy/canary") is not None]
        if evaluations:
            steps = [e["step"] for e in evaluations]
            axis.plot(steps, [e["accuracy/canary"] for e in evaluations], "D", color=GREEN, markersize=4, label=label)
        label = None  # the first arm's marks stand for all in the legend
    axis.set(xlabel="step", ylabel="accuracy")
    legend(axis)
    return figure


def advantage_by_step(plt, name: str, stages: list):
    """Same and transfer over the training, ten windows with intervals."""
    values_of = {}
    for kind in KINDS:
        values = series(stages, f"introspection_advantage/{kind}")
        if not np.isnan(values).all():
            values_of[kind] = values
    if not values_of:
        return None
    told = " and ".join(f"on {KINDS[kind]} {movement(*start_and_end(v))}" for kind, v in values_of.items())
    note = f"{sample_size(name, stages)}; dots: tenths of the training with 95 % intervals over clusters"
    figure, (axis,) = frame(plt, f"Introspection advantage {told}", note)
    steps = max(values.shape[1] for values in values_of.values())
    for color, (kind, values) in zip(COLORS, values_of.items(), strict=False):
        curve(axis, values, color, KINDS[kind])
        for k in range(10):
            part = unit_means(window(stages, k / 10, (k + 1) / 10), f"advantage_{kind}")
            if part:
                mean, low, high = bar_of(part)
                axis.errorbar(
                    (k + 0.5) / 10 * steps + 0.5,
                    mean,
                    yerr=[[mean - low], [high - mean]],
                    fmt="o",
                    color=color,
                    markersize=3,
                    capsize=2,
                    linewidth=1,
                )
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.set(xlabel="step", ylabel="accuracy with the point - without")
    legend(axis)
    return figure


def side_gap(records: list[dict]) -> list[float]:
    """Mean gain of losers' points minus that of winners', in each cluster that has sound points of both."""
    gains: dict[str, dict[str, list[float]]] = {}
    for record in records:
        sides = gains.setdefault(record["cluster"], {"loser": [], "winner": []})
        gain = own_gain(record)
        if record["text"] is not None and not record["leak"] and gain is not None:
            sides["winner" if record["source"] == "winner" else "loser"].append(gain)
    both = [sides for sides in gains.values() if sides["loser"] and sides["winner"]]
    return [mean_of_measured(sides["loser"]) - mean_of_measured(sides["winner"]) for sides in both]


def winners_and_losers(plt, name: str, stages: list):
    """Whose points help; the difference at the end is paired within clusters."""
    values_of = {side: series(stages, f"introspection_advantage/{side}") for side in ("losers", "winners")}
    if any(np.isnan(values).all() for values in values_of.values()):
        return None
    paired = side_gap(window(stages, 0.9, 1))
    mean, low, high = bar_of(paired)
    title = "At the end winners' and losers' points help alike, as far as can be seen"
    if low > 0:
        title = "Losers' points help more than winners' at the end"
    elif high < 0:
        title = "Winners' points help more than losers' at the end"
    told = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]".replace("+nan", "-")
    compared = f"losers - winners, paired within {len(paired)} clusters, last tenth of steps: {told} (95 %)"
    figure, (axis,) = frame(plt, title, f"{sample_size(name, stages)}; {compared}")
    for color, (side, values) in zip(COLORS, values_of.items(), strict=False):
        curve(axis, values, color, f"points of {side}")
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.set(xlabel="step", ylabel="introspection advantage")
    legend(axis)
    return figure


def warnings_of(values: dict[str, np.ndarray], skipped: int) -> list[str]:
    """What looks wrong in a training; values: (seeds, steps) of each metric of HEALTH."""
    last = {key: start_and_end(v)[1] for key, v in values.items()}
    ratio, entropy_at_start = values["update_ratio"], start_and_end(values["entropy"])[0]
    signs = [
        ("precision swallows part of the updates", not np.isnan(ratio).all() and np.nanmin(ratio) < 0.9),
        ("points leak answers", last["leak_rate"] > 0.1),
        ("many turns are cut off", last["completions/clipped_ratio"] > 0.1),
        (f"{skipped} steps were skipped", skipped > 0),
        ("entropy collapsed", last["entropy"] < 0.2 * entropy_at_start),
    ]
    return [sign for sign, seen in signs if seen]


def health(plt, name: str, stages: list):
    """Six signs of trouble; the title names those that were seen."""
    values_of = {key: series(stages, key) for key in HEALTH}
    warnings = warnings_of(values_of, max(s.records["metrics"][-1]["skipped_steps"] for s in stages))
    title = f"Look at this: {', '.join(warnings)}" if warnings else "Health: no warning sign"
    limits = "update ratio < 0.9, leaks or cut-off turns > 0.1, skipped steps, entropy < a fifth of the start's"
    figure, axes = frame(plt, title, f"{sample_size(name, stages)}; warned of: {limits}", (3, 2), 4.6)
    for axis, (key, label) in zip(axes, HEALTH.items(), strict=True):
        values = values_of[key]
        curve(axis, values, BLUE, key)
        axis.set_title(label, loc="left")
        if np.isnan(values).all():
            axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color=GREY)
            axis.set(xticks=[], yticks=[])
        elif key in SHARES:
            axis.set_ylim(-0.03, max(1.03, np.nanmax(values)))
    for axis in axes[-2:]:
        axis.set_xlabel("step")
    return figure
