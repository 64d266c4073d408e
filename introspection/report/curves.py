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
from introspection.verdicts import words_of

HEALTH = {
    "entropy": "entropy (nats)",
    "kl": "KL to the start policy (nats)",
    "grad_norm": "gradient norm before clipping",
    "update_ratio": "applied / intended update",
    "leak_rate": "points that leak (share)",
    "completions/clipped_ratio": "turns cut off at the limit (share)",
    "parse_rate/answer": "answers that can be read (share)",
    "parse_rate": "turns with one point (share)",
    "frac_reward_zero_std": "groups without a spread of rewards (share)",
    "meta_gaming_rate": "points that state an exam strategy (share)",
}


def curve(axis, values: np.ndarray, color: str, label: str | None, style: str = "-") -> None:
    """Values (seeds, steps): a thin line for each seed, a thick one for their mean over five steps.

    What was never measured has no line.
    """
    if np.isnan(values).all():
        return
    steps = np.arange(1, values.shape[1] + 1)
    for row in values:
        axis.plot(steps, row, color=color, linewidth=0.6, alpha=0.35)
    smooth = [mean_of_measured(values[:, max(0, i - 4) : i + 1]) for i in range(values.shape[1])]
    axis.plot(steps, smooth, style, color=color, linewidth=1.8, label=label)
    axis.xaxis.get_major_locator().set_params(integer=True)


def mark_minutes(axis, stages: list) -> None:
    """Below the steps the minutes that they took until then, where the runs logged them (mean over seeds)."""
    seconds = series(stages, "time/step")
    if np.isnan(seconds).any():
        return  # runs of different length, or logs without times
    minutes = seconds.mean(axis=0).cumsum() / 60

    def label(step: float, _) -> str:
        k = round(step)
        return f"{k}\n{minutes[k - 1]:.1f}" if 1 <= k <= len(minutes) else f"{k}"

    axis.xaxis.set_major_formatter(label)
    axis.set_xlabel("step; below: minutes until then")


def note_of_arms(groups: dict[str, list]) -> str:
    """The note below all arms: runs that differ in more than their seed are not called seeds."""
    unit = "seed" if len(groups) == 1 else "run"
    size = sample_size("", [s for stages in groups.values() for s in stages], unit)
    return f"{size}; thin: a {unit}, thick: mean of five steps"


def reward(plt, groups: dict[str, list]):
    """What training rewards, over the steps."""
    values = {name: series(stages, "reward") for name, stages in groups.items()}
    last = {name: start_and_end(v)[1] for name, v in values.items()}
    best = max(last, key=lambda name: last[name])
    title = f"The reward ends highest ({last[best]:.2f}) with {best}"
    if "" in groups:  # a single arm has no name
        title = f"The reward of points {movement(*start_and_end(values['']))}"
    figure, (axis,) = frame(plt, title, note_of_arms(groups), xlabel="step", ylabel="mean score of learning points")
    for color, (name, v) in zip(cycle(COLORS), values.items(), strict=False):
        curve(axis, v, color, name)
    if "" not in groups:
        legend(axis)
    mark_minutes(axis, [s for stages in groups.values() for s in stages])
    return figure


def accuracy(plt, groups: dict[str, list]):
    """Accuracy with points and, on the same questions, without; a single arm also shows its first attempts."""
    single = "" in groups  # a single arm has no name
    with_point = {name: series(stages, "accuracy/verify") for name, stages in groups.items()}
    without = {name: series(stages, "accuracy/fresh") for name, stages in groups.items()}
    most = max(groups, key=lambda name: abs(np.subtract(*start_and_end(without[name]))))
    alone, told = (movement(*start_and_end(values[most])) for values in (without, with_point))
    title, note = f"Accuracy without a point {alone}, with one {told}", note_of_arms(groups)
    if not single:
        title = f"Without a point, accuracy moves most with {most}: it {alone}"
        note += "; solid: with points, dashed: without"
    figure, (axis,) = frame(plt, title, note, xlabel="step", ylabel="accuracy")
    for color, name in zip(cycle(COLORS), groups, strict=False):
        curve(axis, with_point[name], color, name or "with a learning point")
        if single:
            curve(axis, without[name], ORANGE, "the same questions without one")
            curve(axis, series(groups[name], "accuracy/attempt"), GREY, "first attempts (rollout 1)")
        else:
            curve(axis, without[name], color, None, "--")
    for k, stages in enumerate(groups.values()):
        known = [e for s in stages for e in s.records["eval"] if e.get("accuracy/canary") is not None]
        if known:
            label = "canary, without a point" if k == 0 else None  # one entry of the legend for all arms
            accuracies = [e["accuracy/canary"] for e in known]
            axis.plot([e["step"] for e in known], accuracies, "D", color=GREEN, markersize=4, label=label)
    legend(axis)
    mark_minutes(axis, [s for stages in groups.values() for s in stages])
    return figure


