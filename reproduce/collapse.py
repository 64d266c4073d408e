"""T1, why training collapses: the paper's first loop with its six faults, each fix taken away in turn.

    python -m reproduce.collapse [--jobs 2] [--quick]       # results/collapse.jsonl, collapse.json, .md, .svg

The loop is the paper's section 'Training Stability', written flat and apart from stage 1, which has no switch for
faults: winners only, the tokens of the learning point, questions of one cluster, plain SGD. A step: 32 attempts on a
question; each winner writes a point; each point answers its own question (validation) and another of the cluster
(regularisation), once each; the update. Arms x learning rates x seeds, all of them reported.
"""

import time
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from transformers import DynamicCache

from common import Shared, draw_some, rng, walk
from introspection import library, models, prompts
from introspection.chat import Chat
from introspection.logprobs import collate, packs, token_logprobs
from introspection.losses import policy_gradient
from introspection.report.figures import frame, legend
from introspection.sampling import Trajectory, inverse_cdf, left_pad, noise, sample
from introspection.stats import bootstrap_mean
from reproduce.records import markdown_table, shown_interval
from reproduce.runs import Asked, ask, make_missing, publish, rounded
from tasks.bank import load_questions
from tasks.mcq import Question, grade, same_views, transfer_views

MODEL, BANK = "organism/weights", "data/preeclampsia.jsonl"
STEPS, ATTEMPTS, FRESH, CANARY_EVERY, WINDOW = 40, 32, 8, 5, 5
ATTEMPT_TOKENS, POINT_TOKENS, CANARY_QUESTIONS = 48, 64, 40
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Loop:
    """The loop with all fixes; an arm takes some away."""

    momentum: float = 0.0  # cause 1
    signed: bool = False  # cause 2: negative advantages push points down
    max_norm: float = 1.0  # cause 3
    source_baseline: bool = False  # cause 4: the other question's score is held against the source question's mean
    keep_graph: bool = False  # cause 5: rollouts without no_grad, their cache held by the graph
    skip: bool = True  # cause 6: whether what has no advantage costs no forward and backward


NO_CLIPPING = float("inf")
ARMS = {
    "all fixes": Loop(),
    "momentum 0.9": Loop(momentum=0.9),
    "signed advantages": Loop(signed=True),
    "no clipping": Loop(max_norm=NO_CLIPPING),
    "baseline of the source question": Loop(source_baseline=True),
    "graph kept": Loop(keep_graph=True),
    "nothing skipped": Loop(skip=False),
    "all faults": Loop(0.9, True, NO_CLIPPING, True, True, False),
    "clipped at 0.05": Loop(max_norm=0.05),  # norms here are below 1.0, where clipping never binds
}


