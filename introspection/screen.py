"""What a person sees: the plan of a dry run, a line a step, sample learning points, and the closing summary.

The summary reads the files of a run directory only, so it can be printed again at any time.
"""

import json
import sys
import textwrap

from common import Shared
from introspection import library, models, scored
from introspection.cache import bytes_per_token, rows_within
from introspection.rundir import Run
from introspection.sampling import MAX_ROWS
from introspection.verdicts import by_cluster, fell_without, judge, spoilt_by

OPTIONS = 4  # of a question, where memory is planned
PARSED, CLIPPED = 0.8, 0.3  # shares below and above which a step warns


def plan(cfg: Shared, chat, train: list, held_out: list) -> str:
    """What a run would do: data, rollouts and tokens a step, trainable parameters, expected peak memory.

    Loads no weights. cfg: the settings of stage 1 (grpo_introspect.Config; nothing below a stage imports it).
    """
    points = cfg.questions_per_step * cfg.group_size
    kinds = {"same": 2, "transfer": 1, "both": 3}[cfg.verify_on]  # with same go the twins of a question
    verifications = points * cfg.n_verify * kinds
    fresh = cfg.questions_per_step * cfg.n_verify * kinds * cfg.n_fresh
    sample = train[:: -(-len(train) // 500)]  # of questions whose length is looked at: at most 500
    prompt = sum(len(chat.first(q.turn)) for q in sample) / len(sample)
    counted = "each" if len(sample) == len(train) else f"each, mean of {len(sample)}"
    fixed = sum(not q.movable for q in train)
    generated = points * (cfg.max_new_tokens + cfg.max_point_tokens) + (verifications + fresh) * cfg.max_new_tokens
    count, trained, _, _ = models.size(cfg)
    lines = [
        f"model        {cfg.model}: {count:,} parameters, {trained:,} trained, {cfg.dtype}",
        f"data         {len(train)} train questions ({prompt:.0f} tokens {counted}), {len(held_out)} {cfg.eval_split} "
        f"questions, {fixed} with options that cannot be shuffled",
        f"a step       {points} attempts, {points} learning points, {verifications} verifications, {fresh} without a "
        "point",
        f"             at most {generated:,} generated tokens",
        f"the run      {cfg.steps} steps, an evaluation every {cfg.eval_every or cfg.steps}, a checkpoint every "
        f"{cfg.save_every}",
        f"peak memory  {memory(cfg, points, verifications, prompt)}",
    ]
    if len(held_out) < cfg.eval_questions:
        lines.insert(2, f"             {few(len(held_out), cfg.eval_questions, cfg.eval_split)}")
    return "\n".join(lines)


def largest_cache(cfg: Shared, points: int, verifications: int, prompt: float) -> float:
    """Bytes of keys and values of the largest rollout of a step or an evaluation (evaluation.py: 4 points a question,
    each verified twice), at most what shared.kv_gib or the free memory allows.
    """
    config, turn = models.text_config(cfg.model), cfg.max_new_tokens + cfg.max_point_tokens
    longest = 2 * prompt + turn  # an exchange, and the point after it
    answers = max(verifications, 8 * cfg.eval_questions)
    if cfg.answers == "scored":
        answers = min(answers, scored.ROWS) * OPTIONS
    rollouts = [(max(points, 4 * cfg.eval_questions), longest), (answers, prompt + turn)]
    return max(
        min(rows, MAX_ROWS, rows_within(config, cfg.kv_gib, int(length))) * length * bytes_per_token(config)
        for rows, length in rollouts
    )


def memory(cfg: Shared, points: int, verifications: int, prompt: float) -> str:
    """What a run holds at once: the weights and what trains them, and the larger of activations and a rollout's cache.

    points, verifications: of a step; prompt: tokens of a question's turn.
    """
    count, trained, width, layers = models.size(cfg)
    weight = 4 if cfg.dtype == "float32" else 2  # bytes
    weights = count * weight * (2 if cfg.kl_coef else 1)  # a KL keeps the start policy too
    masters = 0 if weight == 4 or cfg.lora_rank else 4  # adapters are fp32 themselves
    copies = 3 if cfg.optimizer == "adamw" else 1  # gradient, and for AdamW two moments
    state = trained * (masters + 4 * copies)
    activations = cfg.max_tokens_per_micro_batch * width * layers * 4 * 20  # about 20 kept tensors of it in a layer
    cache = largest_cache(cfg, points, verifications, prompt)
    total = 2**29 + weights + state + max(activations, cache)  # half a GiB: Python and its libraries
    parts = {"weights": weights, "gradients and optimiser": state, "activations": activations, "keys and values": cache}
    told = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in parts.items())
    return f"at most about {total / 2**30:.1f} GiB ({told}; the last two not at once)"


def few(found: int, asked: int, split: str) -> str:
    """What is said where an evaluation has fewer questions than it might have."""
    return f"{found} of {asked} evaluation questions: no more of split {split} have another one in their cluster"


def number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def step_line(metrics: dict, evaluation: dict | None) -> str:
    """One readable line a step; docs/reference.md, 'Metrics', explains every number."""
    same, transfer = (metrics[f"introspection_advantage/{kind}"] for kind in ("same", "transfer"))
    parts = [
        f"step {metrics['step']:3d}",
        f"attempt {number(metrics['accuracy/attempt'])}",
        f"with a point {number(metrics['accuracy/verify'])}",
        f"without {number(metrics['accuracy/fresh'])}",
        f"advantage same {number(same, '+.2f')} transfer {number(transfer, '+.2f')}",
        f"parsed answers {number(metrics['parse_rate/answer'])} points {number(metrics['parse_rate'])}",
        f"leaks {number(metrics['leak_rate'])}",
        f"entropy {number(metrics['entropy'])}",
    ]
    lines = ["  ".join(parts), *warnings(metrics)]
    return "\n".join(lines if evaluation is None else [*lines, evaluation_line(evaluation)])


def warnings(metrics: dict) -> list[str]:
    """What a step's numbers cannot be read past: turns that do not parse, turns that were cut off."""
    found = []
    for what, key in (("answers", "parse_rate/answer"), ("points", "parse_rate")):
        if metrics[key] is not None and metrics[key] < PARSED:
            found.append(f"only {metrics[key]:.0%} of the {what} parse (shared.prompts: plain, shared.answers: scored)")
    for k, limit in ((1, "max_new_tokens"), (2, "max_point_tokens"), (3, "max_new_tokens")):
        share = metrics[f"clipped/rollout{k}"]
        if share is not None and share > CLIPPED:
            found.append(f"{share:.0%} of the turns of rollout {k} were cut off (grpo_introspect.{limit})")
    return [f"   look at this: {line}" for line in found]


def evaluation_line(e: dict) -> str:
    advantage, low, high = (number(value, "+.2f") for value in (e["introspection_advantage"], *e["ci95"]))
    line = (
        f"   {e['split']} at step {e['step']}: with the policy's points {number(e['accuracy_with'])}, "
        f"without {number(e['accuracy_without'])}, advantage {advantage} [{low}, {high}]"
    )
    return line if e["accuracy/canary"] is None else f"{line}, canary {number(e['accuracy/canary'])}"


def sample_points(records: list[dict]) -> str:
    """The best, the middle and the worst learning point of a step, with their scores."""
    measured = sorted((r for r in records if r["verified_on"]), key=library.gain)
    if not measured:
        return "   no learning point parsed"
    chosen = [measured[-1], measured[len(measured) // 2], measured[0]]
    return "\n".join(f"   {describe(r)}" for r in chosen)


def describe(record: dict) -> str:
    """One line on a learning point: its advantage, the accuracies behind it, flags, and its text."""
    with_point, without, n = library.accuracies(record)
    scores = f"{with_point - without:+.2f} (with {with_point:.2f}, without {without:.2f}, n {n})"
    flags = [flag for flag, key in (("leak", "leak"), ("meta-gaming", "meta_gaming")) if record[key]]
    about = f"{record['cluster']}, {record['source']}: {textwrap.shorten(record['text'], 110)}"
    return f"{' '.join([scores, *flags])}  {about}"


def summary(run: Run) -> str:
    """The closing summary of a finished run, from its files."""
    evaluations, metrics = run.read("eval.jsonl"), run.read("metrics.jsonl")
    records = library.merge([r for r in run.read("rollouts.jsonl") if r["verified_on"] and r["text"]])
    counts = f"{len(records)} different ones, {len(run.read('library.jsonl'))} records in the library"
    lines = ["", "== stage 1 finished ==", "", f"Learning points, pooled over the run, in sample ({counts}):"]
    # One-sided bounds: how good a point is at least, and how bad a point is at least.
    best = sorted((r for r in records if not r["leak"]), key=lambda r: -library.interval(r, 1.645)[0])[:3]
    worst = sorted(records, key=lambda r: library.interval(r, 1.645)[1])[:3]
    lines += ["  best (highest lower bound)"] + [f"    {describe(r)}" for r in best]
    lines += ["  worst"] + [f"    {describe(r)}" for r in worst]
    before, after = evaluations[0], evaluations[-1]
    lines += ["", "Before and after, on questions whose points were never rewarded:"]
    lines += [evaluation_line(before), evaluation_line(after)]
    if len(after["per_question"]) < run.cfg.eval_questions:
        lines.append(f"   {few(len(after['per_question']), run.cfg.eval_questions, after['split'])}")
    lines += changes(before, after)
    lines.append(f"   steps without signal or skipped: {metrics[-1]['skipped_steps']} of {metrics[-1]['step']}")
    adapters = run.final / "adapters/merged.json"
    if adapters.exists():
        lost = json.loads(adapters.read_text())["lost"]
        lines.append(f"   adapters: final/adapters; merging them into {run.cfg.dtype} weights lost {lost:.0%} of them")
    if run.cfg.expect:
        lines += ["", f"What to expect of this config: {run.cfg.expect}"]
    seconds = sum(record["time/step"] for record in metrics)
    lines += [
        "",
        f"{seconds:.0f} s in steps{peak_memory()}",
        f"Everything is in {run.path}: metrics.jsonl, eval.jsonl, rollouts.jsonl (every point), library.jsonl "
        "(validated points), final/ (weights)",
        f"Look: python -m introspection.report {run.path.parent}   (one HTML file: figures, and every point to browse)",
        "Next: sft_recall.py, dream_tta.py or eval.py, with the same --config, --set shared.… and --run-dir",
    ]
    return "\n".join(lines)


def peak_memory() -> str:
    """Peak memory of this process; nothing where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    return f", peak memory of this process {peak:.1f} GiB"


def changes(before: dict, after: dict) -> list[str]:
    """A line each on accuracy with points and without, and on the advantage, from the first to the last evaluation."""
    clusters, rewarded = after.get("clusters", {}), after.get("rewarded", True)
    parsed = spoilt_by({"answers": after.get("parse_rate/answer"), "points": after.get("parse_rate")})
    pairs = [(q, (w, wo), after["per_question"][q]) for q, (w, wo) in before["per_question"].items()]
    told = {q: end[0] - start[0] for q, start, end in pairs}
    alone = {q: end[1] - start[1] for q, start, end in pairs}
    told_verdict, alone_verdict = (judge([by_cluster(part, clusters)], rewarded, parsed) for part in (told, alone))
    gains = by_cluster({q: told[q] - alone[q] for q in told}, clusters)
    gain_verdict = judge([gains], rewarded, parsed or fell_without(told_verdict, alone_verdict))
    named = {
        "accuracy with the policy's points": told_verdict,
        "accuracy without a point": alone_verdict,
        "introspection advantage": gain_verdict,
    }
    return [f"   change of {name}: {verdict}" for name, verdict in named.items()]