def advantage_by_step(plt, name: str, stages: list):
    """Same and transfer over the training, ten windows with intervals."""
    logged = {kind: series(stages, f"introspection_advantage/{kind}") for kind in KINDS}
    values_of = {kind: values for kind, values in logged.items() if not np.isnan(values).all()}
    if not values_of:
        return None
    told = " and ".join(f"on {KINDS[kind]} {movement(*start_and_end(v))}" for kind, v in values_of.items())
    note = f"{sample_size(name, stages)}; dots: tenths of the training with 95 % intervals over clusters"
    ylabel = "accuracy with the point - without"
    figure, (axis,) = frame(plt, f"Introspection advantage {told}", note, xlabel="step", ylabel=ylabel)
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
    legend(axis)
    mark_minutes(axis, stages)
    return figure


def winners_and_losers(plt, name: str, stages: list):
    """Whose points help; the difference at the end is paired within clusters."""
    values_of = {side: series(stages, f"introspection_advantage/{side}") for side in ("losers", "winners")}
    if any(np.isnan(values).all() for values in values_of.values()):
        return None
    records = window(stages, 0.9, 1)
    losers, winners = ({r["cluster"]: [] for r in records} for _ in range(2))  # gains by cluster
    for record in records:
        if record["text"] is not None and not record["leak"] and own_gain(record) is not None:
            side = winners if record["source"] == "winner" else losers
            side[record["cluster"]].append(own_gain(record))
    both = [c for c in losers if losers[c] and winners[c]]
    asked = {r["question_id"] for r in records if r["cluster"] in both}
    mean, low, high = bar_of([mean_of_measured(losers[c]) - mean_of_measured(winners[c]) for c in both])
    title = {
        "up": "Losers' points help more than winners' at the end",
        "down": "Winners' points help more than losers' at the end",
        "too few to tell": "Too few questions to tell whose points help more",
    }.get(words_of(low, high, len(asked)), "At the end winners' and losers' points help alike, as far as can be seen")
    told = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]".replace("+nan", "-")
    note = (
        f"{sample_size(name, stages)}; "
        f"losers - winners, paired within {len(both)} clusters, last tenth of steps: {told} (95 %)"
    )
    figure, (axis,) = frame(plt, title, note, xlabel="step", ylabel="introspection advantage")
    for color, (side, values) in zip(COLORS, values_of.items(), strict=False):
        curve(axis, values, color, f"points of {side}")
    axis.axhline(0, color=GREY, linewidth=0.6)
    legend(axis)
    mark_minutes(axis, stages)
    return figure


def health(plt, name: str, stages: list):
    """Ten signs of trouble; the title names those that were seen."""
    values_of = {key: series(stages, key) for key in HEALTH}
    last = {key: start_and_end(values)[1] for key, values in values_of.items()}
    ratio, skipped = values_of["update_ratio"], max(s.records["metrics"][-1]["skipped_steps"] for s in stages)
    signs = {
        "precision swallows part of the updates": not np.isnan(ratio).all() and np.nanmin(ratio) < 0.9,
        "points leak answers": last["leak_rate"] > 0.1,
        "points state exam strategies": last["meta_gaming_rate"] > 0.1,
        "many turns are cut off": last["completions/clipped_ratio"] > 0.1,
        "answers do not parse": last["parse_rate/answer"] < 0.8,
        "points do not parse": last["parse_rate"] < 0.8,
        f"{skipped} steps were skipped": skipped > 0,
        "entropy collapsed": last["entropy"] < 0.2 * start_and_end(values_of["entropy"])[0],
    }
    warnings = ", ".join(sign for sign, is_seen in signs.items() if is_seen)
    title = f"Look at this: {warnings}" if warnings else "Health: no warning sign"
    note = (
        f"{sample_size(name, stages)}; warned of: update ratio < 0.9, leaks, exam strategies or cut-off turns > "
        "0.1, parsed < 0.8, skipped steps, entropy < a fifth of the start's"
    )
    figure, axes = frame(plt, title, note, (5, 2), 7.5)
    for axis, (key, label) in zip(axes, HEALTH.items(), strict=True):
        values = values_of[key]
        curve(axis, values, BLUE, key)
        axis.set_title(label, loc="left")
        if np.isnan(values).all():
            axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color=GREY)
            axis.set(xticks=[], yticks=[])
        elif label.endswith("(share)") or key == "update_ratio":  # from 0 to 1
            axis.set_ylim(-0.03, max(1.03, np.nanmax(values)))
    for axis in axes[-2:]:
        axis.set_xlabel("step")
    return figure


def recall_loss(plt, name: str, stages: list):
    """Stage 2: the loss of held-out targets by epoch, which decides when it stops."""
    values = series(stages, "held_out_loss")
    best = [int(np.nanargmin(row)) + 1 for row in values]
    title = f"Stage 2: held-out loss from {np.nanmean(values[:, 0]):.3f} to {np.nanmin(values, axis=1).mean():.3f}"
    note = f"{sample_size(name, stages)}; kept: the weights after epoch {', '.join(map(str, best))}"
    figure, (axis,) = frame(plt, title, note, xlabel="epoch", ylabel="loss of held-out targets, a token (nats)")
    for row, epoch in zip(values, best, strict=True):
        axis.plot(np.arange(1, len(row) + 1), row, color=BLUE, linewidth=1)
        axis.plot(epoch, row[epoch - 1], "o", color=ORANGE, markersize=4)
    axis.xaxis.get_major_locator().set_params(integer=True)
    return figure
