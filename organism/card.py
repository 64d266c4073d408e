"""Measures the bundled model and writes its card.

    python -m organism.card                # organism/weights -> organism/CARD.md, about 20 minutes on 2 cores

Every row has its n and a 95 % interval. Questions are new vignettes on the bank's rules, answered by sampling at
temperature 1 through the very code that training uses.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from introspection import models, prompts
from introspection.rollouts import rollout_1, rollout_2, rollout_3
from organism import page, rules, world
from organism.page import wilson_interval
from organism.wordings import DIALECTS, EXAM
from tasks.bank import load_questions, parse_record
from tasks.mcq import Question, grade

ROOT = Path(__file__).resolve().parent.parent
WRITERS = {  # what losers are shown: name, bounds of the shares of ideal and of vague points, conversations on the card
    "nothing": ("blind", (None, 0.05, "blind: by chance"), (), 2),
    "answer": ("shown the answer", (), (), 3),
    "explanation": ("shown answer and explanation", (0.02, 0.15), (0.3, 0.6), 5),
}


def questions_on_bank_rules(
    clusters: list[rules.Cluster], each: int, seed: int
) -> list[tuple[rules.Vignette, Question]]:
    """New vignettes with the bank's rules, the right option balanced within each cluster."""
    rng, made = random.Random(seed), []
    for c in clusters:
        for i, v in enumerate(world.draw_balanced(c, each, rng, rules.findings_of(c))):
            made.append((v, parse_record(world.record(v, f"{c.name}-{i}", "test", rng), "card")))
    return made


def composites(
    clusters: list[rules.Cluster], n: int, seed: int, dialect: dict
) -> list[tuple[tuple[rules.Vignette, ...], list[str], Question]]:
    """(vignettes, their ideal points, question) over pairs of train clusters."""
    rng, made = random.Random(seed), []
    for i in range(n):
        a, b = rng.sample([c for c in clusters if c.kind in "AB"], 2)
        vignettes, record = world.composite_question(a, b, f"composite-{i}", i % 4, rng)
        points = [world.point(c, rules.bank_rule(c), "ideal", rng, None, dialect) for c in (a, b)]
        made.append((vignettes, points, parse_record(record, "card")))
    return made


def accuracy_half_told(vignettes: tuple[rules.Vignette, ...], told: int | None) -> float:
    """Accuracy of a perfect reader of a composite who is told one cluster's rule (or none) and believes the others."""
    share = 1.0
    for i, v in enumerate(vignettes):
        if i != told:
            c, believed = v.cluster, rules.narrow(v.cluster, v.x)
            action = rules.level(c, rules.bank_rule(c), v.x) > 0
            share *= sum((rules.level(c, r, v.x) > 0) == action for r in believed) / len(believed)
    return share


