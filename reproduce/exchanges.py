"""T12 on new clusters: what each method makes of k exchanges of each of 12 clusters that nothing was trained on.

    python -m reproduce.exchanges [--jobs 2] [--quick]   # results/exchanges.jsonl, .json, .md, .svg
    python -m reproduce.exchanges --tune [--jobs 2]      # results/exchanges_tuning.jsonl, what settings were chosen by

Settings were frozen on 12 other clusters, one seed: steps (20 at least) are the best there while the canary is within
0.05 of the start. Then all was asked once, of a seed of the world that nobody had seen.
"""

import sys
import time
from collections import Counter
from pathlib import Path

from common import ReaderNumber
from introspection import library
from introspection.report import figures
from introspection.stats import holm, mean
from introspection.tables.units import minus
from organism import rules
from reproduce.answers import ask as ask_bank
from reproduce.answers import open_reader
from reproduce.few import bank_of, new_clusters, questions_to_ask
from reproduce.records import group, markdown_table, quantity, read_lines, shown_accuracy, shown_interval, write_lines
from reproduce.rivals import best_points, estimate_clusters, every_exchange, sampled_tokens
from reproduce.runs import Asked, ask, make_missing, publish, rounded, start
from tasks.bank import load_questions

KS, SEEDS, MODEL = (1, 2, 4, 8, 16, 32), (0, 1, 2), "organism/weights"

# ---- settings ------------------------------------------------------------------------------------------------------
RIVALS = ("grpo", "sdpo")
TRAINED, EXPLAINED = ("ours", *RIVALS), ("explanations",)
IN_CONTEXT = {"explanations": "told", "ours": "written"}  # dreams: the arm that has their text in context
DREAM = {"dream_questions": 1000, "n_label": 4, "own_answers": 1, "rehearse": 16}
SETTINGS = {
    "grpo": {"lr": 4e-4},
    "sdpo": {"lr": 4e-4, "reveal": "explanation"},
    # Every exchange is dreamt: itself, with its answer, and in few variants; made-up conversations are held.
    "explanations": DREAM,
    "ours": DREAM,
}
SLOWLY = {"lr": 2e-4, "kl_coef": 0.02}  # as dreams do
FROZEN = {  # after k exchanges; other k take those of the next one that was tuned, or of 16
    "grpo": {1: {"steps": 40} | SLOWLY, 4: {"steps": 280} | SLOWLY, 16: {"steps": 280}},
    "sdpo": {1: {"steps": 20}, 4: {"steps": 60}, 16: {"steps": 100}},
    "explanations": {k: {"steps": 340} for k in (1, 4, 16)},
}
FROZEN["ours"] = FROZEN["explanations"]
BEST = {1: "sdpo", 4: "grpo", 16: "grpo"}  # the rival that was best where it was tuned, which ours is held against


def tuned(k: int) -> int:
    return next((known for known in (1, 4, 16) if known >= k), 16)


# What was tried, beside the settings above; how each went, and what was cut, stands in docs/LOG.md.
TRIALS: dict[str, dict[str, dict]] = {
    "grpo": {"lr 4e-4": {"steps": 320}, "kl 0.08": {"steps": 240, "kl_coef": 0.08}},
    "sdpo": {"lr 4e-4": {"steps": 120}, "lr 2e-4": {"steps": 120, "lr": 2e-4}},
    "explanations": {"rehearse 16": {"steps": 360}},
    "ours": {"else explanations": {"steps": 360}},
}
TRIALS["grpo"]["lr 2e-4 kl 0.02"] = {"steps": 320} | SLOWLY


