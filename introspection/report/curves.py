"""The figures of a report that show a training step by step: reward, accuracy, introspection advantage, winners and losers, health."""

import numpy as np

from introspection.report.figures import (
    BLUE,
    COLORS,
    GREEN,
    GREY,
    KINDS,
    ORANGE,
    ends,
    frame,
    interval,
    legend,
    mean,
    moved,
    own_gain,
    series,
    size,
    units,
    window,
)

HEALTH = {
    "entropy": "entropy (nats)", "kl": "KL to the start policy (nats)", "grad_norm": "gradient norm before clipping",
    "update_ratio": "applied / intended update", "leak_rate": "points that leak (share)", "completions/clipped_ratio": "turns cut off at the limit (share)",
}  # fmt: skip


def curve(axis, values: np.ndarray, color: str, label: str, style: str = "-") -> None:
    """A thin line for each seed, a thick one for their mean over five steps."""
    steps = np.arange(1, values.shape[1] + 1)
    for row in values:
        axis.plot(steps, row, color=color, linewidth=0.6, alpha=0.35)
    smooth = [mean(values[:, max(0, i - 4) : i + 1]) for i in range(values.shape[1])]
    axis.plot(steps, smooth, style, color=color, linewidth=1.8, label=label)
    axis.xaxis.get_major_locator().set_params(integer=True)


def pooled(groups: dict[str, list]) -> str:
    """The note below all arms: runs that differ in more than their seed are not called seeds."""
    unit = "seed" if len(groups) == 1 else "run"
    return f"{size('', [s for stages in groups.values() for s in stages], unit)}; thin: a {unit}, thick: mean of five steps"


def reward(plt, groups: dict[str, list]):
    """What training rewards, over the steps."""
    values = {name: series(stages, "reward") for name, stages in groups.items()}
    last = {name: ends(v)[1] for name, v in values.items()}
    best = max(last, key=lambda name: last[name])
    title = (
        f"The reward of points {moved(*ends(values['']))}"
        if "" in values
        else f"The reward ends highest ({last[best]:.2f}) with {best}"
    )
    figure, (axis,) = frame(plt, title, pooled(groups))
    for color, (name, v) in zip(COLORS * 9, values.items(), strict=False):
        curve(axis, v, color, name)
    axis.set(xlabel="step", ylabel="mean score of learning points")
    if "" not in values:
        legend(axis)
    return figure


def accuracy(plt, groups: dict[str, list]):
    """Accuracy with points and, on the same questions, without; a single arm also shows its first attempts."""
    single = len(groups) == 1
    parts = {
        name: [series(stages, f"accuracy/{kind}") for kind in ("verify", "fresh")] for name, stages in groups.items()
    }
    most, (with_, without) = max(parts.items(), key=lambda item: abs(np.subtract(*ends(item[1][1]))))
    title = f"Accuracy without a point {moved(*ends(without))}, with one {moved(*ends(with_))}"
    if not single:
        title = f"Without a point, accuracy moves most with {most}: it {moved(*ends(without))}"
    figure, (axis,) = frame(plt, title, pooled(groups) + "; solid: with points, dashed: without" * (not single))
    for color, (name, (with_, without)) in zip(COLORS * 9, parts.items(), strict=False):
        curve(axis, with_, color, name or "with a learning point")
        curve(
            axis,
            without,
            ORANGE if single else color,
            "the same questions without one" if single else None,
            "-" if single else "--",
        )
    for name, stages in groups.items():
        if single:
            curve(axis, series(stages, "accuracy/attempt"), GREY, "first attempts (rollout 1)")
        known = [
            (e["step"], e["accuracy/canary"])
            for s in stages
            for e in s.records["eval"]
            if e.get("accuracy/canary") is not None
        ]
        if known:
            axis.plot(
                *zip(*known, strict=True),
                "D",
                color=GREEN,
                markersize=4,
                label="canary, without a point" if name == next(iter(groups)) else None,
            )
    axis.set(xlabel="step", ylabel="accuracy")
    legend(axis)
    return figure


