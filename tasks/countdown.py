"""Countdown: reach a target with every given number used once; published files, a generator, a solver, the one grader.

    python -m tasks.countdown --out runs/countdown.jsonl --count 600 --numbers 3 --largest 20

Records are those of the published task (`nums`, `target`), one JSON object a line; `id` and `split` are optional.
Expressions are parsed and computed here, in exact fractions, never executed.
"""

import argparse
import itertools
import random
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from common import UserError
from tasks.problem import Problem, read_records, split_by_hash, split_of_record, write_generated

ASK = (
    "Numbers: {nums}. Target: {target}. Use every number once with + - * / and brackets. "
    "Write <answer>expression</answer>."
)
MAX_CHARACTERS = 200  # of an expression; a longer one is wrong, so that nobody pays for parsing it
_TOKEN = re.compile(r"[0-9]+|[-+*/()\[\]]")
_CLOSES = {"(": ")", "[": "]"}
# Signs as models write them. Where one may stand is the grammar's business: a sign before a number stays wrong.
_SIGNS = str.maketrans(
    "×✕∗⋅•·＊xX÷⁄∕／＋−–－（）［］０１２３４５６７８９",
    "*********////+---()[]0123456789",
)
_LATEX = {"\\times": "*", "\\cdot": "*", "\\div": "/"}
_AROUND = (("**", "**"), ("`", "`"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))  # the outer one first
_EQUALS = re.compile("[=＝→]|->")


@dataclass(frozen=True)
class Countdown(Problem):
    """One problem; `turn` is what the model is asked."""

    id: str
    nums: tuple[int, ...]
    target: int
    split: str

    @property
    def turn(self) -> str:
        return ASK.format(nums=", ".join(map(str, self.nums)), target=self.target)

    @property
    def gold(self) -> str | None:
        found = solve(self.nums, self.target)
        return f"<answer>{found}</answer>" if found else None

    def grade(self, text: str) -> bool:
        return grade(text, self)


# ---- grading -------------------------------------------------------------------------------------------------------
def tokens_of(text: str) -> list[str] | None:
    """Numbers, operators and brackets of an expression; None if anything but white space stands beside them."""
    tokens = _TOKEN.findall(text)
    return tokens if "".join(tokens) == "".join(text.split()) else None


def value_of(tokens: list[str]) -> tuple[Fraction, list[int]] | None:
    """(value, numbers used) of an expression: total := product (+|- product)*, product := factor (*|/ factor)*,
    factor := number | ( total ) | [ total ].

    None for anything else: a sign before a number is no operation of the game, numbers have no leading zeros.
    """
    used, at = [], 0

    def factor() -> Fraction:
        nonlocal at
        token = tokens[at]
        at += 1
        if token in _CLOSES:
            value = total()
            if tokens[at] != _CLOSES[token]:
                raise ValueError
            at += 1
            return value
        if not token.isdigit() or (token[0] == "0" and token != "0"):
            raise ValueError
        used.append(int(token))
        return Fraction(used[-1])

    def product() -> Fraction:
        nonlocal at
        value = factor()
        while at < len(tokens) and tokens[at] in "*/":
            at += 1
            value = value * factor() if tokens[at - 1] == "*" else value / factor()
        return value

    def total() -> Fraction:
        nonlocal at
        value = product()
        while at < len(tokens) and tokens[at] in "+-":
            at += 1
            value = value + product() if tokens[at - 1] == "+" else value - product()
        return value

    try:
        value = total()
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return (value, used) if at == len(tokens) else None


def answer_of(text: str) -> str | None:
    """What stands in the last answer block of a model turn; None without one, or if the last one is not closed."""
    last = text.rpartition("<answer>")[2] if "<answer>" in text else ""
    return last.partition("</answer>")[0].strip() if "</answer>" in last else None


def bare(text: str) -> str:
    """A text without white space, bold, code and formula marks around the whole of it."""
    text = text.strip()
    for left, right in _AROUND:
        inner = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and left not in inner and right not in inner:
            text = inner.strip()
    return text


def plain_signs(text: str) -> str:
    """A text with the signs of `value_of` in place of those that models write for them."""
    for said, meant in _LATEX.items():
        text = text.replace(said, meant)
    return text.translate(_SIGNS)


