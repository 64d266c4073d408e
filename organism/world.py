"""The synthetic clinical world in words: vignettes, learning points, explanations, and the question bank.

    python -m organism.world --out data/bank.jsonl                       # rebuilds the committed bank byte for byte
    python -m organism.world --preeclampsia --out data/preeclampsia.jsonl
    python -m organism.world --points ideal --out data/points_ideal.jsonl
    python -m organism.world --points wrong --out data/points_wrong.jsonl

The rules behind it are in rules.py, the words in wordings.py. Not medical advice.
"""

import argparse
import itertools
import json
import random
from pathlib import Path

from organism.rules import (
    Cluster,
    Vignette,
    apart,
    bank_rule,
    findings_of,
    level,
    load_clusters,
    question_weights,
    wide,
)
from organism.wordings import ASIDES, ASK, COMPOSITE, DECIDING, FILLERS, FINDINGS, FIRST, LEVEL, PHRASINGS


# ---- text ----------------------------------------------------------------------------------------------------------
def number(c: Cluster, severity: int) -> str:
    value = c.low + 90 - severity if c.falls else c.low + severity
    return f"{value}/{value - 50}" if c.pair else str(value)


def normal(sign: str) -> str:
    """The wording of a sign that is absent."""
    return f"no {sign}"


def fact(v: Vignette) -> str:
    c = v.cluster
    if c.kind == "A":
        return f"{c.value} {number(c, v.x)}"
    if c.kind == "B":
        return ", ".join(c.signs[i] if v.x[i] else normal(c.signs[i]) for i in v.sign_order)
    return c.subjects[v.x] if c.kind == "C" else c.features[v.x]


def question_text(v: Vignette) -> str:
    c = v.cluster
    return PHRASINGS[v.phrasing].format(who=c.who, topic=c.topic, fact=fact(v), extra=v.extra, ask=ASK[c.kind])


def rule_words(c: Cluster, rule, x=None) -> dict[str, str]:
    """The words that templates may use about a rule."""
    words = {"topic": c.topic, "value": c.value, "at": "below" if c.falls else "from"}
    words |= {f"a{i}": option for i, option in enumerate(c.options)}
    if c.kind == "A":
        words |= {"t1": number(c, rule[0]), "t2": number(c, rule[1])}
    elif c.kind == "B":
        words |= {"s1": c.signs[rule[0]], "s2": c.signs[rule[1]]}
    elif c.kind == "C":
        words |= {"subject": c.subjects[rule[0]], "opt": c.options[rule[1]]}
    else:
        words |= {f"f{i}": f for i, f in enumerate(c.features)} | {f"m{i}": c.options[r] for i, r in enumerate(rule)}
    return words


def explanation(v: Vignette, rule, rng: random.Random) -> str:
    """Three true sentences, one of which holds the deciding detail."""
    words = rule_words(v.cluster, rule, v.x)
    sentences = [a.format(extra=v.extra, **words) for a in rng.sample(ASIDES, 2)]
    sentences.insert(rng.randrange(3), DECIDING[v.cluster.kind].format(**words))
    return " ".join(sentences)


def point(
    c: Cluster, rule, quality: str, rng: random.Random, x=None, dialect: dict = FIRST, half: int | None = None
) -> str:
    """A learning point of the given quality: ideal states the whole rule, partial one half of it, vague nothing."""
    words = rule_words(c, rule, x)
    if quality == "ideal":
        return rng.choice(dialect["ideal"][c.kind]).format(**words)
    if quality == "partial" and c.kind in dialect["partial"]:
        halves = dialect["partial"][c.kind]
        return rng.choice(halves[rng.randrange(2) if half is None else half]).format(**words)
    return rng.choice(dialect["vague"]).format(**words)