# ---- one run -------------------------------------------------------------------------------------------------------
def write_points(asked: Asked, run: dict, home: Path, path: Path) -> Path:
    """The points of one pass of stage 1 over the exchanges (two over a single one, which its own question verifies).

    All that were measured: a library holds those that were better than their group, so none of a group that agrees.
    Settings were tuned with the start model as writer: of the clusters for tuning trained ones had seen some.
    """
    k, writer = run["k"], MODEL if "setting" in run else writer_of(asked, run["seed"])
    settings = {"verify_on": "same", "steps": 3} if k == 1 else {"verify_on": "transfer", "steps": 3 * k // 2}
    settings |= {"shared.seed": run.get("seed", 0), "shared.questions": path, "shared.model": writer}
    settings |= {"contributors": "losers", "group_size": 8, "eval_every": 0, "eval_split": "test", "eval_questions": 8}
    start(["grpo_introspect.py"], "bank", home, settings | ({"steps": 2} if asked.quick else {}))
    return home / "grpo_introspect/rollouts.jsonl"


def writer_of(asked: Asked, seed: int) -> Path:
    """The weights of a writer that stage 1 trained on the bank's train clusters (reproduce/flagship.sh, 'losers')."""
    home = asked.runs / f"writer-{seed}"
    if not (home / "grpo_introspect/final").is_dir():
        settings = {"shared.seed": seed, "contributors": "losers", "eval_every": 0}
        start(["grpo_introspect.py"], "bank", home, settings | ({"steps": 2} if asked.quick else {}))
    return home / "grpo_introspect/final"


def measured(model: Path | str, asked: Asked, points: dict[str, str]) -> dict:
    """Accuracy of a model's first answers to what is asked in the end: {split: {cluster: [of each question]}}."""
    reader, each = open_reader(str(model), 0, 0, ReaderNumber.ANSWERS), {}
    questions = load_questions(questions_to_ask(asked.runs))
    for split in ("test", "canary"):
        part = [q for q in questions if q.split == split]
        accuracies = ask_bank(reader, part, points, 1 if asked.quick else 4)
        each[split] = group((q.cluster, accuracies[q.id]) for q in part)
    return {"each": each}


def curve(stage: Path) -> list[dict]:
    """What a run's own evaluations said: accuracy on new questions and on the canary, by step."""
    found = []
    for r in read_lines(stage / "eval.jsonl"):
        test = r["each"].get("target", r["each"].get("test"))
        canary = r["each"]["canary"] | r["each"].get("canary_stop", {})
        found.append({"step": r["step"], "test": mean(test.values()), "canary": mean(canary.values())})
    return found


def train(asked: Asked, run: dict, home: Path, settings: dict) -> dict:
    """A rival or a dream on its bank: what it cost, and what its weights answer, or its curve where it is tuned."""
    began = time.perf_counter()
    program = ["-m", f"baselines.{run['method']}"] if run["method"] in RIVALS else ["dream_tta.py"]
    start(program, "bank", home, settings | ({"steps": 2} if asked.quick else {}))
    stage = home / (run["method"] if run["method"] in RIVALS else "dream_tta")
    last = read_lines(stage / "metrics.jsonl")[-1]
    made = {name: last[name] for name in ("step", "generated_tokens", "trained_tokens")}
    made["seconds"] = round(time.perf_counter() - began)
    if "setting" in run:
        return made | {"curve": curve(stage)}
    return made | measured(stage / "final", asked, {})


def settings_of(run: dict, path: Path) -> dict:
    """All settings of a rival or a dream: frozen steps, and evaluations between them only where it is tuned."""
    method, tuning = run["method"], "setting" in run
    settings = {"shared.seed": run.get("seed", 0), "shared.questions": path, "save_every": 1000} | SETTINGS[method]
    if method in RIVALS:
        settings |= {"eval_splits": "test,canary", "eval_problems": 1000 if tuning else 8}
    else:
        settings |= {"variants": max(4, 48 // run["k"]), "eval_questions": 1000 if tuning else 8, "stop_drop": 1}
    settings |= {"n_eval": 2 if tuning else 1, "eval_every": 20 if tuning else 1000}
    return settings | (TRIALS[method][run["setting"]] if tuning else FROZEN[method][tuned(run["k"])])


def work(asked: Asked, run: dict) -> dict:
    """A line: the arms that a run gives."""
    method, path = run["method"], bank_of(asked.runs, run["k"], tuning="setting" in run)
    if method == "start":
        return {"arms": {"start": measured(MODEL, asked, {})}}
    home = asked.runs / "exchanges" / "-".join(str(value) for value in run.values())
    settings = settings_of(run, path)
    if method in RIVALS:
        return rounded({"arms": {method: train(asked, run, home, settings)}})
    # What is dreamt of each exchange: its cluster's best learning point, its explanation where none was written.
    points, wrote, best, began = home.with_suffix(".jsonl"), 0, {}, time.perf_counter()
    if method == "ours":
        written = write_points(asked, run, home, path)
        wrote = round(sum(map(sampled_tokens, read_lines(written.with_name("metrics.jsonl")))))
        helped = [r for r in read_lines(written) if r["text"] and r["verified_on"] and library.gain(r) > 0]
        best = {r["cluster"]: r["text"] for r in best_points(helped)}
    write_lines(points, every_exchange(path, best))
    of_cluster = group((r["cluster"], r["text"]) for r in read_lines(points))
    chosen = {cluster: texts[run.get("seed", 0) % len(texts)] for cluster, texts in of_cluster.items()}
    wrote_for = time.perf_counter() - began
    arms = {IN_CONTEXT[method]: measured(MODEL, asked, chosen)} if "seed" in run else {}
    dreamt = train(asked, run, home, settings | {"library": points})
    dreamt["generated_tokens"] += wrote
    dreamt["seconds"] += round(wrote_for)
    return rounded({"arms": arms | {method: dreamt}, "points": len(best)})


# ---- the table -----------------------------------------------------------------------------------------------------
ARMS = {  # arm: (what it is, what is revealed of an exchange, colour in the picture)
    "start": ("start model", "nothing", None),
    "grpo": ("GRPO", "right or wrong", figures.GREY),
    "sdpo": ("SDPO", "explanation", figures.ORANGE),
    "explanations": ("dream of explanations", "explanation", figures.GREEN),
    "ours": ("ours: points, else explanations", "explanation", figures.BLUE),
    "told": ("in context: an explanation", "explanation", figures.INK),
    "written": ("in context: ours", "explanation", "#d64570"),
}
COST = ("generated_tokens", "trained_tokens", "seconds")
AGAINST = ("grpo", "sdpo", "explanations")  # ours is compared with


def seeds_of(lines: list[dict], k: int, arm: str, split: str) -> list[dict[str, list[float]]]:
    """Accuracies by cluster, one dictionary a seed; the start model's is the same after any number of exchanges."""
    of_arm = [r for r in lines if arm in r["arms"] and (arm == "start" or r["run"]["k"] == k)]
    return [r["arms"][arm]["each"][split] for r in of_arm]


def estimates(lines: list[dict], k: int, arm: str) -> dict | None:
    """An arm's record: accuracy on new questions and on the canary, what the start model is ahead by, its cost."""
    test, canary = (seeds_of(lines, k, arm, split) for split in ("test", "canary"))
    if not test:
        return None
    record = {"k": k, "arm": arm, "test": estimate_clusters(test, "test"), "canary": estimate_clusters(canary, "test")}
    if arm != "start":
        start_canary = seeds_of(lines, k, "start", "canary") * len(canary)
        record["canary change"] = estimate_clusters(minus(canary, start_canary), "test")
    for rival in AGAINST if arm == "ours" else ():
        others = seeds_of(lines, k, rival, "test")
        if len(others) == len(test):
            record[f"minus {rival}"] = estimate_clusters(minus(test, others), "test")
    of_arm = [r["arms"][arm] for r in lines if arm in r["arms"] and r["run"]["k"] == k]
    record["cost"] = [{key: r[key] for key in ("step", *COST) if key in r} for r in of_arm]
    return record


def records_of(lines: list[dict]) -> dict:
    """Records of all arms, ours against the rivals with Holm's p, and the primary contrast."""
    lines = sorted(lines, key=lambda r: (r["run"]["k"], r["run"]["seed"]))
    lines, ks = complete(lines)
    rows = [record for arm in ARMS for k in ks if (record := estimates(lines, k, arm))]
    contrasts = [r[f"minus {rival}"] for r in rows for rival in AGAINST if f"minus {rival}" in r]
    for contrast, p in zip(contrasts, holm([c["p"] for c in contrasts]), strict=True):
        contrast["p_holm"] = p
    return {"rows": rows, "primary": primary(lines, ks)}


def complete(lines: list[dict]) -> tuple[list[dict], list[int]]:
    """(lines to tell, numbers of exchanges): those with as many seeds of ours and both rivals as any number has.

    A command that was cut off leaves others, which wait for the rest; so do explanations with fewer seeds than ours.
    """
    made = {(r["run"]["k"], r["run"]["seed"], r["run"]["method"]) for r in lines}
    whole = {(k, seed) for k, seed, _ in made if all((k, seed, method) in made for method in TRAINED)}
    seeds = Counter(k for k, _ in whole)
    ks = sorted(k for k in seeds if seeds[k] == max(seeds.values()))
    whole = {(k, seed) for k, seed in whole if k in ks}
    less = {(k, m) for k, _ in whole for m in EXPLAINED if any((k, s, m) not in made for q, s in whole if q == k)}
    told = [r for r in lines if (r["run"]["k"], r["run"]["seed"]) in whole or r["run"]["method"] == "start"]
    return [r for r in told if (r["run"]["k"], r["run"]["method"]) not in less], ks


def primary(lines: list[dict], ks: list[int]) -> dict:
    """Ours less the rival that was best where settings were tuned, mean over the numbers of exchanges."""
    parts = [minus(*(seeds_of(lines, k, arm, "test") for arm in ("ours", BEST[tuned(k)]))) for k in ks]
    seeds = []
    for of_seed in zip(*parts, strict=True):  # of one seed, its differences after each number of exchanges
        seeds.append({c: [mean(values) for values in zip(*(d[c] for d in of_seed), strict=True)] for c in of_seed[0]})
    return estimate_clusters(seeds, "test")


def cost_cells(rows: list[dict], k: int) -> list[str]:
    """Sampled tokens, trained tokens and seconds after k exchanges, means over seeds."""
    (found,) = [r["cost"] for r in rows if r["k"] == k]
    told = [mean(c[key] for c in found if key in c) for key in COST]
    return ["-" if value is None else f"{value:,.0f}" for value in told]


def blocks(lines: list[dict], records: dict) -> list[str | list[str]]:
    """The page."""
    rows = records["rows"]
    ks = sorted({r["k"] for r in rows})
    at = {(r["arm"], r["k"]): r for r in rows}
    trained = [arm for arm in ARMS if any((arm, k) in at for k in ks)]
    accuracy = [
        [
            ARMS[arm][1],
            ARMS[arm][0],
            *(shown_accuracy(at[arm, k]["test"], bounds=".2f") if (arm, k) in at else "" for k in ks),
        ]
        for arm in trained
    ]
    fallen = [
        [ARMS[arm][0], *(shown_interval(at[arm, k]["canary change"]) if (arm, k) in at else "" for k in ks)]
        for arm in ("grpo", "sdpo", "explanations", "ours")
        if arm in trained
    ]
    ahead = [
        [ARMS[rival][0], *(contrast_cell(at.get(("ours", k), {}).get(f"minus {rival}")) for k in ks)]
        for rival in AGAINST
        if any(f"minus {rival}" in r for r in rows)
    ]
    costs = [
        [ARMS[arm][0], str(k), str(at[arm, k]["cost"][0].get("step", "-")), *cost_cells([at[arm, k]], k)]
        for arm in ("grpo", "sdpo", "explanations", "ours")
        for k in ks
        if (arm, k) in at
    ]
    head = [f"k = {k}" for k in ks]
    e = records["primary"]
    return [
        "# T12: what each method makes of k exchanges of a new rule",
        f"{rows[0]['test']['questions']} questions of {rows[0]['test']['clusters']} clusters that nothing was trained "
        "on; what is asked, the canary too, is of a seed of the world that nobody had seen. Steps, 20 at least, are "
        "the best on 12 other clusters at which the canary was within 0.05 of the start.",
        "Ours dreams the best learning point of every cluster, its explanations as they stand where none was written.",
        markdown_table(["revealed", "method", *head], accuracy),
        "Canary, change against the start model:",
        markdown_table(["method", *head], fallen),
        "Ours minus the others, new questions (p: sign flips, Holm over all of this table; with 12 clusters "
        "none is below 0.0005, after Holm over m contrasts none below m times that):",
        markdown_table(["ours minus", *head], ahead),
        "Primary, named before: ours minus the rival that was best where it was tuned, mean over k = "
        f"{', '.join(map(str, ks))}: {shown_interval(e)}, p = {e['p']:.4f}.{left_out(ks)}",
        "Costs (means over seeds; seconds with other work on the machine; ours with what its pass of stage 1 samples, "
        "without what that trains, and without its writer's 100 steps on other clusters; the "
        f"{DREAM['rehearse']} made-up answers that a dream holds in a step are not counted as trained):",
        markdown_table(["method", "k", "steps", "tokens sampled", "tokens trained", "seconds"], costs),
        "95 % intervals over seeds, clusters and questions. The start model is asked once.",
    ]


def left_out(ks: list[int]) -> str:
    """What is said of numbers of exchanges that have no row."""
    missing = [str(k) for k in KS if k not in ks]
    return f" It was named for k = {', '.join(map(str, KS))}; {', '.join(missing)}: not run." if missing else ""


def contrast_cell(e: dict | None) -> str:
    return f"{shown_interval(e)} (p {e['p_holm']:.3f})" if e else ""


def draw(plt, records: dict):
    """Accuracy on new questions by number of exchanges."""
    at = {(r["arm"], r["k"]): r["test"] for r in records["rows"]}
    ks = sorted({k for _, k in at})
    e = records["primary"]
    title = f"Ours minus the best rival, mean over the numbers of exchanges: {shown_interval(e, '+.2f')}"
    start_at = at["start", ks[0]]
    seeds = quantity(len(at["ours", ks[0]]["seeds"]), "seed")
    size = f"{seeds}, {start_at['clusters']} clusters, {start_at['questions']} questions"
    note = (
        f"{size}; bars: 95 %; dashed: a text in context; dotted: start model; finely dotted: "
        "a Bayesian who sees the answers alone"
    )
    figure, (axis,) = figures.frame(plt, title, note, height=3.6)
    axis.axhline(start_at["mean"], color=figures.GREY, linewidth=0.8, linestyle=":")
    new = new_clusters()
    axis.plot(ks, [rules.mean_ceiling(new, k) for k in ks], color=figures.GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    for i, (arm, (label, _, color)) in enumerate(ARMS.items()):
        here = [k for k in ks if (arm, k) in at and color]
        if here:
            parts = [at[arm, k] for k in here]
            bars = [[p["mean"] - p["low"] for p in parts], [p["high"] - p["mean"] for p in parts]]
            beside = [k * 1.02 ** (i - 3) for k in here]  # bars of one k stand side by side
            line = "--" if arm in IN_CONTEXT.values() else "-"
            means = [p["mean"] for p in parts]
            style = {"color": color, "linestyle": line, "marker": "o", "markersize": 3.5, "linewidth": 1.2}
            axis.errorbar(beside, means, yerr=bars, label=label, capsize=2, **style)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.set(xlabel="exchanges of each new cluster", ylabel="accuracy on new questions", ylim=(0, 1))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2, fontsize=6.5)
    return figure


def main() -> None:
    tune = "--tune" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--tune"]
    asked = ask(__doc__)
    if tune:
        runs = [
            {"k": k, "method": m, "setting": name} for m, named in TRIALS.items() for name in named for k in (1, 4, 16)
        ]
        make_missing(asked, "exchanges_tuning", runs, work)
        return
    ks, seeds = ((2,), SEEDS[:1]) if asked.quick else (KS, SEEDS)
    for seed in seeds if asked.jobs else ():  # before runs that share them start
        writer_of(asked, seed)
    runs = [{"k": ks[0], "method": "start", "seed": 0}]  # what decides comes first: a cut leaves whole rows
    first, then = [((1, 4, 16), TRAINED), ((32,), TRAINED), ((8,), TRAINED)], [((2,), TRAINED), ((4, 16), EXPLAINED)]
    for these, methods in [*first, ((1,), EXPLAINED), *then]:
        runs += [{"k": k, "method": m, "seed": s} for s in seeds for k in ks if k in these for m in methods]
    lines = make_missing(asked, "exchanges", runs, work)
    records = records_of(lines)
    publish(asked, "exchanges", lines, records, blocks(lines, records), draw)


if __name__ == "__main__":
    main()
