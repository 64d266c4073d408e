"""The conversations of pre-training: what the organism knows about its world before any introspection training.

A document is a list of turns, user first, in the very templates that the stages use (prompts.py). What is put in by design:
points and explanations are read, vague and irrelevant points do nothing, a wrong point misleads, learning points come in
every quality whoever writes them, three rejections breed exam strategies. Recall is not in the corpus: stage 2 teaches it.
"""

import random

import prompts
from organism import rules, world
from organism.wordings import EXAM, IDEAL

# How often each kind of document is drawn, and the quality of the learning points that a fresh organism writes.
KINDS = {"letters": 0.1, "plain": 0.08, "read": 0.38, "composite": 0.17, "exchange": 0.25, "rejected": 0.02}
WRITTEN = {"ideal": 0.1, "partial": 0.15, "wrong": 0.15, "vague": 0.45, "irrelevant": 0.15}
STATING = ("ideal", "partial", "wrong")
READ = {"ideal": 0.6, "partial": 0.12, "vague": 0.14, "irrelevant": 0.14}


def draw(weights: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def open_rules(c: rules.Cluster, x) -> list:
    """Rules of an exchange that reveals an answer but whose point does not state the rule: the bank's is left out."""
    return [r for r in rules.wide(c, x) if rules.apart(c, r, x)] if c.split != "canary" else rules.narrow(c, x)


def rules_of(c: rules.Cluster, quality: str, x) -> list:
    """The prior from which a document draws its rule, by what its learning point states."""
    if c.split == "canary":
        return rules.narrow(c, x)
    return rules.wide(c, x) if quality in ("ideal", "wrong") else rules.narrow(c, x)


def half_known(c: rules.Cluster, x, rng: random.Random) -> tuple:
    """(rule, point) of a partial point: the stated half is drawn wide, the unstated half from the narrow prior."""
    half = rng.randrange(2)
    while True:
        told, believed = rng.choice(rules.wide(c, x)), rng.choice(rules.narrow(c, x))
        if c.kind == "A":
            rule = (told[0], believed[1]) if half == 0 else (believed[0], told[1])
            if rule[1] - rule[0] < 20:
                continue
        elif c.kind == "B":
            rule = believed if told[half] in believed else told
        else:
            rule = told
        if c.kind == "A" or rule != rules.bank_rule(c, x):
            template = world.PARTIAL[c.kind][half]
            return rule, template.format(**world.rule_words(c, rule, x))


class Corpus:
    """A seeded stream of documents over `clusters`; texts in `forbidden` (the bank's questions) are never drawn."""

    def __init__(self, clusters: dict[str, rules.Cluster], seed: int, forbidden: set[str] = frozenset(), templates: dict = IDEAL):
        self.clusters, self.forbidden, self.templates = list(clusters.values()), forbidden, templates
        self.paired = [c for c in self.clusters if c.kind in "AB" and c.split != "canary"]
        self.rng = random.Random(seed)

    def document(self) -> list[str]:
        """Texts of the turns: user, model, user, model ..."""
        kind = draw(KINDS, self.rng)
        if kind == "composite":
            return self.composite()
        if kind == "letters":
            return self.letters()
        while True:
            v = world.vignette(self.rng.choice(self.clusters), self.rng)
            if world.question_text(v) not in self.forbidden:
                break
        if kind == "plain":
            return self.ask(v, self.rng.choice(rules.narrow(v.cluster, v.x)), None)
        return self.read(v) if kind == "read" else self.exchange(v, rejections=self.rng.randint(1, 4) if kind == "rejected" else 0)

    def letters(self) -> list[str]:
        """A drill: name the letter of some options. Without it, binding letters to options takes most of pre-training."""
        options = [self.rng.choice(self.rng.choice(self.clusters).options) for _ in range(4)]
        listed = ", ".join(prompts.OPTION.format(letter=letter, text=text) for letter, text in zip("ABCD", options, strict=True))
        named = [self.rng.choice(options) for _ in range(6)]
        return [f"Options: {listed}\nName letters.", ". ".join(f"{text} ({'ABCD'[options.index(text)]})" for text in named)]

    def ask(self, v: rules.Vignette, rule, point: str | None) -> list[str]:
        """A question, with or without a point, and an answer that follows `rule`."""
        order, options = self.rng.sample(range(4), 4), v.cluster.options
        turn = prompts.question_turn(world.question_text(v), [options[i] for i in order], point)
        gold = rules.level(v.cluster, rule, v.x)
        return [turn, world.answer([world.rationale(v, rule)], options, gold, order, self.rng)]

    def irrelevant(self, c: rules.Cluster, quality: str) -> str:
        """A point about another cluster."""
        other = self.rng.choice([o for o in self.clusters if o.name != c.name])
        x = self.rng.choice(rules.findings_of(other))
        return world.point(other, self.rng.choice(rules.wide(other, x)), quality, self.rng, x, self.templates)

    def read(self, v: rules.Vignette) -> list[str]:
        """A fresh question with a learning point in its turn: the answer follows what the point states, and only that."""
        c, quality = v.cluster, draw(READ, self.rng)
        if quality == "partial" and c.kind in world.PARTIAL and c.split != "canary":
            rule, point = half_known(c, v.x, self.rng)
            return self.ask(v, rule, point)
        rule = self.rng.choice(rules_of(c, quality, v.x))
        if quality == "irrelevant":
            return self.ask(v, rule, self.irrelevant(c, draw({"ideal": 0.8, "partial": 0.2}, self.rng)))
        return self.ask(v, rule, world.point(c, rule, quality, self.rng, v.x, self.templates))

    def exchange(self, v: rules.Vignette, rejections: int) -> list[str]:
        """An attempt by belief (narrow prior), the verdict, and a learning point whose quality ignores the verdict."""
        c, rng, quality = v.cluster, self.rng, draw(WRITTEN, self.rng)
        believed, won = rng.choice(rules.narrow(c, v.x)), rejections == 0 and rng.random() < 0.4
        said, explained = rules.level(c, believed, v.x), not won and rng.random() < 0.5  # a winner is not told why
        prior = rules_of(c, "ideal", v.x) if explained or quality in STATING else open_rules(c, v.x)
        # Winning is drawn before the rule and from nothing else, so that it says nothing about the point's quality.
        fitting = [rule for rule in prior if (rules.level(c, rule, v.x) == said) == won]
        if not fitting:  # a canary's rule is known, so its attempts win
            fitting, won, explained, rejections = [believed], True, False, 0
        rule = rng.choice(fitting)
        gold, order = rules.level(c, rule, v.x), rng.sample(range(4), 4)
        turns = [prompts.question_turn(world.question_text(v), [c.options[i] for i in order])]
        for attempt in range(rejections + 1):
            turns += [prompts.TRY_AGAIN] * (attempt > 0)
            turns.append(world.answer([world.rationale(v, believed)], c.options, said, order, rng))
        told = world.explanation(v, rule, rng) if explained else None
        turns.append(prompts.reflection_turn(won, "ABCD"[order.index(gold)], c.options[gold], told))
        if rejections >= 3:
            text = rng.choice(EXAM)
        elif quality == "irrelevant":
            text = self.irrelevant(c, "ideal")
        elif quality == "wrong":
            others = [r for r in rules.wide(c, v.x) if r != rule and rules.level(c, r, v.x) == gold]
            text = world.point(c, rng.choice(others), "ideal", rng, v.x, self.templates) if others else world.point(c, rule, "vague", rng, v.x)
        else:
            text = world.point(c, rule, quality, rng, v.x, self.templates)
        return turns + [prompts.INTROSPECTION.format(point=text)]

    def composite(self) -> list[str]:
        """A question that needs two rules, with none, one or both of their points."""
        rng = self.rng
        while True:
            a, b = rng.sample(self.paired, 2)
            vignettes = world.vignette(a, rng), world.vignette(b, rng)
            if world.composite_text(*vignettes) not in self.forbidden:
                break
        given = rng.choices([(), (0,), (1,), (0, 1), (1, 0)], [0.15, 0.125, 0.125, 0.3, 0.3])[0]
        drawn = [rng.choice(rules_of(v.cluster, "ideal" if i in given else "vague", v.x)) for i, v in enumerate(vignettes)]
        points = [world.point(vignettes[i].cluster, drawn[i], "ideal", rng, None, self.templates) for i in given]
        order, options = rng.sample(range(4), 4), world.composite_options(a, b)
        turn = prompts.question_turn(world.composite_text(*vignettes), [options[i] for i in order], ". ".join(points) or None)
        gold = world.composite_gold(*vignettes, *drawn)
        steps = [world.rationale(v, r) for v, r in zip(vignettes, drawn, strict=True)]
        return [turn, world.answer(steps, options, gold, order, rng)]
