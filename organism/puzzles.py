"""A second small world: Countdown and function calling, for rivals whose methods were shown on these tasks.

    python -m organism.puzzles --data data               # the data files of both tasks, byte for byte
    python -m organism.puzzles --out organism/puzzlers   # tokenizer and pre-training of their model, resumable

What is put in by design: first answers are mostly wrong, in the ways of beginners, who only add and subtract where
that cannot reach the target (data/countdown_rare.jsonl: less than one answer in a hundred is right); a reflection
may name the step to begin with, that a product is needed, the error that was made, or nothing; an answer follows
what was named, be it in a reflection before it, in a learning point or in feedback. Not put in: naming the right
step more often than others. Problems of the data files never occur in pre-training.
"""

import json
import random
from pathlib import Path

from introspection import prompts
from organism import build
from tasks import countdown, function_calling
from tasks.countdown import Countdown
from tasks.function_calling import Calling
from tasks.problem import write_generated

LARGEST, NUMBERS = 12, 3
REACH = LARGEST * NUMBERS  # larger targets need a product
DATA = {"countdown": (1000, 5), "calls": (600, 6)}  # problems and seed of the data files
# Share of first answers that are right on purpose; some sums are by luck.
RIGHT = {"countdown": 0.12, "countdown_rare": 0.01, "calls": 0.2}
# Runs of JSON's signs are one token.
WORDS = r" ?</?[a-z]+>| ?[A-Za-z]+(?:_[A-Za-z]+)*| ?\d+| ?[^\sA-Za-z\d]+(?: ?[\[{\"]+)?|\s+(?!\S)|\s+"
REFLECTIONS = {"step": 0.3, "wrong step": 0.3, "error": 0.2, "vague": 0.2, "product": 0.2}
PRODUCT = "a product is needed"  # the one reflection that helps with other sums too
ERRORS = ["a call was missing", "the wrong tool", "arguments changed places"]
VAGUE = ["i was too fast", "think again", "i must be more careful", "read the question again"]


def bank() -> dict[str, list[dict]]:
    (n, seed), (m, other) = DATA["countdown"], DATA["calls"]
    sums = countdown.generate(n, NUMBERS, LARGEST, seed)
    rare = [r for r in sums if r["target"] > REACH]
    calls = function_calling.generate(m, other)
    return {"countdown": [r for r in sums if r not in rare], "countdown_rare": rare, "calls": calls}


class Puzzles:
    """A seeded stream of documents (turns, user first); problems of the data files are never drawn."""

    def __init__(self, seed: int, forbidden: set):
        self.rng, self.forbidden = random.Random(seed), forbidden

    def document(self) -> list:
        countdown_ = self.rng.random() < 0.6
        problem = self.countdown() if countdown_ else self.calling()
        if self.rng.random() < 0.1:  # what a teacher reads (SDPO): a right answer, or a peer's
            told, answer = self.right_sum(problem) if countdown_ else (problem.gold, problem.gold)
            told = prompts.told(None, answer) if self.rng.random() < 0.5 else prompts.GOLD.format(gold=told)
            return [problem.turn + prompts.FEEDBACK_ELSE.format(told=told), answer]
        attempt = self.expression if countdown_ else self.calls
        first, right = attempt(problem, None)
        if right or self.rng.random() < 0.35:
            return [problem.turn, first]
        if self.rng.random() < 0.3:
            return [problem.turn, first, prompts.TRY_AGAIN, attempt(problem, None)[0]]
        quality = self.rng.choices(list(REFLECTIONS), list(REFLECTIONS.values()))[0]
        reflect = self.reflect_on_sum if countdown_ else self.reflect_on_calls
        said, step = reflect(problem, first, quality)
        second, _ = attempt(problem, step)
        if self.rng.random() < 0.25:
            return [problem.turn + prompts.POINT.format(point=said), second]
        return [problem.turn, first, prompts.REFLECT, said, prompts.RETRY.format(turn=problem.turn), second]

    # ---- Countdown ---------------------------------------------------------------------------------------------------
    def countdown(self) -> Countdown:
        while True:
            (r,) = countdown.generate(1, NUMBERS, LARGEST, self.rng.getrandbits(48))
            if (tuple(sorted(r["nums"])), r["target"]) not in self.forbidden:
                return Countdown("", tuple(r["nums"]), r["target"], "train")

    def expression(self, p: Countdown, step: tuple[int, int, str] | str | None) -> tuple[str, bool]:
        """(answer, whether it is right): after a step that can be finished the right one, else mostly a beginner's."""
        named, rare = isinstance(step, tuple), p.target > REACH
        ways = [way for way in finishes(p) if way[0] == step] if named else finishes(p)
        if ways and self.rng.random() < (0.9 if named else RIGHT["countdown_rare" if rare else "countdown"]):
            return sum_in_words(self.rng.choice(ways)), True
        ways = [way for begun in ([step] if named else steps_of(p)) for way in continuations(p, begun)]
        if step == PRODUCT:
            ways = [way for way in ways if "*" in (way[0][2], way[1][2])]
        elif rare and not named:
            ways = [way for way in ways if not {way[0][2], way[1][2]} & set("*/")]
        way = self.rng.choice(ways)
        return sum_in_words(way), way[2] == p.target

    def right_sum(self, p: Countdown) -> tuple[str, str]:
        """(the right answer as the task words it, the answer that says how it is reached)."""
        gold = f"<answer>{countdown.solve(p.nums, p.target)}</answer>"
        ways = [sum_in_words(way) for way in finishes(p)]
        ending = [said for said in ways if said.endswith(gold)]
        return gold, ending[0] if ending else self.rng.choice(ways)

    def reflect_on_sum(self, p: Countdown, first: str, quality: str) -> tuple[str, tuple | str | None]:
        if quality == "product":
            return PRODUCT, PRODUCT
        good = [way[0] for way in finishes(p)]
        if quality == "step" or (quality == "wrong step" and self.rng.random() < 0.3):
            step = self.rng.choice(good)
        elif quality == "wrong step":
            step = self.rng.choice(steps_of(p))
        else:
            missed = first.split("=")[-1].split("<")[0].strip()
            return (f"i got {missed} and not {p.target}" if quality == "error" else self.rng.choice(VAGUE)), None
        return f"begin with {step[0]} {step[2]} {step[1]}", step

    # ---- function calling --------------------------------------------------------------------------------------------
    def calling(self) -> Calling:
        while True:
            (r,) = function_calling.generate(1, self.rng.getrandbits(48))
            if r["query"] not in self.forbidden:
                calls = json.loads(r["answers"])
                return Calling("", r["query"], r["tools"], function_calling.calls_of(calls), "train", r["answers"])

    def calls(self, p: Calling, step: str | None) -> tuple[str, bool]:
        """(answer, whether it is right). step: the error that a reflection named; that repairs it nine times in ten."""
        calls = json.loads(p.gold)
        if self.rng.random() < (RIGHT["calls"] if step is None else 0.9):
            return json.dumps(calls), True
        said = self.spoil(calls, p)
        return json.dumps(said), function_calling.calls_of(said) == p.answers

    def spoil(self, calls: list[dict], p: Calling) -> list[dict]:
        """A beginner's calls: one is missing, its arguments changed places, or another tool was taken."""
        kind, k = self.rng.choice(["missing", "swapped", "tool"]), self.rng.randrange(len(calls))
        call = calls[k]
        if kind == "missing" and len(calls) > 1:
            return calls[:k] + calls[k + 1 :]
        if kind == "tool":
            other = self.rng.choice([t["name"] for t in json.loads(p.tools) if t["name"] != call["name"]])
            return [*calls[:k], call | {"name": other}, *calls[k + 1 :]]
        values = list(call["arguments"].values())
        swapped = dict(zip(call["arguments"], values[1:] + values[:1], strict=True))
        return [*calls[:k], call | {"arguments": swapped}, *calls[k + 1 :]]

    def reflect_on_calls(self, p: Calling, first: str, quality: str) -> tuple[str, str | None]:
        error = error_of(json.loads(first), json.loads(p.gold))
        if quality in ("vague", "product"):
            return self.rng.choice(VAGUE), None
        said = error if quality in ("step", "error") else self.rng.choice(ERRORS)
        return said, error if said == error else None