def loose(c: Cluster, rule, rng: random.Random, x=None) -> str:
    """A whole rule in a wording of its own: its parts in any order, stray words between them. Only read, never written.

    Five to eight fixed templates are learned by heart; readers of loose wordings read templates that they have
    never seen.
    """
    w = rule_words(c, rule, x)
    if c.kind == "A":
        at = rng.choice(["{at} {t}", "{value} {at} {t}", "{t}"])
        parts = [(w[f"a{i}"], at.format(t=w[f"t{i}"], **w)) for i in (1, 2)]
    elif c.kind == "B":
        parts = [(w["s1"],), (w["s2"],)]
    else:
        parts = [(w["subject"], w["opt"])] if c.kind == "C" else [(w[f"f{i}"], w[f"m{i}"]) for i in range(3)]
    rng.shuffle(parts)
    turned = rng.random() < 0.5
    between = " ".join(["", *stray_words(rng), ""])  # the same words within each part, as a template has them
    said = [between.join(part[::-1] if turned else part) for part in parts]
    words = stray_words(rng) + ([c.topic] if rng.random() < 0.5 else []) + stray_words(rng)
    words += [rng.choice([", ", " and ", " but ", "; ", ", "]).join(said), *stray_words(rng)]
    return " ".join(" ".join(words).split()).replace(" ,", ",").replace(" ;", ";")


def stray_words(rng: random.Random) -> list[str]:
    return rng.sample(FILLERS, rng.choice([0, 0, 1, 1, 2]))


def rationale(v: Vignette, rule) -> str:
    """The reasoning step that a rule allows: severity (A), the state of the two key signs (B), the fact itself (C, D).

    A fact is named and its option follows at once, as it does in most wordings: with 'points to' between them the
    model had not begun to tell three mechanisms apart after 5,000 steps (docs/LOG.md).
    """
    c, gold = v.cluster, level(v.cluster, rule, v.x)
    if c.kind == "A":
        return f"{c.value} {number(c, v.x)} is {LEVEL[gold]}"
    if c.kind == "B":
        return " and ".join(c.signs[i] if v.x[i] else normal(c.signs[i]) for i in rule)
    return f"{fact(v)} {c.options[gold]}"


def answer(
    rationales: list[str], options: list[str], gold: int, order: list[int], rng: random.Random, silent: float = 0.2
) -> str:
    """A model turn: a short rationale (left out one time in five), then the text of option `gold` and its letter."""
    thought = "" if rng.random() < silent else ", ".join(rationales) + ". "
    return f"{thought}Answer: {options[gold]} ({'ABCD'[order.index(gold)]})"


# ---- vignettes and the bank ----------------------------------------------------------------------------------------
def vignette(c: Cluster, rng: random.Random, x=None) -> Vignette:
    order = tuple(rng.sample(range(4), 4))
    x = rng.choice(findings_of(c)) if x is None else x
    return Vignette(c, x, rng.randrange(len(PHRASINGS)), ", ".join(rng.sample(FINDINGS, 2)), order)


def draw_balanced(c: Cluster, n: int, rng: random.Random, xs: list) -> list[Vignette]:
    """n different vignettes over the findings `xs`, the right option as evenly spread as the cluster allows."""
    by_level: dict[int, list] = {}
    for x in xs:
        by_level.setdefault(level(c, bank_rule(c, x), x), []).append(x)
    found: dict[str, Vignette] = {}
    levels = itertools.cycle(sorted(by_level))
    while len(found) < n:
        v = vignette(c, rng, rng.choice(by_level[next(levels)]))
        found.setdefault(question_text(v), v)
    return list(found.values())


def record(v: Vignette, name: str, split: str, rng: random.Random) -> dict:
    """A question record (docs/reference.md, 'Records'), options shuffled, with a twin for each other option."""
    c, rule = v.cluster, bank_rule(v.cluster, v.x)
    gold, order = level(c, rule, v.x), rng.sample(range(4), 4)
    twins, seen = [], {gold}
    for x in rng.sample(findings_of(c), len(findings_of(c))):
        other = level(c, bank_rule(c, x), x)
        if other not in seen:
            seen.add(other)
            twin = Vignette(c, x, v.phrasing, v.extra, v.sign_order)
            twins.append({"question": question_text(twin), "answer": "ABCD"[order.index(other)]})
    return {
        "id": name, "question": question_text(v), "options": [c.options[i] for i in order],
        "answer": "ABCD"[order.index(gold)], "cluster": c.name, "split": split,
        "explanation": explanation(v, rule, rng), "variants": twins,
    }  # fmt: skip