def advantage_by_step(plt, name: str, stages: list):
    """Same and transfer over the training, ten windows with intervals."""
    shown = {k: series(stages, f"introspection_advantage/{k}") for k in KINDS}
    shown = {k: v for k, v in shown.items() if not np.isnan(v).all()}
    if not shown:
        return None
    told = " and ".join(f"on {KINDS[k]} {moved(*ends(v))}" for k, v in shown.items())
    figure, (axis,) = frame(
        plt,
        f"Introspection advantage {told}",
        f"{size(name, stages)}; dots: tenths of the training with 95 % intervals over clusters",
    )
    steps = max(v.shape[1] for v in shown.values())
    for color, (kind, values) in zip(COLORS, shown.items(), strict=False):
        curve(axis, values, color, KINDS[kind])
        for k in range(10):
            records = window(stages, k / 10, (k + 1) / 10)
            part = units(records, lambda r, kind=kind: r[f"advantage_{kind}"])
            if part:
                m, low, high = interval(part)
                axis.errorbar(
                    (k + 0.5) / 10 * steps + 0.5,
                    m,
                    yerr=[[m - low], [high - m]],
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


def winners_and_losers(plt, name: str, stages: list):
    """Whose points help; the difference at the end is paired within clusters."""
    sides = {
        "losers": series(stages, "introspection_advantage/losers"),
        "winners": series(stages, "introspection_advantage/winners"),
    }
    if any(np.isnan(v).all() for v in sides.values()):
        return None
    records = window(stages, 0.9, 1)
    by_side = [{r["cluster"]: [] for r in records} for _ in sides]
    for record in records:
        if record["text"] is not None and not record["leak"] and own_gain(record) is not None:
            by_side[record["source"] == "winner"][record["cluster"]].append(own_gain(record))
    paired = [mean(lost) - mean(by_side[1][c]) for c, lost in by_side[0].items() if lost and by_side[1][c]]
    m, low, high = interval(paired)
    more = "Losers' points help more than winners'" if low > 0 else "Winners' points help more than losers'"
    title = (
        f"{more} at the end"
        if low > 0 or high < 0
        else "At the end winners' and losers' points help alike, as far as can be seen"
    )
    told = f"{m:+.2f} [{low:+.2f}, {high:+.2f}]".replace("+nan", "-")
    note = f"{size(name, stages)}; losers - winners, paired within {len(paired)} clusters, last tenth of steps: {told} (95 %)"
    figure, (axis,) = frame(plt, title, note)
    for color, (side, values) in zip(COLORS, sides.items(), strict=False):
        curve(axis, values, color, f"points of {side}")
    axis.axhline(0, color=GREY, linewidth=0.6)
    axis.set(xlabel="step", ylabel="introspection advantage")
    legend(axis)
    return figure


def health(plt, name: str, stages: list):
    """Six signs of trouble; the title names those that were seen."""
    values = {key: series(stages, key) for key in HEALTH}
    last = {key: ends(v)[1] for key, v in values.items()}
    ratio, skipped = values["update_ratio"], max(s.records["metrics"][-1]["skipped_steps"] for s in stages)
    signs = [
        ("precision swallows part of the updates", not np.isnan(ratio).all() and np.nanmin(ratio) < 0.9), ("points leak answers", last["leak_rate"] > 0.1),
        ("many turns are cut off", last["completions/clipped_ratio"] > 0.1), (f"{skipped} steps were skipped", skipped > 0),
        ("entropy collapsed", last["entropy"] < 0.2 * ends(values["entropy"])[0]),
    ]  # fmt: skip
    warnings = [sign for sign, seen in signs if seen]
    title = f"Look at this: {', '.join(warnings)}" if warnings else "Health: no warning sign"
    note = f"{size(name, stages)}; warned of: update ratio < 0.9, leaks or cut-off turns > 0.1, skipped steps, entropy < a fifth of the start's"
    figure, axes = frame(plt, title, note, (3, 2), 4.6)
    for axis, (key, label) in zip(axes, HEALTH.items(), strict=True):
        curve(axis, values[key], BLUE, key)
        axis.set_title(label, loc="left")
        if np.isnan(values[key]).all():
            axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color=GREY)
            axis.set(xticks=[], yticks=[])
        elif key in ("leak_rate", "completions/clipped_ratio", "update_ratio"):
            axis.set_ylim(-0.03, max(1.03, np.nanmax(values[key])))
    for axis in axes[-2:]:
        axis.set_xlabel("step")
    return figure