def error_of(made: list[dict], right: list[dict]) -> str:
    """What is wrong with wrong calls, in the words of a reflection."""
    if len(made) < len(right):
        return ERRORS[0]
    return ERRORS[1] if [c["name"] for c in made] != [c["name"] for c in right] else ERRORS[2]


# ---- sums of three numbers -----------------------------------------------------------------------------------------
def steps_of(p: Countdown) -> list[tuple[int, int, str]]:
    """First steps (a, b, operation) with a whole result of at least 0."""
    pairs = [(a, b) for i, a in enumerate(p.nums) for j, b in enumerate(p.nums) if i != j]
    return sorted({(a, b, op) for a, b in pairs for op in "+-*/" if result(a, b, op) is not None})


def result(a: int, b: int, op: str) -> int | None:
    if op == "/":
        return a // b if b and a % b == 0 else None
    value = {"+": a + b, "-": a - b, "*": a * b}[op]
    return value if value >= 0 else None


def continuations(p: Countdown, step: tuple[int, int, str]) -> list[tuple]:
    """Ways (step, second step, value) to go on after a first step with the number that is left."""
    a, b, op = step
    left = list(p.nums)
    left.remove(a)
    left.remove(b)
    value = result(a, b, op)
    seconds = [(x, y, sign) for x, y in {(value, left[0]), (left[0], value)} for sign in "+-*/"]
    return [(step, second, result(*second)) for second in seconds if result(*second) is not None]


def finishes(p: Countdown) -> list[tuple]:
    """Ways that hit the target."""
    return [way for step in steps_of(p) for way in continuations(p, step) if way[2] == p.target]


def sum_in_words(way: tuple) -> str:
    """'14 / 2 = 7, 13 - 7 = 6 <answer>13 - (14 / 2)</answer>'"""
    (a, b, op), (x, y, second), value = way
    inner = f"({a} {op} {b})"
    outer = f"{inner} {second} {y}" if x == result(a, b, op) else f"{x} {second} {inner}"
    return f"{a} {op} {b} = {result(a, b, op)}, {x} {second} {y} = {value} <answer>{outer}</answer>"


def forbidden() -> set:
    """What pre-training never shows: the problems of the data files."""
    made = bank()
    sums = {(tuple(sorted(r["nums"])), r["target"]) for r in made["countdown"] + made["countdown_rare"]}
    return sums | {r["query"] for r in made["calls"]}


def main() -> None:
    what = "build the model of the puzzles, or their data files"
    parser = build.options(what, "organism/puzzlers", 4_500, 0, 128, 4)
    parser.add_argument("--data", type=Path, help="folder to write the data files into, instead of building")
    args = parser.parse_args()
    if args.data:
        for name, records in bank().items():
            write_generated(args.data / f"{name}.jsonl", records)
        return
    del args.data
    hidden = forbidden()
    build.train(args, Puzzles(args.seed, hidden), lambda step: Puzzles(args.seed * 1_000_003 + step, hidden), WORDS)


if __name__ == "__main__":
    main()