def composite_options(a: Cluster, b: Cluster) -> list[str]:
    return ["neither", f"{a.topic} only", f"{b.topic} only", "both"]


def composite_text(va: Vignette, vb: Vignette) -> str:
    a, b = va.cluster, vb.cluster
    return COMPOSITE.format(who=a.who, topic_a=a.topic, topic_b=b.topic, fact_a=fact(va), fact_b=fact(vb))


def composite_gold(va: Vignette, vb: Vignette, rule_a, rule_b) -> int:
    """Index into composite_options: which of the two problems is at level 1 or above."""
    return (level(va.cluster, rule_a, va.x) > 0) + 2 * (level(vb.cluster, rule_b, vb.x) > 0)


def questions(clusters: dict[str, Cluster], seed: int = 7) -> list[tuple[tuple[Vignette, ...], dict]]:
    """The generated question bank with every split, each record with the vignettes behind it; fixed by the seed."""
    rng, made = random.Random(seed), []
    sizes = {
        "train": [("train", 16), ("test", 12)],
        "val": [("val", 24)],
        "test_clusters": [("test_clusters", 20)],
        "canary": [("canary", 20)],
    }
    for c in clusters.values():
        # Subjects of a type C cluster are split too: its test questions ask for facts that training never rewarded.
        halves = {"train": findings_of(c), "test": findings_of(c)}
        if c.kind == "C":
            halves = {"train": findings_of(c)[::2], "test": findings_of(c)[1::2]}
        total = draw_balanced(c, sum(n for _, n in sizes[c.split]), rng, findings_of(c)) if c.kind != "C" else []
        for split, n in sizes[c.split]:
            part = (
                [total.pop() for _ in range(n)]
                if total
                else draw_balanced(c, n, rng, halves.get(split, findings_of(c)))
            )
            made += [((v,), record(v, f"{c.name}-{split}-{i}", split, rng)) for i, v in enumerate(part)]
    trained = [c for c in clusters.values() if c.split == "train" and c.kind in "AB"]
    pairs = list(itertools.combinations(trained, 2))
    for i, (a, b) in enumerate(rng.sample(pairs, 50)):
        for j, gold in enumerate(rng.sample(range(4), 2)):
            made.append(composite_question(a, b, f"composite-{i}-{j}", gold, rng))
    return made


def bank(clusters: dict[str, Cluster], seed: int = 7) -> list[dict]:
    return [record for _, record in questions(clusters, seed)]


def composite_question(
    a: Cluster, b: Cluster, name: str, gold: int, rng: random.Random
) -> tuple[tuple[Vignette, ...], dict]:
    """A question that needs the rules of two clusters at once (split `composite`), and its two vignettes."""
    rules, va, vb = (bank_rule(a), bank_rule(b)), None, None
    while va is None or composite_gold(va, vb, *rules) != gold:
        va, vb = vignette(a, rng), vignette(b, rng)
    order, texts = rng.sample(range(4), 4), composite_options(a, b)
    told = [DECIDING[c.kind].format(**rule_words(c, rule)) for c, rule in zip((a, b), rules, strict=True)]
    return (va, vb), {
        "id": name, "question": composite_text(va, vb), "options": [texts[i] for i in order],
        "answer": "ABCD"[order.index(gold)], "cluster": f"{a.name}+{b.name}", "split": "composite",
        "explanation": " ".join(told), "variants": [],
    }  # fmt: skip