def grade(text: str, problem: Countdown) -> bool:
    """Whether a model turn's last answer uses every number once and hits the target exactly.

    'target =' may stand before it, '= target' or an arrow to it after it; other numbers there are wrong.
    """
    said = answer_of(text)
    if said is None or len(said) > MAX_CHARACTERS:
        return False
    said = bare(bare(said).removesuffix("."))  # the full stop may stand inside the marks or after them
    sides = [plain_signs(bare(side)) for side in _EQUALS.split(said)]
    expressions = [side for side in sides if not re.fullmatch(rf"{problem.target}(?:\.0+)?", side)]
    if len(sides) > 2 or len(expressions) != 1:
        return False
    tokens = tokens_of(expressions[0])
    found = value_of(tokens) if tokens else None
    return found is not None and found[0] == problem.target and sorted(found[1]) == sorted(problem.nums)


# ---- solving and generating ------------------------------------------------------------------------------------------
def results_of(a: tuple[Fraction, str], b: tuple[Fraction, str]) -> list[tuple[Fraction, str]]:
    """All results of one operation on two values with their expressions."""
    (x, s), (y, t) = a, b
    made = [(x + y, f"({s} + {t})"), (x - y, f"({s} - {t})"), (y - x, f"({t} - {s})"), (x * y, f"({s} * {t})")]
    return made + ([(x / y, f"({s} / {t})")] if y else []) + ([(y / x, f"({t} / {s})")] if x else [])


def solve(nums: tuple[int, ...], target: int) -> str | None:
    """An expression that solves the problem, by trying all of them; None if there is none. Six numbers take minutes."""

    def search(values: list[tuple[Fraction, str]]) -> str | None:
        if len(values) == 1:
            return values[0][1] if values[0][0] == target else None
        for i, j in itertools.combinations(range(len(values)), 2):
            rest = [v for k, v in enumerate(values) if k not in (i, j)]
            for value in results_of(values[i], values[j]):
                found = search([*rest, value])
                if found:
                    return found
        return None

    found = search([(Fraction(n), str(n)) for n in nums])
    return found[1:-1] if found and found.startswith("(") else found


def generate(count: int, numbers: int, largest: int, seed: int) -> list[dict]:
    """`count` different problems, their splits by hash; a solution of each has only whole steps, from 1 to 100."""
    rng, made = random.Random(seed), {}
    for _ in range(1000 * count):
        if len(made) == count:
            break
        nums = tuple(rng.randint(1, largest) for _ in range(numbers))
        values = [(Fraction(n), str(n)) for n in nums]
        while len(values) > 1:
            a, b = (values.pop(rng.randrange(len(values))) for _ in range(2))
            whole = [v for v in results_of(a, b) if v[0].denominator == 1 and 1 <= v[0] <= 100]
            if not whole:
                break
            values.append(rng.choice(whole))
        if len(values) == 1 and values[0][0] not in nums:
            made.setdefault((tuple(sorted(nums)), int(values[0][0])), nums)
    if len(made) < count:
        raise UserError(f"--count: there are fewer than {count} problems with {numbers} numbers up to {largest}")
    return [
        {"id": f"countdown-{i}", "nums": list(nums), "target": target, "split": split_by_hash(split_key(nums, target))}
        for i, ((_, target), nums) in enumerate(made.items())
    ]


def split_key(nums: tuple[int, ...], target: int) -> str:
    """What decides, by its hash, the split of a problem that names none; the order of the numbers does not matter."""
    return f"{sorted(nums)} {target}"


def load(path: Path, key: str = "shared.questions") -> list[Countdown]:
    """Problems of a JSONL file, the published one or ours. Raises UserError with file and line for a malformed one."""
    problems = []
    for i, (where, r) in enumerate(read_records(path, key)):
        if not isinstance(r, dict) or not {"nums", "target"} <= set(r):
            raise UserError(f"{where}: expected an object with 'nums' and 'target'")
        nums, target = r["nums"], r["target"]
        whole = [n for n in (*nums, target) if type(n) is int] if isinstance(nums, list) else []
        if len(whole) < 3 or len(whole) != len(nums) + 1 or min(whole[:-1]) < 0:
            raise UserError(
                f"{where}: expected 'nums', a list of two or more whole numbers of at least 0, "
                "and 'target', a whole number"
            )
        split = split_of_record(r, where, split_key(nums, target))
        problems.append(Countdown(str(r.get("id", f"countdown-{i}")), tuple(nums), target, split))
    if not problems:
        raise UserError(f"{path}: no problems in the file")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description="generate Countdown problems")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--numbers", type=int, default=3, choices=(2, 3, 4))
    parser.add_argument("--largest", type=int, default=20, help="largest number")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        write_generated(args.out, generate(args.count, args.numbers, args.largest, args.seed))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
