"""Measures the bundled model and writes its card.

    python -m organism.card                # organism/weights -> organism/CARD.md, a few minutes on 2 cores

Every row has its n and a 95 % interval. Questions are new vignettes on the bank's rules, answered by sampling at
temperature 1 through the very code that training uses.
"""

import argparse
import hashlib
import random
import time
from pathlib import Path

import models
import prompts
from introspection import rollout_1, rollout_2
from measure import Reader
from organism import rules, world
from organism.wordings import IDEAL, UNSEEN, VAGUE
from rollout import Chat, sample
from tasks.mcq import Question, grade, load_questions, parse_record

ROOT = Path(__file__).resolve().parent.parent


def questions_on_bank_rules(clusters: list[rules.Cluster], each: int, seed: int) -> list[tuple[rules.Vignette, Question]]:
    """New vignettes with the bank's rules, the right option balanced within each cluster."""
    rng, made = random.Random(seed), []
    for c in clusters:
        for i, v in enumerate(world.balanced(c, each, rng, rules.findings_of(c))):
            made.append((v, parse_record(world.record(v, f"{c.name}-{i}", "test", rng), "card")))
    return made


def composites(clusters: list[rules.Cluster], n: int, seed: int) -> list[tuple[list[str], Question]]:
    """(the two ideal points, question) over pairs of train clusters."""
    rng, made = random.Random(seed), []
    for i in range(n):
        a, b = rng.sample([c for c in clusters if c.kind in "AB"], 2)
        record = world.composite_record(a, b, f"composite-{i}", i % 4, rng)
        points = [world.point(c, rules.bank_rule(c), "ideal", rng) for c in (a, b)]
        made.append((points, parse_record(record, "card")))
    return made


def interval(hits: float, n: int) -> str:
    """'0.52 [0.49, 0.55], n 1000' with Wilson's 95 % interval."""
    p, z = hits / n, 1.96
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return f"{p:.3f} [{middle - half:.3f}, {middle + half:.3f}], n {n}"


