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
from introspection.reader import Reader
from introspection.rollouts import Group, rollout_1, rollout_2, rollout_3
from organism import rules, world
from organism.page import Row, describe, interval, opening, page
from organism.wordings import DIALECTS, EXAM
from tasks.mcq import Question, grade, load_questions, parse_record

ROOT = Path(__file__).resolve().parent.parent


def questions_on_bank_rules(
    clusters: list[rules.Cluster], each: int, seed: int
) -> list[tuple[rules.Vignette, Question]]:
    """New vignettes with the bank's rules, the right option balanced within each cluster."""
    rng, made = random.Random(seed), []
    for c in clusters:
        for i, v in enumerate(world.balanced(c, each, rng, rules.findings_of(c))):
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


def half_known(vignettes: tuple[rules.Vignette, ...], told: int | None) -> float:
    """Accuracy of a perfect reader of a composite who is told the rule of one cluster (or of none) and believes the other."""
    share = 1.0
    for i, v in enumerate(vignettes):
        if i != told:
            c, believed = v.cluster, rules.narrow(v.cluster, v.x)
            action = rules.level(c, rules.bank_rule(c), v.x) > 0
            share *= sum((rules.level(c, r, v.x) > 0) == action for r in believed) / len(believed)
    return share


class Card:
    """Everything measured on one model. `start`: a column of the start-state table for each split."""

    def __init__(self, name: str, dialect: str):
        self.model = models.load_policy(name, models.Shared(model=name))
        self.chat = models.load_chat(name)
        self.dialect, self.foreign = DIALECTS[dialect], DIALECTS["second" if dialect == "first" else "first"]
        self.phase, self.rng = 0, random.Random(5)
        self.rows: list[Row] = []
        self.timings: list[list[str]] = []
        self.start: dict[str, dict[str, str]] = {}

    def reader(self) -> Reader:
        self.phase += 1
        return Reader(self.model, self.chat, 1.0, 64, (0, 1, self.phase))

    def answers(self, pairs: list[tuple[str | None, Question]]) -> list[bool]:
        """A graded answer to each (point, question)."""
        reader = self.reader()
        completions = reader.sample([reader.prompt(q, point) for point, q in pairs], 0)
        return [grade(self.chat.text(c.ids), q) for c, (_, q) in zip(completions, pairs, strict=True)]

    def row(
        self, name: str, graded: list[bool], low: float | None = None, high: float | None = None, why: str = ""
    ) -> Row:
        """Intervals treat answers as independent: they are, one answer a question, for these clusters."""
        self.rows.append(Row(name, sum(graded), len(graded), low, high, why))
        return self.rows[-1]

    def timing(self, name: str, measured: float, most: float) -> None:
        self.timings.append([name, f"<= {most:g}", f"{measured:.2f}", "yes" if measured <= most else "**no**"])

    def reading(self, clusters: list[rules.Cluster], others: list[rules.Cluster], split: str, each: int) -> None:
        """How points of every quality are read, on the bank's rules."""
        cases, rng = questions_on_bank_rules(clusters, 4 * each, 17), self.rng
        prior = sum(rules.prior_predictive(v.cluster, v.x) for v, _ in cases) / len(cases)
        none = self.answers([(None, q) for _, q in cases])
        fresh = sum(none) / len(none)

        def told(quality: str, dialect: dict) -> list[bool]:
            rule = {v: rules.bank_rule(v.cluster, v.x) for v, _ in cases}
            return self.answers([(world.point(v.cluster, rule[v], quality, rng, v.x, dialect), q) for v, q in cases])

        low, high = max(0.35, prior - 0.02), min(0.6, prior + 0.02)
        first = self.row(f"no point, {split}", none, low, high, f"prior-predictive {prior:.3f}")
        ideal = self.row(f"ideal point, {split}", told("ideal", self.dialect), 0.95)
        self.start[split] = {
            "no point": interval(first.hits, first.n),
            "the ideal point": interval(ideal.hits, ideal.n),
        }
        self.row(f"ideal point in the other dialect's wordings, {split}", told("ideal", self.foreign), 0.9)
        self.row(f"partial point, {split}", told("partial", self.dialect))
        self.row(f"vague point, {split}", told("vague", self.dialect), fresh - 0.05, fresh + 0.05, "no point")
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
        self.row(f"irrelevant point, {split}", self.answers(irrelevant), fresh - 0.03, fresh + 0.03, "no point")
        unled = sum(misjudged) / len(misjudged)
        self.row(
            f"wrong point on questions that it misjudges, {split}",
            self.answers(wrong),
            None,
            unled - 0.15,
            f"no point there {unled:.3f}",
        )

    def composite(self, clusters: list[rules.Cluster], n: int) -> None:
        cases = composites(clusters, n, 23, self.dialect)
        self.row("composite, both ideal points", self.answers([(". ".join(points), q) for _, points, q in cases]), 0.9)
        one, none = (
            sum(half_known(v, told and told[i % 2]) for i, (v, _, _) in enumerate(cases)) / n for told in ((0, 1), None)
        )
        graded = self.answers([(points[i % 2], q) for i, (_, points, q) in enumerate(cases)])
        self.row("composite, one ideal point", graded, None, one + 0.03, f"a perfect reader {one:.3f}")
        self.row(
            "composite, no point",
            self.answers([(None, q) for _, _, q in cases]),
            none - 0.05,
            none + 0.05,
            f"a perfect reader {none:.3f}",
        )

    def writing(self, clusters: list[rules.Cluster], split: str, each: int) -> list[str]:
        """The points that the untrained model writes after an error, by what it was shown, and what they are worth to it."""
        conversations = []
        cases = questions_on_bank_rules(clusters, each, 29)
        vignettes, questions = {q.id: v for v, q in cases}, [q for _, q in cases]
        for reveal in ("nothing", "answer", "explanation"):
            reader = self.reader()
            groups = rollout_1(reader, questions, questions, group_size=2, verify_on="transfer", n_verify=1)
            rollout_2(reader, groups, contributors="losers", reveal=reveal, max_point_tokens=64)
            rollout_3(reader, groups, n_fresh=1, reward="sampled")
            points = [(vignettes[g.question.id], p.text) for g in groups for p in g.points]
            parsed = [(g, p) for g in groups for p in g.points if p.text is not None]
            pairs = [(bool(p.accuracies_V[0]), bool(g.fresh_accuracies_V[0])) for g, p in parsed]
            on_others, without = zip(*pairs, strict=True)
            name = {"nothing": "blind", "answer": "shown the answer", "explanation": "shown answer and explanation"}[
                reveal
            ]
            # Losers are more often found where belief fails: the same questions without their points stand beside.
            self.start[split][f"a loser's point, writer {name}"] = (
                f"{interval(sum(on_others), len(on_others))}; without {sum(without) / len(without):.3f}"
            )
            if split != "test":
                continue
            explained = reveal == "explanation"
            self.row(f"losers' points parse, {name}", [text is not None for _, text in points], 0.98)
            stated = [rule_stated(v, text, self.dialect) for v, text in points]
            ideal = [rule == rules.bank_rule(v.cluster, v.x) for rule, (v, _) in zip(stated, points, strict=True)]
            bounds = {"explanation": (0.02, 0.15), "answer": (None, None), "nothing": (None, 0.05)}[reveal]
            self.row(f"losers' points are ideal, {name}", ideal, *bounds, "blind: by chance" * (reveal == "nothing"))
            vague = [is_vague(v, text, self.dialect) for v, text in points]
            self.row(f"losers' points are vague, {name}", vague, *((0.3, 0.6) if explained else (None, None)))
            chosen = [g for g in groups if g.points][:: max(1, len(groups) // 12)]
            conversations += self.conversations(chosen)[: {"nothing": 2, "answer": 3, "explanation": 5}[reveal]]
        return conversations

    def copying(self, clusters: list[rules.Cluster], each: int) -> None:
        """Whether the whole rules among losers' points are those of the explanations that the losers were shown.

        A fact's point (type C) has nothing to mistake: its answer is the fact. Most points state no whole rule, so many are drawn.
        """
        for kind in "ABD":
            kin = [c for c in clusters if c.kind == kind]
            cases = questions_on_bank_rules(kin, 40 * each // len(kin), 41)
            vignettes, reader = {q.id: v for v, q in cases}, self.reader()
            groups = rollout_1(
                reader, [q for _, q in cases], [q for _, q in cases], group_size=2, verify_on="transfer", n_verify=1
            )
            rollout_2(reader, groups, contributors="losers", reveal="explanation", max_point_tokens=64)
            stated = [
                (v, rule_stated(v, p.text, self.dialect))
                for g in groups
                for p in g.points
                for v in [vignettes[g.question.id]]
            ]
            whole = [rule == rules.bank_rule(v.cluster, v.x) for v, rule in stated if rule is not None]
            if whole:  # pre-training shows one right point to one or two that fit no more than the one example
                self.row(f"whole rules in losers' points are the explained ones, type {kind}", whole, 0.25)

    def conversations(self, groups: list[Group]) -> list[str]:
        return [self.chat.text(p.exchange_ids + p.completion.ids) for g in groups for p in g.points[:1]]

    def exchanges(self, clusters: list[rules.Cluster], split: str, each: int) -> None:
        """Long conversations of four questions of a cluster, feedback after each: what the exchanges themselves teach."""
        lines = []
        for c in clusters:
            questions = [q for _, q in questions_on_bank_rules([c], 4 * each, 31)]
            self.rng.shuffle(questions)
            lines += [questions[4 * i : 4 * i + 4] for i in range(each)]
        for reveal in ("answer", "explanation"):
            reader, histories = self.reader(), [None] * len(lines)  # (ids so far, the model's last turn)
            for n in range(4):
                asked = [line[n].turn for line in lines]
                ids = [
                    h[0] + h[1] + self.chat.next(h[1], turn) if h else self.chat.first(turn)
                    for h, turn in zip(histories, asked, strict=True)
                ]
                said = [c.ids for c in reader.sample(ids, 2 * n)]
                won = [grade(self.chat.text(s), line[n]) for s, line in zip(said, lines, strict=True)]
                if n:
                    self.start[split][f"{n} of its own exchanges in context, {reveal} revealed"] = interval(
                        sum(won), len(won)
                    )
                for i, (line, right) in enumerate(zip(lines, won, strict=True)):
                    shown = prompts.told(line[n].explanation) if reveal == "explanation" else ""
                    turn = prompts.reflection_turn(right, line[n].letter, line[n].options[line[n].answer], shown)
                    histories[i] = ids[i] + said[i] + self.chat.next(said[i], turn)
                written = [c.ids for c in reader.sample(histories, 2 * n + 1)]
                histories = list(zip(histories, written, strict=True))

    def ceilings(self, clusters: list[rules.Cluster], split: str) -> None:
        """Bayes-optimal accuracy under the wide prior: what an exchange can be worth at best (rules.ceiling)."""
        turned = sum(map(rules.turned_around, clusters)) / len(clusters)
        self.start[split]["no exchange, but belief turned around (rules.turned_around)"] = f"{turned:.3f}"
        for n in range(4):
            name = (
                "Bayes ceiling, no exchange: narrow belief doubted"
                if n == 0
                else f"Bayes ceiling, {n} answers revealed"
            )
            self.start[split][name] = f"{sum(rules.ceiling(c, n) for c in clusters) / len(clusters):.3f}"
        self.start[split]["Bayes ceiling, an explanation revealed"] = (
            f"{sum(rules.ceiling(c, 1, True) for c in clusters) / len(clusters):.3f}"
        )

    def rejected(self, clusters: list[rules.Cluster], each: int) -> None:
        """Exam strategies among the points, by the number of rejected answers (an instrument that was put in by design)."""
        questions = [q for _, q in questions_on_bank_rules(clusters, each, 37)]
        for rejections in (1, 2, 3):
            reader = self.reader()
            ids = [reader.prompt(q) for q in questions]
            for attempt in range(rejections + 1):
                said = [c.ids for c in reader.sample(ids, attempt)]
                lost = [not grade(self.chat.text(s), q) for s, q in zip(said, questions, strict=True)]
                kept = [i for i in range(len(questions)) if lost[i]]
                told = [
                    prompts.reflection_turn(False, questions[i].letter, questions[i].options[questions[i].answer])
                    for i in kept
                ]
                turns = told if attempt == rejections else [prompts.TRY_AGAIN] * len(kept)
                ids = [ids[i] + said[i] + self.chat.next(said[i], turn) for i, turn in zip(kept, turns, strict=True)]
                questions = [questions[i] for i in kept]
            points = [prompts.parse_point(self.chat.text(c.ids)) for c in reader.sample(ids, 9)]
            if points:
                self.row(f"exam strategies after {rejections} rejected answers", [text in EXAM for text in points])


def stage_1_seconds(name: str, steps: int = 10) -> tuple[float, float]:
    """Median seconds of rollout 1 and of a whole stage 1 step on the bank: 8 questions x 16 rollouts, 4 verification questions.

    In a process of its own, with the threads that a user gets, whatever this process was given.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"shared.model={name}",
            f"steps={steps}",
            "eval_every=0",
            "save_every=1000",
            "questions_per_step=8",
            "group_size=16",
            "n_verify=4",
        ]
        command = [sys.executable, "grpo_introspect.py", "--config", "configs/bank.yaml", "--run-dir", folder]
        subprocess.run(
            command + [word for s in settings for word in ("--set", s)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            env=environment,
        )
        metrics = [
            json.loads(line) for line in (Path(folder) / "grpo_introspect/metrics.jsonl").read_text().splitlines()
        ]
    return tuple(statistics.median(m[f"time/{part}"] for m in metrics) for part in ("rollout1", "step"))


def rule_stated(v: rules.Vignette, text: str | None, dialect: dict):
    """The whole rule that a point states, true or not, in some wording of the dialect; None if it states none."""
    for rule in rules.wide(v.cluster, v.x):
        words = world.rule_words(v.cluster, rule, v.x)
        swapped = words | {"s1": words["s2"], "s2": words["s1"]} if v.cluster.kind == "B" else words
        if any(template.format(**w) == text for template in dialect["ideal"][v.cluster.kind] for w in (words, swapped)):
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
    about = describe(
        Path(models.locate(args.model)), card.model.config, sum(p.numel() for p in card.model.parameters())
    )
    rollout_1_seconds, step_seconds = stage_1_seconds(args.model)
    card.timing("128 rollouts of up to 64 new tokens, s", rollout_1_seconds, 3.0)
    card.timing("one stage 1 step on the bank (8 x 16, V = 4, update included), s", step_seconds, 3.0)
    card.timing("weights, MiB", Path(models.locate(args.model), "model.safetensors").stat().st_size / 2**20, 16.0)
    conversations = []
    for split, part, each in (("test", train, args.each * 6 // 10), ("test_clusters", unrewarded, args.each)):
        card.reading(part, list(clusters.values()), split, each)
        conversations += card.writing(part, split, each)
        card.exchanges(part, split, each)
        card.ceilings(part, split)
    card.copying(train, args.each)
    card.composite(train, 12 * args.each)
    small = [q for q in load_questions(ROOT / "data/preeclampsia.jsonl") if q.split == "train"]
    card.row(
        "no point, the 13 pre-eclampsia questions", card.answers([(None, q) for q in small for _ in range(args.each)])
    )
    canary = [q for q in load_questions(ROOT / "data/bank.jsonl") if q.split == "canary"]
    card.row("no point, canary", card.answers([(None, q) for q in canary for _ in range(max(1, args.each // 6))]))
    card.rejected(train, 4 * args.each)
    args.out.write_text(
        page(opening(args.model, args.dialect), about, card.rows, card.timings, card.start, conversations)
    )
    for row in card.rows:
        print(f"{row.name:75s} {row.must:40s} {interval(row.hits, row.n)}{'   <- missed' if row.met is False else ''}")


if __name__ == "__main__":
    main()
