"""Draws results/rollouts.svg from results/rollouts.json (table T7): cost per rollout, ours, generate(), the floor."""

import json
import statistics
import sys
from pathlib import Path

from reproduce.records import save_picture


def draw(plt, record: dict):
    """Milliseconds a rollout by the number of rollouts at once."""
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    counts = [m["rollouts"] for m in record["scaling"]]
    for side, name, color in (("generate", "generate(num_return_sequences)", "gray"), ("ours", "ours", "tab:blue")):
        costs = [[1000 * s / m["rollouts"] for s in m["seconds"][side]] for m in record["scaling"]]
        axis.plot(counts, [statistics.median(c) for c in costs], "o-", color=color, label=name)
        axis.fill_between(counts, [min(c) for c in costs], [max(c) for c in costs], color=color, alpha=0.2, linewidth=0)
    axis.plot(
        counts,
        [1000 * m["replay"] / m["rollouts"] for m in record["scaling"]],
        ":",
        color="black",
        label="our forward passes alone",
    )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(counts, counts)
    axis.set_yticks([2, 5, 10, 20, 40], ["2", "5", "10", "20", "40"])
    axis.minorticks_off()
    axis.set_xlabel("rollouts at once")
    axis.set_ylabel("milliseconds a rollout")
    repeats, machine = len(record["scaling"][0]["seconds"]["ours"]), record["machine"]
    axis.set_title(
        f"Cost per rollout (bundled model, medians and range of {repeats},\n"
        f"{machine['threads']} threads, {machine['processor']})",
        fontsize=8,
    )
    axis.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    out = Path(sys.argv[1])
    save_picture(out / "rollouts.svg", draw, json.loads((out / "rollouts.json").read_text()))
    print(f"wrote {out}/rollouts.svg")