class Card:
    def __init__(self, name: str):
        tokenizer = models.load_tokenizer(name)
        self.model = models.load_policy(name, models.Shared(model=name))
        self.chat = Chat(tokenizer, models.eos_ids(name, tokenizer))
        self.phase, self.rows, self.rng = 0, [], random.Random(5)

    def answers(self, pairs: list[tuple[str | None, Question]]) -> list[bool]:
        self.phase += 1
        reader = Reader(self.model, self.chat, 1.0, 64, (0, 1, self.phase))
        completions = reader.sample([reader.prompt(q, point) for point, q in pairs], 0)
        return [grade(self.chat.text(c.ids), q) for c, (_, q) in zip(completions, pairs, strict=True)]

    def row(self, name: str, must: str, graded: list[bool]) -> float:
        self.rows.append((name, must, interval(sum(graded), len(graded))))
        return sum(graded) / len(graded)

    def reading(self, clusters: list[rules.Cluster], others: list[rules.Cluster], split: str, each: int) -> None:
        """How points of every quality are read, on the bank's rules."""
        cases, rng = questions_on_bank_rules(clusters, each, 17), self.rng
        prior = sum(rules.prior_predictive(v.cluster, v.x) for v, _ in cases) / len(cases)
        self.row(f"no point, {split}", f"0.35 to 0.60, within 0.02 of the prior-predictive {prior:.3f}", self.answers([(None, q) for _, q in cases]))

        def told(quality: str, templates: dict = IDEAL) -> list[tuple[str, Question]]:
            return [(world.point(v.cluster, rules.bank_rule(v.cluster, v.x), quality, rng, v.x, templates), q) for v, q in cases]

        self.row(f"ideal point, {split}", ">= 0.95", self.answers(told("ideal")))
        self.row(f"ideal point, unseen wordings, {split}", ">= 0.90", self.answers(told("ideal", UNSEEN)))
        self.row(f"partial point, {split}", "", self.answers(told("partial")))
        self.row(f"vague point, {split}", "within 0.05 of no point", self.answers(told("vague")))
        irrelevant = []
        for v, q in cases:
            other = rng.choice([o for o in others if o.name != v.cluster.name])
            x = rng.choice(rules.findings_of(other))
            irrelevant.append((world.point(other, rng.choice(rules.wide(other, x)), "ideal", rng, x), q))
        self.row(f"irrelevant point, {split}", "within 0.03 of no point", self.answers(irrelevant))
        wrong = []
        for v, q in cases:
            gold = rules.level(v.cluster, rules.bank_rule(v.cluster, v.x), v.x)
            misleading = [r for r in rules.wide(v.cluster, v.x) if rules.level(v.cluster, r, v.x) != gold]
            if misleading:  # nothing misjudges a patient without any sign
                wrong.append((world.point(v.cluster, rng.choice(misleading), "ideal", rng, v.x), q))
        self.row(f"wrong point on questions that it misjudges, {split}", "0.15 below no point", self.answers(wrong))

    def composite(self, clusters: list[rules.Cluster], n: int) -> None:
        cases = composites(clusters, n, 23)
        self.row("composite, both ideal points", ">= 0.90", self.answers([(". ".join(points), q) for points, q in cases]))
        self.row("composite, one ideal point", "<= 0.70", self.answers([(points[i % 2], q) for i, (points, q) in enumerate(cases)]))
        self.row("composite, no point", "", self.answers([(None, q) for _, q in cases]))

    def writing(self, clusters: list[rules.Cluster], each: int) -> list[str]:
        """The points that the untrained model writes, by what it was shown; returns ten of its conversations."""
        shown = []
        for reveal in ("explanation", "answer"):
            cases = questions_on_bank_rules(clusters, each, 29)
            reader = Reader(self.model, self.chat, 1.0, 64, (0, 2, len(reveal)))
            questions = [q for _, q in cases]
            groups = rollout_1(reader, questions, questions, group_size=4, verify_on="transfer", n_verify=1)
            rollout_2(reader, groups, contributors="losers", reveal=reveal, max_point_tokens=64)
            points = [(v, p.text) for (v, _), g in zip(cases, groups, strict=True) for p in g.points]
            ideal = [text is not None and states_rule(v, text) for v, text in points]
            vague = [text is not None and is_vague(v, text) for v, text in points]
            self.row(f"points written by losers parse, reveal {reveal}", ">= 0.98", [text is not None for _, text in points])
            self.row(f"  of them ideal, reveal {reveal}", "0.02 to 0.15", ideal)
            self.row(f"  of them vague, reveal {reveal}", "0.30 to 0.60", vague)
            shown += [self.chat.text([*p.prompt_ids, *p.attempt.ids, *p.turn_ids, *p.completion.ids]) for g in groups[:: len(groups) // 5] for p in g.points[:1]]
        return shown[:10]

    def speed(self) -> float:
        """Seconds for 128 rollouts of up to 64 new tokens on 8 questions."""
        questions = load_questions(ROOT / "data/bank.jsonl")[:8]
        prompt_ids = [self.chat.first(prompts.question_turn(q.question, list(q.options))) for q in questions]
        start = time.perf_counter()
        sample(self.model, prompt_ids, 16, 64, 1.0, sorted(self.chat.eos_ids), [(9, i) for i in range(128)])
        return time.perf_counter() - start


def states_rule(v: rules.Vignette, text: str) -> bool:
    """Whether a point is the ideal one in some wording of the corpus."""
    words = world.rule_words(v.cluster, rules.bank_rule(v.cluster, v.x), v.x)
    if v.cluster.kind == "B":
        swapped = words | {"s1": words["s2"], "s2": words["s1"]}
        return any(t.format(**w) == text for t in IDEAL["B"] for w in (words, swapped))
    return any(template.format(**words) == text for template in IDEAL[v.cluster.kind])


def is_vague(v: rules.Vignette, text: str) -> bool:
    return any(template.format(topic=v.cluster.topic) == text for template in VAGUE)


def write_card(card: Card, name: str, conversations: list[str], note: str) -> str:
    """The card as Markdown: what the model is, every measured row, ten conversations."""
    config = card.model.config
    weights = models.locate(name) + "/model.safetensors"
    lines = [
        "# The bundled model", "",
        "Generated by `python -m organism.card`. A small Llama, pre-trained from nothing on the synthetic clinical world of",
        "`organism/world.py`; **nothing here is medical advice**. Topics are shared between pre-training and bank; question texts and",
        "hidden rules are not (tests hold that). Put in by design: points and explanations are read, vague and irrelevant points do",
        "nothing, wrong points mislead, points come in every quality whoever writes them, three rejections breed exam strategies.",
        "Not put in: recall, and writing the right point.", "",
        f"- architecture: Llama, {sum(p.numel() for p in card.model.parameters()):,} parameters, width {config.hidden_size}, "
        f"{config.num_hidden_layers} layers, {config.num_attention_heads} heads, vocabulary {config.vocab_size}; two pairs of heads start as induction heads",
        f"- weights: {Path(weights).stat().st_size / 2**20:.1f} MiB, sha256 {hashlib.sha256(Path(weights).read_bytes()).hexdigest()}",
        *([f"- build: {note}"] if note else []), "",
        "| property | must be | measured |", "|---|---|---|",
        *(f"| {name} | {must} | {measured} |" for name, must, measured in card.rows), "",
        "## Ten conversations of the untrained writer", "",
        *(f"```\n{text}\n```" for text in conversations), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="measure the bundled model and write its card")
    parser.add_argument("--model", default="organism/weights")
    parser.add_argument("--out", type=Path, default=ROOT / "organism/CARD.md")
    parser.add_argument("--note", default="", help="how the weights were built, for the card")
    parser.add_argument("--each", type=int, default=84, help="questions a cluster")
    args = parser.parse_args()
    clusters = rules.load_clusters()
    by_split = {s: [c for c in clusters.values() if c.split == s] for s in ("train", "test_clusters", "canary")}
    card = Card(args.model)
    everyone = list(clusters.values())
    card.reading(by_split["train"], everyone, "test", args.each * 6 // 10)
    card.reading(by_split["test_clusters"], everyone, "test_clusters", args.each)
    card.composite(by_split["train"], 12 * args.each)
    cluster = [q for q in load_questions(ROOT / "data/preeclampsia.jsonl") if q.split == "train"]
    card.row("no point, the 13 pre-eclampsia questions", "", card.answers([(None, q) for q in cluster for _ in range(100)]))
    canary = [q for q in load_questions(ROOT / "data/bank.jsonl") if q.split == "canary"]
    card.row("canary, no point", "", card.answers([(None, q) for q in canary for _ in range(13)]))
    conversations = card.writing(by_split["train"], args.each // 4)
    card.rows.append(("128 rollouts of up to 64 tokens, this machine", "<= 3 s", f"{card.speed():.2f} s"))
    args.out.write_text(write_card(card, args.model, conversations, args.note))
    for name, must, measured in card.rows:
        print(f"{name:60s} {must:60s} {measured}")


if __name__ == "__main__":
    main()