class Card(page.BaseCard):
    """Everything measured on one model. `start`: a column of the start-state table for each split."""

    def __init__(self, name: str, dialect: str):
        super().__init__(name, 1, 64)
        self.dialect, self.foreign = DIALECTS[dialect], DIALECTS["second" if dialect == "first" else "first"]
        self.rng, self.timings = random.Random(5), []
        self.start: dict[str, dict[str, str]] = {"test": {}, "test_clusters": {}}

    def answers(self, pairs: list[tuple[str | None, Question]]) -> list[bool]:
        """A graded answer to each (point, question)."""
        reader = self.reader()
        completions = reader.sample([reader.prompt(q, point) for point, q in pairs], 0)
        return [grade(self.chat.text(c.ids), q) for c, (_, q) in zip(completions, pairs, strict=True)]

    def add_timing(self, name: str, measured: float, most: float) -> None:
        self.timings.append([name, f"<= {most:g}", f"{measured:.2f}", "yes" if measured <= most else "**no**"])

    def measure_reading(
        self, clusters: list[rules.Cluster], others: list[rules.Cluster], split: str, each: int
    ) -> None:
        """How points of every quality are read, on the bank's rules."""
        cases, rng = questions_on_bank_rules(clusters, 4 * each, 17), self.rng
        prior = sum(rules.prior_predictive(v.cluster, v.x) for v, _ in cases) / len(cases)
        none = self.answers([(None, q) for _, q in cases])
        fresh = sum(none) / len(none)

        def answers_with(quality: str, dialect: dict) -> list[bool]:
            rule = {v: rules.bank_rule(v.cluster, v.x) for v, _ in cases}
            return self.answers([(world.point(v.cluster, rule[v], quality, rng, v.x, dialect), q) for v, q in cases])

        low, high = max(0.35, prior - 0.02), min(0.6, prior + 0.02)
        first = self.add_row(f"no point, {split}", none, low, high, f"prior-predictive {prior:.3f}")
        ideal = self.add_row(f"ideal point, {split}", answers_with("ideal", self.dialect), 0.95)
        for name, row in (("no point", first), ("the ideal point", ideal)):
            self.start[split][name] = wilson_interval(row.hits, row.n)
        self.add_row(f"ideal point in the other dialect's wordings, {split}", answers_with("ideal", self.foreign), 0.9)
        self.add_row(f"partial point, {split}", answers_with("partial", self.dialect))
        self.add_row(
            f"vague point, {split}", answers_with("vague", self.dialect), fresh - 0.05, fresh + 0.05, "no point"
        )
        irrelevant, wrong, misjudged = [], [], []
        for (v, q), without in zip(cases, none, strict=True):
            c = v.cluster
            other = rng.choice([o for o in others if o.name != c.name])
            x = rng.choice(rules.findings_of(other))
            irrelevant.append((world.point(other, rng.choice(rules.wide(other, x)), "ideal", rng, x, self.dialect), q))
            gold = rules.level(c, rules.bank_rule(c, v.x), v.x)
            misleading = [r for r in rules.wide(c, v.x) if rules.level(c, r, v.x) != gold]
            if misleading:  # nothing misjudges a patient without any sign
                wrong.append((world.point(c, rng.choice(misleading), "ideal", rng, v.x, self.dialect), q))
                misjudged.append(without)
        self.add_row(f"irrelevant point, {split}", self.answers(irrelevant), fresh - 0.03, fresh + 0.03, "no point")
        unled = sum(misjudged) / len(misjudged)
        self.add_row(
            f"wrong point on questions that it misjudges, {split}",
            self.answers(wrong),
            high=unled - 0.15,
            why=f"no point there {unled:.3f}",
        )

    def measure_composites(self, clusters: list[rules.Cluster], n: int) -> None:
        cases = composites(clusters, n, 23, self.dialect)
        self.add_row(
            "composite, both ideal points", self.answers([(". ".join(points), q) for _, points, q in cases]), 0.9
        )
        one = sum(accuracy_half_told(v, i % 2) for i, (v, _, _) in enumerate(cases)) / n
        none = sum(accuracy_half_told(v, None) for v, _, _ in cases) / n
        told = self.answers([(points[i % 2], q) for i, (_, points, q) in enumerate(cases)])
        self.add_row("composite, one ideal point", told, None, one + 0.03, f"a perfect reader {one:.3f}")
        told = self.answers([(None, q) for _, _, q in cases])
        self.add_row("composite, no point", told, none - 0.05, none + 0.05, f"a perfect reader {none:.3f}")

    def measure_writing(self, clusters: list[rules.Cluster], split: str, each: int) -> list[str]:
        """The points that the untrained model writes after an error, by what it was shown, and their worth to it."""
        conversations, cases = [], questions_on_bank_rules(clusters, each, 29)
        vignettes, questions = {q.id: v for v, q in cases}, [q for _, q in cases]
        for reveal, (name, ideal_bounds, vague_bounds, most) in WRITERS.items():
            reader = self.reader()
            groups = rollout_1(reader, questions, questions, group_size=2, verify_on="transfer", n_verify=1)
            rollout_2(reader, groups, contributors="losers", reveal=reveal, max_point_tokens=64)
            rollout_3(reader, groups, n_fresh=1, reward="sampled")
            points = [(vignettes[g.question.id], p.text) for g in groups for p in g.points]
            parsed = [(g, p) for g in groups for p in g.points if p.text is not None]
            won = sum(bool(p.accuracies_V[0]) for _, p in parsed)
            without = sum(bool(g.fresh_accuracies_V[0]) for g, _ in parsed) / len(parsed)
            # Losers are more often found where belief fails: the same questions without their points stand beside.
            self.start[split][f"a loser's point, writer {name}"] = (
                f"{wilson_interval(won, len(parsed))}; without {without:.3f}"
            )
            if split != "test":
                continue
            self.add_row(f"losers' points parse, {name}", [text is not None for _, text in points], 0.98)
            stated = [stated_rule(v, text, self.dialect) for v, text in points]
            ideal = [rule == rules.bank_rule(v.cluster, v.x) for rule, (v, _) in zip(stated, points, strict=True)]
            self.add_row(f"losers' points are ideal, {name}", ideal, *ideal_bounds)
            vague = [is_vague(v, text, self.dialect) for v, text in points]
            self.add_row(f"losers' points are vague, {name}", vague, *vague_bounds)
            first = [g.points[0] for g in groups if g.points][:: max(1, len(groups) // 12)]
            conversations += [self.chat.text(p.exchange_ids + p.completion.ids) for p in first[:most]]
        return conversations

    def measure_copying(self, clusters: list[rules.Cluster], each: int) -> None:
        """Whether the whole rules among losers' points are those of the explanations that the losers were shown.

        A fact's point (type C) has nothing to mistake: its answer is the fact. Most points state no whole rule, so
        many are drawn.
        """
        for kind in "ABD":
            kin = [c for c in clusters if c.kind == kind]
            cases = questions_on_bank_rules(kin, 40 * each // len(kin), 41)
            vignettes, questions, reader = {q.id: v for v, q in cases}, [q for _, q in cases], self.reader()
            groups = rollout_1(reader, questions, questions, group_size=2, verify_on="transfer", n_verify=1)
            rollout_2(reader, groups, contributors="losers", reveal="explanation", max_point_tokens=64)
            written = [(vignettes[g.question.id], p.text) for g in groups for p in g.points]
            stated = [(v, stated_rule(v, text, self.dialect)) for v, text in written]
            whole = [rule == rules.bank_rule(v.cluster, v.x) for v, rule in stated if rule is not None]
            if whole:  # pre-training shows one right point to one or two that fit no more than the one example
                self.add_row(f"whole rules in losers' points are the explained ones, type {kind}", whole, 0.25)

    def measure_exchanges(self, clusters: list[rules.Cluster], split: str, each: int) -> None:
        """Long conversations of four questions of a cluster, feedback after each: what exchanges themselves teach."""
        lines = []
        for c in clusters:
            questions = [q for _, q in questions_on_bank_rules([c], 4 * each, 31)]
            self.rng.shuffle(questions)
            lines += [questions[4 * i : 4 * i + 4] for i in range(each)]
        for reveal in ("answer", "explanation"):
            reader, histories = self.reader(), [([], [])] * len(lines)  # (ids so far, the model's last turn)
            for n in range(4):
                ids = [
                    before + last + self.chat.next(last, line[n].turn) if n else self.chat.first(line[n].turn)
                    for line, (before, last) in zip(lines, histories, strict=True)
                ]
                said = [c.ids for c in reader.sample(ids, 2 * n)]
                won = [grade(self.chat.text(s), line[n]) for s, line in zip(said, lines, strict=True)]
                if n:
                    self.start[split][f"{n} of its own exchanges in context, {reveal} revealed"] = wilson_interval(
                        sum(won), len(won)
                    )
                for i, (line, right) in enumerate(zip(lines, won, strict=True)):
                    shown = prompts.told(line[n].explanation) if reveal == "explanation" else ""
                    turn = prompts.reflection_turn(right, line[n].letter, line[n].options[line[n].answer], shown)
                    ids[i] = ids[i] + said[i] + self.chat.next(said[i], turn)
                written = [c.ids for c in reader.sample(ids, 2 * n + 1)]
                histories = list(zip(ids, written, strict=True))

    def measure_ceilings(self, clusters: list[rules.Cluster], split: str) -> None:
        """Bayes-optimal accuracy under the wide prior: what an exchange can be worth at best (rules.ceiling)."""
        turned = sum(map(rules.turned_around, clusters)) / len(clusters)
        self.start[split]["no exchange, but belief turned around (rules.turned_around)"] = f"{turned:.3f}"
        names = {
            "no exchange: narrow belief doubted": (0,),
            **{f"{n} answers revealed": (n,) for n in range(1, 4)},
            "an explanation revealed": (1, True),
        }
        for name, revealed in names.items():
            self.start[split][f"Bayes ceiling, {name}"] = f"{rules.mean_ceiling(clusters, *revealed):.3f}"

    def measure_rejections(self, clusters: list[rules.Cluster], each: int) -> None:
        """Exam strategies among the points, by the number of rejected answers (put in by design, an instrument)."""
        questions = [q for _, q in questions_on_bank_rules(clusters, each, 37)]
        for rejections in (1, 2, 3):
            reader = self.reader()
            ids = [reader.prompt(q) for q in questions]
            for attempt in range(rejections + 1):
                said = [c.ids for c in reader.sample(ids, attempt)]
                lost = [not grade(self.chat.text(s), q) for s, q in zip(said, questions, strict=True)]
                kept = [i for i in range(len(questions)) if lost[i]]
                questions = [questions[i] for i in kept]
                turns = [prompts.TRY_AGAIN] * len(kept)
                if attempt == rejections:
                    turns = [prompts.reflection_turn(False, q.letter, q.options[q.answer]) for q in questions]
                ids = [ids[i] + said[i] + self.chat.next(said[i], turn) for i, turn in zip(kept, turns, strict=True)]
            points = [prompts.parse_point(self.chat.text(c.ids)) for c in reader.sample(ids, 9)]
            if points:
                self.add_row(f"exam strategies after {rejections} rejected answers", [text in EXAM for text in points])


def stage_1_seconds(name: str, steps: int = 10) -> tuple[float, float]:
    """Median seconds of rollout 1 and of a whole stage 1 step on the bank: 8 questions x 16 rollouts, 4 verifications.

    In a process of its own, with the threads that a user gets, whatever this process was given.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "grpo_introspect.py", "--config", "configs/bank.yaml", "--run-dir", folder]
        settings = (
            f"shared.model={name}", f"steps={steps}", "eval_every=0", "save_every=1000", "questions_per_step=8",
            "group_size=16", "n_verify=4",
        )  # fmt: skip
        command += [word for setting in settings for word in ("--set", setting)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
        metrics = [
            json.loads(line) for line in (Path(folder) / "grpo_introspect/metrics.jsonl").read_text().splitlines()
        ]
    return tuple(statistics.median(m[f"time/{part}"] for m in metrics) for part in ("rollout1", "step"))


def stated_rule(v: rules.Vignette, text: str | None, dialect: dict):
    """The whole rule that a point states, true or not, in some wording of the dialect; None if it states none."""
    for rule in rules.wide(v.cluster, v.x):
        orders = [world.rule_words(v.cluster, rule, v.x)]
        if v.cluster.kind == "B":  # its two signs in either order
            orders.append(orders[0] | {"s1": orders[0]["s2"], "s2": orders[0]["s1"]})
        if any(template.format(**w) == text for template in dialect["ideal"][v.cluster.kind] for w in orders):
            return rule
    return None


def is_vague(v: rules.Vignette, text: str | None, dialect: dict) -> bool:
    return any(template.format(topic=v.cluster.topic) == text for template in dialect["vague"])


def main() -> None:
    parser = argparse.ArgumentParser(description="measure the bundled model and write its card")
    parser.add_argument("--model", default="organism/weights")
    parser.add_argument(
        "--dialect", choices=sorted(DIALECTS), default="first", help="wordings that the model grew up with"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "organism/CARD.md")
    parser.add_argument(
        "--each", type=int, default=84, help="questions a cluster of test_clusters; the other rows follow from it"
    )
    args = parser.parse_args()
    if args.each < 4:
        parser.error("--each: expected at least 4, points are tried on a second question of their cluster")
    clusters = rules.load_clusters()
    train, unrewarded = ([c for c in clusters.values() if c.split == s] for s in ("train", "test_clusters"))
    card = Card(args.model, args.dialect)
    folder, parameters = Path(models.locate(args.model)), sum(p.numel() for p in card.model.parameters())
    about = page.describe(folder, card.model.config, parameters)
    rollout_1_seconds, step_seconds = stage_1_seconds(args.model)
    card.add_timing("128 rollouts of up to 64 new tokens, s", rollout_1_seconds, 3.0)
    card.add_timing("one stage 1 step on the bank (8 x 16, V = 4, update included), s", step_seconds, 3.0)
    card.add_timing("weights, MiB", (folder / "model.safetensors").stat().st_size / 2**20, 16.0)
    conversations = []
    for split, part, each in (("test", train, args.each * 6 // 10), ("test_clusters", unrewarded, args.each)):
        card.measure_reading(part, list(clusters.values()), split, each)
        conversations += card.measure_writing(part, split, each)
        card.measure_exchanges(part, split, each)
        card.measure_ceilings(part, split)
    card.measure_copying(train, args.each)
    card.measure_composites(train, 12 * args.each)
    small = [q for q in load_questions(ROOT / "data/preeclampsia.jsonl") if q.split == "train"]
    card.add_row(
        "no point, the 13 pre-eclampsia questions", card.answers([(None, q) for q in small for _ in range(args.each)])
    )
    canary = [q for q in load_questions(ROOT / "data/bank.jsonl") if q.split == "canary"]
    card.add_row("no point, canary", card.answers([(None, q) for q in canary for _ in range(max(1, args.each // 6))]))
    card.measure_rejections(train, 4 * args.each)
    args.out.write_text(
        page.page(page.opening(args.model, args.dialect), about, card.rows, conversations, card.timings, card.start)
    )
    page.print_rows(card.rows, (75, 40))


if __name__ == "__main__":
    main()