def false_rule(c: Cluster, x=None):
    """A false rule of the cluster: of those outside the margin of the bank's rule, the one that misjudges most."""
    weights = question_weights(c) if c.kind != "C" else {x: 1.0}
    bank = bank_rule(c, x)
    kept = [r for r in wide(c, x) if apart(c, r, x)]
    return max(kept, key=lambda r: sum(w for f, w in weights.items() if level(c, r, f) != level(c, bank, f)))


def points(clusters: dict[str, Cluster], quality: str, seed: int = 13, asked_seed: int = 7) -> list[dict]:
    """Learning points for every question of a bank, written by the world itself, as library records (library.KEYS).

    asked_seed: the bank's. quality: ideal | partial | vague | wrong (a false rule of the cluster). `implies`: the
    option that follows from the stated rule. A composite has two records, one for each of its clusters.
    """
    rng, records = random.Random(seed), []
    for vignettes, asked in questions(clusters, asked_seed):
        for v in vignettes if asked["split"] != "canary" else ():
            c, decides = v.cluster, len(vignettes) == 1 and quality in ("ideal", "wrong")
            rule = false_rule(c, v.x) if quality == "wrong" else bank_rule(c, v.x)
            text = point(c, rule, "ideal" if quality == "wrong" else quality, rng, v.x)
            records.append({
                "id": f"{quality}-{len(records)}", "text": text, "question_id": asked["id"], "exchange_id": None,
                "cluster": c.name, "source": None, "step": None, "writer": f"organism.world {quality}", "reader": None,
                "verified_on": [], "advantage_same": None, "advantage_transfer": None, "ci95": None, "leak": False,
                "meta_gaming": False, "count": 1,
                "implies": c.options[level(c, rule, v.x)] if decides else None,
            })  # fmt: skip
    return records


PREECLAMPSIA = {  # the paper's cluster: A x5, B x3, C x3, D x1, and one more (its own parts add up to 12): a second D
    "A": [125, 142, 155, 162, 178], "B": [(1, 1, 0, 0), (1, 0, 1, 0), (0, 0, 1, 1)], "C": [0, 2, 4], "D": [0, 1],
}  # fmt: skip


def preeclampsia(clusters: dict[str, Cluster], seed: int = 11) -> list[dict]:
    """The 13 questions of the paper's cluster (train), new ones on the same rules (test), and the bank's canary."""
    rng, records, seen = random.Random(seed), [], set()
    for kind, findings in PREECLAMPSIA.items():
        c = clusters[f"preeclampsia-{kind}"]
        for i, x in enumerate(findings):
            v = vignette(c, rng, x - c.low if kind == "A" else x)
            seen.add(question_text(v))
            records.append(record(v, f"{c.name}-{i + 1}", "train", rng))
        asked = [x for x in findings_of(c) if kind != "C" or x not in findings]  # no fact of the train questions
        new = [v for v in draw_balanced(c, 24, rng, asked) if question_text(v) not in seen]
        records += [record(v, f"{c.name}-test-{i + 1}", "test", rng) for i, v in enumerate(new[:12])]
    return records + [r for r in bank(clusters) if r["split"] == "canary"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="write the question bank (or the pre-eclampsia cluster, or points) as JSONL"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preeclampsia", action="store_true")
    parser.add_argument(
        "--points",
        choices=["ideal", "partial", "vague", "wrong"],
        help="learning points for every question of the bank",
    )
    parser.add_argument("--seed", type=int, default=7, help="another number: other questions on the same rules")
    args = parser.parse_args()
    if args.preeclampsia and args.seed != 7:
        parser.error("--seed is the bank's; the pre-eclampsia cluster has one set of questions")
    clusters = load_clusters()
    records = preeclampsia(clusters) if args.preeclampsia else bank(clusters, args.seed)
    if args.points:
        records = points(clusters, args.points, asked_seed=args.seed)
    args.out.write_text("".join(json.dumps(r) + "\n" for r in records))
    print(f"{len(records)} {'points' if args.points else 'questions'} -> {args.out}")


if __name__ == "__main__":
    main()
