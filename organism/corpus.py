"""The conversations of pre-training: what the organism knows about its world before any introspection training.

A document is a list of turns, user first, in the very templates that the stages use (prompts.py). What is put in by
design: points and explanations are read, vague and irrelevant points do nothing, a wrong point misleads, learning
points come in every quality whoever writes them, three rejections breed exam strategies. Recall is not in the
corpus: stage 2 teaches it. A model turn may be a pair (given, said): `given` is put into its mouth and never
trained, only read.
"""

import random
from dataclasses import dataclass

from introspection import prompts
from organism import rules, world
from organism.wordings import EXAM, FIRST


@dataclass(frozen=True)
class Mix:
    """How often each kind of document and each type of cluster is drawn, and what the points that are read are like."""

    kinds: dict[str, float]
    types: dict[str, float]  # C and D have few clusters, and are as hard to read as the others
    loose: float  # share of stated rules that are worded loosely where a document reads them
    read: dict[str, float]


EARLY = Mix(
    {"letters": 0.04, "cases": 0.2, "plain": 0.07, "read": 0.31, "composite": 0.15, "exchange": 0.14, "follow": 0.05,
     "similar": 0.02, "rejected": 0.02},
    {"A": 0.42, "B": 0.32, "C": 0.1, "D": 0.16}, 0.3,
    {"ideal": 0.52, "partial": 0.1, "vague": 0.1, "irrelevant": 0.16, "several": 0.12},
)  # fmt: skip
# The second phase. After the first alone, whole points of type A named the thresholds of the explanation 6 times in
# 100 (type B its signs 53 times; early steps of stage 1): too few documents ask for it (docs/LOG.md).
LATE = Mix(
    {"letters": 0.02, "cases": 0.08, "plain": 0.05, "read": 0.24, "composite": 0.1, "exchange": 0.18, "follow": 0.04,
     "similar": 0.02, "rejected": 0.02, "retell": 0.25},
    {"A": 0.5, "B": 0.22, "C": 0.12, "D": 0.16}, 0.4,
    {"ideal": 0.48, "partial": 0.1, "vague": 0.1, "irrelevant": 0.2, "several": 0.12},
)  # fmt: skip
# The quality of the points that a fresh organism writes, whoever writes them; what losers are shown beside the answer.
WRITTEN = {"ideal": 0.1, "partial": 0.15, "wrong": 0.15, "vague": 0.45, "irrelevant": 0.15}
REVEALED = {"explanation": 0.4, "answer": 0.35, "peer": 0.15, "nothing": 0.1}  # to losers; winners are told nothing
LETTERS = prompts.LETTERS[:4]