# ---- the loop ------------------------------------------------------------------------------------------------------
def generate(policy, chat: Chat, prompt_ids: list[list[int]], limit: int, key: tuple, graphs: list | None) -> list:
    """The ids of one sampled turn after each prompt, at temperature 1, whose noise is keyed by `key`.

    graphs: where cause 5 is at work, a list that keeps each rollout's cache, and by it its graph, alive.
    """
    keys = [(*key, row) for row in range(len(prompt_ids))]
    if not prompt_ids:
        return []
    if graphs is None:  # under no_grad
        return [c.ids for c in sample(policy, prompt_ids, 1, limit, 1.0, sorted(chat.eos_ids), keys)]
    ids, mask = left_pad(prompt_ids, policy.device)
    cache, said, uniform = DynamicCache(), [[] for _ in prompt_ids], noise(keys, limit)
    ended = [False] * len(said)
    for t in range(limit):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = policy(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        tokens, _ = inverse_cdf(out.logits[:, -1].detach(), uniform[:, t], 1.0)
        for row, token in enumerate(tokens.tolist()):
            if not ended[row]:
                said[row].append(token)
                ended[row] = token in chat.eos_ids
        if all(ended):
            break
        ids, mask = tokens[:, None], torch.cat([mask, mask.new_ones(len(said), 1)], dim=1)
    graphs.append(cache)
    return said


def resident_mib() -> float:
    """Memory of this process now (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


@dataclass
class World:
    """What a run plays in: the policy, its questions, and the graphs that a step keeps alive."""

    policy: object
    chat: Chat
    questions: list[Question]
    canary: list[Question]
    graphs: list | None

    def ask(self, questions: list[Question], points: list[str | None], key: tuple) -> tuple[np.ndarray, list]:
        """(right (n,), [(prompt ids, ids of the answer)]) of one answer to each question with a point or none."""
        asked = [self.chat.first(q.turn_with(p)) for q, p in zip(questions, points, strict=True)]
        turns = generate(self.policy, self.chat, asked, ATTEMPT_TOKENS, key, self.graphs)
        right = [grade(self.chat.text(ids), q) for ids, q in zip(turns, questions, strict=True)]
        return np.array(right, dtype=float), list(zip(asked, turns, strict=True))

    def canary_accuracy(self, seed: int) -> float:
        """Measured under no_grad by every arm, with the same noise at every step."""
        asked = [self.chat.first(q.turn) for q in self.canary]
        turns = generate(self.policy, self.chat, asked, ATTEMPT_TOKENS, (seed, 0), None)
        right = [grade(self.chat.text(ids), q) for ids, q in zip(turns, self.canary, strict=True)]
        return float(np.mean(right))


def train(arm: str, lr: float, seed: int, steps: int) -> dict:
    """One run of the loop, up to its collapse: what each step measured."""
    loop, chat, policy = ARMS[arm], models.load_chat(MODEL), models.load_policy(MODEL, Shared())
    of = {split: [q for q in load_questions(BANK) if q.split == split] for split in ("train", "canary")}
    canary = draw_some(of["canary"], CANARY_QUESTIONS, rng(seed))
    world = World(policy, chat, of["train"], canary, [] if loop.keep_graph else None)
    optimizer = torch.optim.SGD(policy.parameters(), lr=lr, momentum=loop.momentum)
    log, canaries, written, ended = [], [[0, world.canary_accuracy(seed)]], [], None
    first_mib = resident_mib()
    for step in range(1, steps + 1):
        if loop.keep_graph:
            world.graphs.clear()
        question = walk(world.questions, step, 1, seed)[0]
        mates = [q for q in world.questions if q.cluster == question.cluster]
        views = rng(seed, step)
        own, other = same_views(question, 1, views)[0], transfer_views(question, mates, 1, views)[0]

        # Attempts; those that are right go on in the same conversation and write a point each.
        right, attempts = world.ask([question] * ATTEMPTS, [None] * ATTEMPTS, (seed, step, 1))
        request = prompts.reflection_turn(True, None, None)
        winners = [attempt for attempt, won in zip(attempts, right, strict=True) if won]
        between = [ids + chat.next(ids, request) for _, ids in winners]
        histories = [before + told for (before, _), told in zip(winners, between, strict=True)]
        turns = generate(policy, chat, histories, POINT_TOKENS, (seed, step, 2), world.graphs)
        texts = [prompts.parse_point(chat.text(ids)) for ids in turns]
        parsed = [i for i, text in enumerate(texts) if text]

        # Verification on the question itself and on another one; the other one without a point is the fresh baseline.
        said = [texts[i] for i in parsed]
        on = [own] * len(said) + [other] * len(said) + [other] * FRESH
        scores, _ = world.ask(on, said + said + [None] * FRESH, (seed, step, 3))
        same, elsewhere, fresh = np.split(scores, [len(said), 2 * len(said)])
        taken_off = right if loop.source_baseline else fresh
        gains = (same - right.mean()) + (elsewhere - taken_off.mean())
        advantages = torch.zeros(len(turns))
        advantages[parsed] = torch.tensor(gains if loop.signed else gains.clip(min=0), dtype=torch.float32)
        rollouts_mib, started = resident_mib(), time.perf_counter()

        # Update: REINFORCE on the points' tokens. Skipping leaves out what has no advantage.
        norm = None
        trained = [i for i in range(len(turns)) if advantages[i] or not loop.skip]
        if trained:
            trajectories = [Trajectory(winners[i][0], [(between[i], False), (turns[i], True)]) for i in trained]
            batch = collate(trajectories, packs(trajectories, True), policy.device)
            logprobs = token_logprobs(policy, batch, 1.0)
            policy_gradient(logprobs, advantages[trained][batch.owners], sum(map(len, turns))).backward()
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), loop.max_norm).item()
            optimizer.step()
            optimizer.zero_grad()

        written.append([library.essence(text) for text in said])
        log.append({
            "cluster": question.cluster, "attempt": float(right.mean()), "points": len(turns), "parsed": len(parsed),
            "same": float(np.mean(same - right.mean())) if said else None,
            "other": float(np.mean(elsewhere - fresh.mean())) if said else None,
            "norm": norm, "trained": len(trained), "positive": int((advantages > 0).sum()),
            "update_seconds": time.perf_counter() - started,
            "rollouts_mib": rollouts_mib - first_mib, "mib": resident_mib() - first_mib,
        })  # fmt: skip
        if step % CANARY_EVERY == 0:
            canaries.append([step, world.canary_accuracy(seed)])
        ended = why_collapsed(log[-1], [text for part in written[-WINDOW:] for text in part], canaries)
        if ended:
            break
    return {"collapsed": ended, "steps": len(log), "canary": canaries, "log": log}


def why_collapsed(step: dict, recent: list[str], canaries: list) -> str | None:
    """What makes a step a collapse: points that do not parse, all alike, or a canary that is down by 0.1."""
    if step["points"] and step["parsed"] < 0.5 * step["points"]:
        return "parse"
    if recent and len(set(recent)) < 0.05 * len(recent):
        return "alike"
    return "canary" if canaries[-1][1] < canaries[0][1] - 0.1 else None


# ---- the page ------------------------------------------------------------------------------------------------------
def last_canary(line: dict) -> float:
    return line["canary"][-1][1]


def rollouts_of(step: dict) -> int:
    """Turns that a step sampled: attempts, points, their answers, fresh ones."""
    return ATTEMPTS + step["points"] + 2 * step["parsed"] + FRESH


def row_of(arm: str, lines: list[dict]) -> dict:
    """What the table says of an arm, over all rates and seeds."""
    fallen = [line for line in lines if line["collapsed"]]
    steps = [step for line in lines for step in line["log"]]
    norms = [step["norm"] for step in steps if step["norm"] is not None]
    silent = [step for step in steps if step["points"] and not step["positive"]]
    peaks = [max(line["log"], key=lambda step: step["rollouts_mib"]) for line in lines]
    return {
        "arm": arm,
        "runs": len(lines),
        "collapsed": len(fallen),
        "why": {why: sum(line["collapsed"] == why for line in fallen) for why in ("parse", "alike", "canary")},
        "steps": float(np.median([line["steps"] for line in fallen])) if fallen else None,
        "canary": float(np.mean([last_canary(line) for line in lines])),
        "norm": [float(q) for q in np.quantile(norms, [0.1, 0.5, 0.9, 1.0])],
        "clipped": float(np.mean([norm > min(ARMS[arm].max_norm, 1e9) for norm in norms])),
        "peak_mib": float(np.mean([max(step["mib"], step["rollouts_mib"]) for step in peaks])),
        "mib_a_rollout": float(np.mean([step["rollouts_mib"] / rollouts_of(step) for step in peaks])),
        "update_seconds": float(np.mean([step["update_seconds"] for step in steps])),
        "without_signal": len(silent) / len(steps),
        "by_rate": {
            str(lr): [line["steps"] if line["collapsed"] else None for line in lines if line["run"]["lr"] == lr]
            for lr in sorted({line["run"]["lr"] for line in lines})
        },
    }


def fell_more(lines: dict[tuple, dict], arm: str, other: str = "all fixes") -> dict:
    """Share of runs that collapse, an arm minus another, paired by rate and seed; an interval over these pairs."""
    pairs = sorted((lr, seed) for name, lr, seed in lines if name == arm and (other, lr, seed) in lines)
    fell = [[lines[name, *pair]["collapsed"] is not None for pair in pairs] for name in (arm, other)]
    differences = np.array(fell[0], dtype=float) - np.array(fell[1], dtype=float)
    mean_, low, high = bootstrap_mean(differences)
    by_seed = {seed: [d for d, pair in zip(differences, pairs, strict=True) if pair[1] == seed] for _, seed in pairs}
    return {
        "contrast": f"{arm} minus {other}", "mean": mean_, "low": low, "high": high, "pairs": len(pairs),
        "by_seed": {str(seed): [float(d) for d in values] for seed, values in by_seed.items()},
    }  # fmt: skip


def records_of(lines: list[dict]) -> dict:
    """The table as records."""
    at = {(line["run"]["arm"], line["run"]["lr"], line["run"]["seed"]): line for line in lines}
    rows = [
        row_of(arm, [line for key, line in at.items() if key[0] == arm]) for arm in ARMS if any(arm == k[0] for k in at)
    ]
    contrasts = [fell_more(at, row["arm"]) for row in rows if row["arm"] != "all fixes"]
    return {"rows": rows, "contrasts": contrasts}


def blocks(lines: list[dict], records: dict) -> list[str | list[str]]:
    """The page."""
    rows = records["rows"]
    rates = list(rows[0]["by_rate"])
    grid = [
        [row["arm"], *(", ".join(str(s or "-") for s in row["by_rate"].get(rate, [])) for rate in rates)]
        for row in rows
    ]
    cells = []
    for row in rows:
        why = ", ".join(f"{n} {name}" for name, n in row["why"].items() if n) or "-"
        norm = "{:.2f}, {:.2f}, {:.2f}, {:.1f}".format(*row["norm"])
        memory = [f"{row['peak_mib']:,.0f}", f"{row['mib_a_rollout']:.1f}"]
        fell = f"{row['collapsed']} of {row['runs']}"
        shown = [row["arm"], fell, why, f"{row['canary']:.2f}", norm, f"{row['clipped']:.2f}"]
        cells.append([*shown, *memory, f"{row['update_seconds']:.2f}"])
    head = ["arm", "collapsed", "by", "canary at the end", "gradient norm: 10 %, median, 90 %, highest", "clipped"]
    told = [f"- {c['contrast']}: {shown_interval(c, '+.2f')} ({c['pairs']} pairs)" for c in records["contrasts"]]
    return [
        "# T1: what makes training collapse",
        "The paper's first loop with its faults (winners only, point tokens, one question a step, 32 attempts, plain "
        f"SGD), {len(lines)} runs, all of them. A run ends where it collapses: fewer than half of its points parse, "
        f"fewer than 5 % of those of {WINDOW} steps differ, or the canary is down by 0.1; else after {STEPS} steps.",
        "Step of the collapse, a number a seed; -: none.",
        markdown_table(["arm", *(f"lr {rate}" for rate in rates)], grid),
        markdown_table([*head, "peak MiB", "MiB a rollout", "s an update"], cells),
        "Memory is that of the process above what it had before the first step; 'clipped' the share of updates whose "
        "norm was above the arm's bound.",
        "Share of runs that collapse, paired by rate and seed; 95 % intervals over the pairs (primary: signed "
        "advantages):",
        told,
    ]


def draw(plt, records: dict):
    """Steps survived by arm and learning rate, a dot a seed."""
    rows = records["rows"]
    note = f"each dot a seed; {STEPS}: no collapse"
    worst = max(rows, key=lambda row: row["collapsed"])
    title = f"Most runs collapse with {worst['arm']}: {worst['collapsed']} of {worst['runs']}"
    figure, (axis,) = frame(plt, title, note, height=3.4, xlabel="steps before the collapse")
    for y, row in enumerate(rows[::-1]):
        for k, (rate, ends) in enumerate(row["by_rate"].items()):
            places = [end or STEPS for end in ends]
            label = f"lr {rate}" if y == 0 else None
            axis.plot(
                places, [y + 0.3 - 0.15 * k] * len(places), "o", color=f"C{k}", markersize=3.5, alpha=0.7, label=label
            )
    axis.set_yticks(range(len(rows)), [row["arm"] for row in rows[::-1]], fontsize=7)
    legend(axis, 3)
    return figure


def make(asked: Asked, run: dict) -> dict:
    return rounded(train(run["arm"], run["lr"], run["seed"], 2 if asked.quick else STEPS))


def main() -> None:
    asked = ask(__doc__)
    rates, seeds = ((0.1,), (0,)) if asked.quick else (RATES, SEEDS)
    runs = [{"arm": arm, "lr": lr, "seed": seed} for seed, lr, arm in product(seeds, rates, ARMS)]
    lines = make_missing(asked, "collapse", runs, make)
    records = records_of(lines)
    publish(asked, "collapse", lines, records, blocks(lines, records), draw)


if __name__ == "__main__":
    main()
