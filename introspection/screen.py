"""What a person sees: the plan of a dry run, a line a step, sample learning points, and the closing summary.

The summary reads the files of a run directory only, so it can be printed again at any time.
"""

import sys
import textwrap

from introspection import library, models
from introspection.rundir import Run
from introspection.stats import bootstrap_mean


def plan(cfg, chat, train: list, held_out: list) -> str:
    """What a run would do: data, rollouts and tokens a step, trainable parameters, expected peak memory.

    Loads no weights.
    """
    points = cfg.questions_per_step * cfg.group_size
    kinds = 2 if cfg.verify_on == "both" else 1
    views = cfg.n_verify * (kinds + (cfg.verify_on != "transfer"))  # twins are views too
    verifications, fresh = points * views, cfg.questions_per_step * views * cfg.n_fresh
    prompt = sum(len(chat.first(q.turn)) for q in train) / len(train)
    generated = points * (cfg.max_new_tokens + cfg.max_point_tokens) + (verifications + fresh) * cfg.max_new_tokens
    count, trained, width, layers = models.size(cfg)
    weight = 4 if cfg.dtype == "float32" else 2  # bytes
    masters = 0 if weight == 4 or cfg.lora_rank else 4  # adapters are fp32 themselves
    copies = 3 if cfg.optimizer == "adamw" else 1  # gradient, and for AdamW two moments
    state = count * weight * (2 if cfg.kl_coef else 1) + trained * (masters + 4 * copies)
    activations = (
        cfg.max_tokens_per_micro_batch * width * layers * 4 * 20
    )  # about 20 kept tensors of this width in a layer
    fixed = sum(not q.movable for q in train)
    lines = [
        f"model        {cfg.model}: {count:,} parameters, {trained:,} trained, {cfg.dtype}",
        f"data         {len(train)} train questions ({prompt:.0f} tokens each), {len(held_out)} {cfg.eval_split} questions, "
        f"{fixed} with options that cannot be shuffled",
        f"a step       {points} attempts, {points} learning points, {verifications} verifications, {fresh} without a point",
        f"             at most {generated:,} generated tokens",
        f"the run      {cfg.steps} steps, an evaluation every {cfg.eval_every or cfg.steps}, a checkpoint every {cfg.save_every}",
        f"peak memory  about {(state + activations + 2**29) / 2**30:.1f} GiB",
    ]
    return "\n".join(lines)


def number(value: float | None, signed: bool = False) -> str:
    return "-" if value is None else f"{value:+.2f}" if signed else f"{value:.2f}"


def step_line(metrics: dict, evaluation: dict | None) -> str:
    """One readable line a step; README explains every number."""
    gains = [metrics[f"introspection_advantage/{kind}"] for kind in ("same", "transfer")]
    line = (
        f"step {metrics['step']:3d}  attempt {number(metrics['accuracy/attempt'])}  with a point {number(metrics['accuracy/verify'])}  "
        f"without {number(metrics['accuracy/fresh'])}  advantage same {number(gains[0], True)} transfer {number(gains[1], True)}  "
        f"parsed {number(metrics['parse_rate'])}  leaks {number(metrics['leak_rate'])}  entropy {number(metrics['entropy'])}"
    )
    return line if evaluation is None else line + "\n" + evaluation_line(evaluation)


def evaluation_line(e: dict) -> str:
    low, high = e["ci95"]
    canary = "" if e["accuracy/canary"] is None else f", canary {number(e['accuracy/canary'])}"
    return (
        f"   {e['split']} at step {e['step']}: with the policy's points {number(e['accuracy_with'])}, without {number(e['accuracy_without'])}, "
        f"advantage {number(e['introspection_advantage'], True)} [{number(low, True)}, {number(high, True)}]{canary}"
    )


def sample_points(records: list[dict]) -> str:
    """The best, the middle and the worst learning point of a step, with their scores."""
    measured = sorted((r for r in records if r["verified_on"]), key=library.gain)
    if not measured:
        return "   no learning point parsed"
    chosen = [measured[-1], measured[len(measured) // 2], measured[0]]
    return "\n".join(f"   {describe(r)}" for r in chosen)


def describe(record: dict) -> str:
    with_point, without, n = library.accuracies(record)
    flags = " leak" * record["leak"] + " meta-gaming" * record["meta_gaming"]
    text = textwrap.shorten(record["text"], 110)
    return f"{with_point - without:+.2f} (with {with_point:.2f}, without {without:.2f}, n {n}){flags}  {record['cluster']}, {record['source']}: {text}"


def summary(run: Run) -> str:
    """The closing summary of a finished run, from its files."""
    evaluations, metrics = run.read("eval.jsonl"), run.read("metrics.jsonl")
    records = library.merge([r for r in run.read("rollouts.jsonl") if r["verified_on"] and r["text"]])
    validated = run.read("library.jsonl")
    before, after = evaluations[0], evaluations[-1]
    lines = [
        "",
        "== stage 1 finished ==",
        "",
        f"Learning points, pooled over the run, in sample ({len(records)} different ones, {len(validated)} records in the library):",
    ]
    best = sorted((r for r in records if not r["leak"]), key=lambda r: -library.interval(r, 1.645)[0])[:3]
    worst = sorted(records, key=lambda r: library.interval(r, 1.645)[1])[:3]
    lines += [
        "  best (highest lower bound)",
        *(f"    {describe(r)}" for r in best),
        "  worst",
        *(f"    {describe(r)}" for r in worst),
    ]
    lines += [
        "",
        "Before and after, on questions whose points were never rewarded:",
        evaluation_line(before),
        evaluation_line(after),
    ]
    for name, column in (("accuracy with the policy's points", 0), ("accuracy without a point", 1)):
        lines.append(
            change(
                name,
                {k: v[column] for k, v in before["per_question"].items()},
                {k: v[column] for k, v in after["per_question"].items()},
            )
        )
    gains = [{k: w - wo for k, (w, wo) in e["per_question"].items()} for e in (before, after)]
    lines.append(change("introspection advantage", *gains))
    lines.append(f"   steps without signal or skipped: {metrics[-1]['skipped_steps']} of {metrics[-1]['step']}")
    if run.cfg.expect:
        lines += ["", f"What to expect of this config: {run.cfg.expect}"]
    seconds = sum(record["time/step"] for record in metrics)
    lines += [
        "", f"{seconds:.0f} s in steps{peak_memory()}",
        f"Everything is in {run.path}: metrics.jsonl, eval.jsonl, rollouts.jsonl (every point), library.jsonl (validated points), final/ (weights)",
        f"Look: python -m introspection.report {run.path.parent}   (one HTML file: figures, and every point to browse)",
        "Next: python grpo_introspect.py --config configs/bank.yaml   (20 clusters, and 4 more that training never sees)",
    ]  # fmt: skip
    return "\n".join(lines)


def peak_memory() -> str:
    """Peak memory of this process; nothing where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    return f", peak memory of this process {peak:.1f} GiB"


def change(name: str, before: dict[str, float], after: dict[str, float]) -> str:
    """One line on a paired difference per question, with its 95 % bootstrap interval."""
    difference, low, high = bootstrap_mean([after[key] - before[key] for key in before])
    verdict = "no measurable change" if low <= 0 <= high else "up" if difference > 0 else "down"
    return f"   change of {name}: {difference:+.3f} [{low:+.3f}, {high:+.3f}], {len(before)} questions: {verdict}"