def draw(weights: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def states(c: rules.Cluster, reveal: str) -> bool:
    """Whether feedback to a loser states the rule: a peer of type B names both signs, type C's answer is the fact."""
    return reveal == "explanation" or (c.kind == "B" and reveal == "peer") or (c.kind == "C" and reveal != "nothing")


def partial_point(c: rules.Cluster, x, dialect: dict, rng: random.Random) -> tuple:
    """(rule, point) of a partial point: the stated half is drawn wide, the unstated half from the narrow prior."""
    half = rng.randrange(2)
    while True:
        stated, believed = rng.choice(rules.wide(c, x)), rng.choice(rules.narrow(c, x))
        if c.kind == "A":
            rule = (stated[0], believed[1]) if half == 0 else (believed[0], stated[1])
            if rule[1] - rule[0] < 20:
                continue
        elif c.kind == "B":
            rule = believed if stated[half] in believed else stated
        else:
            rule = stated
        if c.kind == "A" or rule != rules.bank_rule(c, x):
            return rule, world.point(c, rule, "partial", rng, x, dialect, half)


class Corpus:
    """A seeded stream of documents over `clusters`; texts in `forbidden` (the bank's questions) are never drawn."""

    def __init__(
        self,
        clusters: dict[str, rules.Cluster],
        seed: int,
        forbidden: set[str] = frozenset(),
        dialect: dict = FIRST,
        mix: Mix = EARLY,
    ):
        self.clusters, self.forbidden, self.dialect, self.mix = list(clusters.values()), forbidden, dialect, mix
        self.paired = [c for c in self.clusters if c.kind in "AB" and c.split != "canary"]
        self.rng = random.Random(seed)

    def document(self) -> list:
        """Turns: user, model, user, model ..."""
        kind = draw(self.mix.kinds, self.rng)
        alone = {
            "letters": self.letters,
            "cases": self.cases,
            "composite": self.composite,
            "follow": self.follow,
            "retell": self.retell,
        }
        if kind in alone:
            return alone[kind]()
        v = self.vignette(self.cluster())
        if kind == "plain":
            return self.ask(v, self.rng.choice(rules.narrow(v.cluster, v.x)))
        if kind == "rejected":
            return self.exchange(v, rejections=self.rng.randint(1, 4))
        return {"read": self.read, "similar": self.similar, "exchange": self.exchange}[kind](v)

    def cluster(self) -> rules.Cluster:
        kind = draw(self.mix.types, self.rng)
        return self.rng.choice([c for c in self.clusters if c.kind == kind])

    def state_rule(self, c: rules.Cluster, rule, x=None) -> str:
        """A whole rule, to be read."""
        if self.rng.random() < self.mix.loose:
            return world.loose(c, rule, self.rng, x)
        return self.point(c, rule, "ideal", x)

    def point(self, c: rules.Cluster, rule, quality: str, x) -> str:
        return world.point(c, rule, quality, self.rng, x, self.dialect)

    def vignette(self, c: rules.Cluster) -> rules.Vignette:
        while True:
            v = world.vignette(c, self.rng)
            if world.question_text(v) not in self.forbidden:
                return v

    # ---- single answers --------------------------------------------------------------------------------------------
    def letters(self) -> list:
        """A drill: the letters of some options. Without it, binding letters to options takes most of pre-training."""
        options = [self.rng.choice(self.rng.choice(self.clusters).options) for _ in range(4)]
        named = [self.rng.choice(options) for _ in range(6)]
        said = ". ".join(f"{text} ({LETTERS[options.index(text)]})" for text in named)
        return [f"Options: {prompts.list_options(options)}\nName letters.", said]

    def cases(self) -> list:
        """A drill: a point and many findings. One answer is one bit about reading a threshold, these are six."""
        rng, c = self.rng, self.cluster()
        rule = rng.choice(rules.stated_prior(c, "ideal", rng.choice(rules.findings_of(c))))
        xs = [rule[0]] if c.kind == "C" else rng.choices(rules.findings_of(c), k=6 if c.kind == "A" else 3)
        point = self.state_rule(c, rule, xs[0])
        vignettes = [world.vignette(c, rng, x) for x in xs]
        named = [f": {c.options[rules.level(c, rule, v.x)]}" if c.kind in "AB" else "" for v in vignettes]
        said = [world.rationale(v, rule) + level for v, level in zip(vignettes, named, strict=True)]
        return [f"{point}\nCases: {'; '.join(world.fact(v) for v in vignettes)}", ". ".join(said)]

    def retell(self) -> list:
        """A drill: the rules that explanations state, in the words of learning points; alone or in feedback.

        Asked for in words of its own, so that it does not change what is written when a learning point is asked for.
        """
        rng, told = self.rng, []
        if rng.random() < 0.5:
            for _ in range(rng.randint(2, 3)):
                v = self.vignette(self.cluster())
                told.append((v, rng.choice(rules.stated_prior(v.cluster, "ideal", v.x))))
            asked = [" ".join(world.explanation(v, rule, rng) for v, rule in told) + "\nName the rules."]
        else:
            v, rule, wrong = self.correction("explanation")
            told, order = [(v, rule)], self.order()
            gold, shown = rules.level(v.cluster, rule, v.x), self.beside_answer(v, rule, order, "explanation")
            feedback = prompts.LOSER.format(
                letter=LETTERS[order.index(gold)], answer=v.cluster.options[gold], told=shown, ask="Name the rules."
            )
            asked = [self.turn(v, order), (self.answer(v, rng.choice(wrong), order), ""), feedback]
        return [*asked, ". ".join(self.point(v.cluster, rule, "ideal", v.x) for v, rule in told)]

    def order(self) -> list[int]:
        return self.rng.sample(range(4), 4)

    def turn(self, v: rules.Vignette, order: list[int], point: str | None = None) -> str:
        return prompts.question_turn(world.question_text(v), [v.cluster.options[i] for i in order], point)

    def answer(self, v: rules.Vignette, rule, order: list[int], silent: float = 0.2) -> str:
        gold = rules.level(v.cluster, rule, v.x)
        return world.answer([world.rationale(v, rule)], v.cluster.options, gold, order, self.rng, silent)

    def ask(self, v: rules.Vignette, rule, point: str | None = None) -> list:
        """A question, with or without a point, and an answer that follows `rule`.

        Now and then the point stands where a recalled one would, in the model's own turn; writing it there is not
        taught.
        """
        order = self.order()
        if point is not None and self.rng.random() < 0.12:
            return [self.turn(v, order), (prompts.INTROSPECTION.format(point=point), self.answer(v, rule, order))]
        return [self.turn(v, order, point), self.answer(v, rule, order)]

    def similar(self, v: rules.Vignette) -> list:
        """Another question of the cluster, on request: what stage 3 varies its input with."""
        options = prompts.list_options([v.cluster.options[i] for i in self.order()])
        asked = prompts.SIMILAR.format(question=world.question_text(v), options=options)
        return [asked, world.question_text(self.vignette(v.cluster))]

    # ---- reading ---------------------------------------------------------------------------------------------------
    def irrelevant(self, c: rules.Cluster, x) -> str:
        """A point about something else: half the time of the same kind; stand-alone facts of the same cluster too."""
        rng = self.rng
        others = [o for o in self.clusters if o.name != c.name and (o.kind == c.kind or rng.random() < 0.5)]
        other = c if c.kind == "C" and rng.random() < 0.5 else rng.choice(others)
        x = rng.choice([f for f in rules.findings_of(other) if other is not c or f != x])
        rule, quality = rng.choice(rules.wide(other, x)), draw({"ideal": 0.75, "partial": 0.15, "vague": 0.1}, rng)
        return self.point(other, rule, quality, x)

    def read(self, v: rules.Vignette) -> list:
        """A fresh question with learning points in its turn: the answer follows what they state, and only that."""
        c, quality = v.cluster, draw(self.mix.read, self.rng)
        if quality == "partial" and c.kind in self.dialect["partial"] and c.split != "canary":
            return self.ask(v, *partial_point(c, v.x, self.dialect, self.rng))
        if quality == "several":  # as a whole library in context; two times in three its own point is among them
            points = [self.irrelevant(c, v.x) for _ in range(self.rng.randint(1, 3))]
            quality = draw({"ideal": 2, "irrelevant": 1}, self.rng)
        else:
            points = [self.irrelevant(c, v.x)]  # drawn for every quality, or the stream would be another
            points = points if quality == "irrelevant" else []
        rule = self.rng.choice(rules.stated_prior(c, quality, v.x))
        if quality != "irrelevant":
            own = self.point(c, rule, quality, v.x) if quality != "ideal" else self.state_rule(c, rule, v.x)
            points.insert(self.rng.randint(0, len(points)), own)
        return self.ask(v, rule, ". ".join(points))

    def composite(self) -> list:
        """A question that needs two rules, with none, one or both of their points. Two steps are never left unsaid."""
        rng = self.rng
        while True:
            a, b = rng.sample(self.paired, 2)
            vignettes = world.vignette(a, rng), world.vignette(b, rng)
            if world.composite_text(*vignettes) not in self.forbidden:
                break
        given = rng.choices([(), (0,), (1,), (0, 1), (1, 0)], [0.1, 0.1, 0.1, 0.35, 0.35])[0]
        kinds = ["ideal" if i in given else "vague" for i in range(2)]
        drawn = [rng.choice(rules.stated_prior(v.cluster, k, v.x)) for k, v in zip(kinds, vignettes, strict=True)]
        points = ". ".join(self.state_rule(vignettes[i].cluster, drawn[i]) for i in given)
        order, options = self.order(), world.composite_options(a, b)
        turn = prompts.question_turn(world.composite_text(*vignettes), [options[i] for i in order], points or None)
        steps = [world.rationale(v, r) for v, r in zip(vignettes, drawn, strict=True)]
        return [turn, world.answer(steps, options, world.composite_gold(*vignettes, *drawn), order, rng, silent=0)]

    def correction(self, reveal: str) -> tuple:
        """(vignette, rule, rules that answer it wrongly): an attempt has to fail, or nothing would be revealed."""
        c = self.rng.choice([c for c in self.clusters if c.split != "canary"])
        while True:
            v = self.vignette(c)
            rule = self.rng.choice(rules.wide(c, v.x) if states(c, reveal) else rules.open_prior(c, v.x))
            wrong = self.doubted(v, rules.level(c, rule, v.x))
            if wrong:
                return v, rule, wrong

    def doubted(self, v: rules.Vignette, gold: int) -> list:
        """Rules that keep the margin from the bank's and answer otherwise."""
        c = v.cluster
        return [r for r in rules.wide(c, v.x) if rules.apart(c, r, v.x) and rules.level(c, r, v.x) != gold]

    # ---- exchanges -------------------------------------------------------------------------------------------------
    def beside_answer(self, v: rules.Vignette, rule, order: list[int], reveal: str) -> str:
        """What stands beside the right answer in the feedback."""
        if reveal == "explanation":
            return prompts.told(explanation=world.explanation(v, rule, self.rng))
        return prompts.told(peer=self.answer(v, rule, order, silent=0)) if reveal == "peer" else ""

    def feedback(self, v: rules.Vignette, believed, rule, order: list[int], reveal: str, optional: bool) -> str:
        """The user turn after an attempt by belief, when `rule` holds."""
        gold, said = (rules.level(v.cluster, r, v.x) for r in (rule, believed))
        letter = None if reveal == "nothing" else LETTERS[order.index(gold)]
        shown = self.beside_answer(v, rule, order, reveal) if said != gold else ""
        return prompts.reflection_turn(said == gold, letter, v.cluster.options[gold], shown, optional)

    def write_point(self, v: rules.Vignette, rule, quality: str) -> str:
        """The learning point of an exchange; a wrong one fits the one example that was seen."""
        c, gold = v.cluster, rules.level(v.cluster, rule, v.x)
        if c.kind == "C" and quality in ("partial", "wrong"):  # a fact has no half, and no other fits the same answer
            quality = "vague"
        if quality == "irrelevant":
            return self.irrelevant(c, v.x)
        if quality == "wrong":
            others = [r for r in rules.wide(c, v.x) if r != rule and rules.level(c, r, v.x) == gold]
            rule, quality = (self.rng.choice(others), "ideal") if others else (rule, "vague")
        return self.point(c, rule, quality, v.x)

    def exchange(self, v: rules.Vignette, rejections: int = 0) -> list:
        """Attempts by belief (narrow prior), the verdict, and a learning point whose quality ignores the verdict."""
        c, rng, quality = v.cluster, self.rng, draw(WRITTEN, self.rng)
        if rejections >= 3:
            quality = "vague"  # exam strategies state nothing
        optional = rng.random() < 0.15
        if optional and rng.random() < 0.4:
            quality = "none"
        believed = rng.choice(rules.narrow(c, v.x))
        said = rules.level(c, believed, v.x)
        # Winning is drawn before the rule and from nothing else, so that it says nothing about the point's quality.
        won = rejections == 0 and rng.random() < 0.4
        against = [r for r in rules.open_prior(c, v.x) if rules.level(c, r, v.x) != said]
        if not against:  # always so on a canary, whose rule is known
            won, rejections = True, 0
        reveal = "answer" if won else draw(REVEALED, rng)
        if quality == "ideal" or (not won and states(c, reveal)):
            prior = rules.stated_prior(c, "ideal", v.x)
        else:
            prior = rules.narrow(c, v.x) if reveal == "nothing" else rules.open_prior(c, v.x)
        fitting = [r for r in prior if (rules.level(c, r, v.x) == said) == won]
        rule, order = rng.choice(fitting or against), self.order()  # against: nothing revealed, belief unanimous
        gold = rules.level(c, rule, v.x)
        turns = [self.turn(v, order), self.answer(v, believed, order)]
        for _ in range(rejections):  # each new attempt is another belief that is wrong, or the same one again
            turns += [prompts.TRY_AGAIN, self.answer(v, rng.choice(self.doubted(v, gold) or [believed]), order)]
        turns.append(self.feedback(v, believed, rule, order, reveal, optional))
        if rejections >= 3:
            text = rng.choice(EXAM)
        else:
            text = "" if quality == "none" else self.write_point(v, rule, quality)
        turns.append(prompts.INTROSPECTION.format(point=text))
        if not won and rejections == 0 and rng.random() < 0.12:  # the same question once more, now knowing better
            turns += [prompts.TRY_AGAIN, self.answer(v, rule, order)]
        return turns

    def follow(self) -> list:
        """What an exchange is worth by itself: feedback on one to three questions, then another one of the cluster.

        Or feedback that stands in the question's own turn.
        """
        rng, reveal = self.rng, draw({"explanation": 0.5, "answer": 0.4, "peer": 0.1}, self.rng)
        v, rule, wrong = self.correction(reveal)
        c = v.cluster
        if rng.random() < 0.25:
            order = self.order()
            gold, told = rules.level(c, rule, v.x), self.beside_answer(v, rule, order, reveal)
            feedback = prompts.FEEDBACK.format(answer=c.options[gold], letter=LETTERS[order.index(gold)], told=told)
            return [self.turn(v, order) + feedback, self.answer(v, rule, order)]
        turns, believed = [], rng.choice([r for r in wrong if r in rules.narrow(c, v.x)] or wrong)
        for _ in range(rng.choices([1, 2, 3], [0.6, 0.25, 0.15])[0]):
            order, known = self.order(), rule if c.kind != "C" or v.x == rule[0] else rng.choice(rules.narrow(c, v.x))
            # The attempts are given, not trained: after the first feedback the model should know better.
            attempt = (self.answer(v, believed, order), "")
            turns += [self.turn(v, order), attempt, self.feedback(v, believed, known, order, reveal, False)]
            turns.append(prompts.INTROSPECTION.format(point=self.write_point(v, known, draw(WRITTEN, rng))))
            v = self.vignette(c)
            believed = rng.choice(rules.narrow(c, v.x))
        return turns + self.ask(v, rule if c.kind != "C" or v.x == rule[0] else believed)
