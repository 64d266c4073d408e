"""Manufactoria: programs that pull colours off a tape to accept or reject it; published files, a generator with
solutions, the one grader.

    python -m tasks.manufactoria --out runs/manufactoria.jsonl --count 600

Records are those of the published sets (`messages`, and the tests as `ground_truth`, plain or as JSON inside a string),
as one JSON list or one object a line; `solution` and `split` are optional. The language is DELTA's
(sunblaze-ucb/delta-code), the feedback follows Resd (arXiv 2605.12741). Programs are parsed and walked through here,
never executed; no expected output reaches `re`.
"""

import argparse
import json
import random
import re
from collections import deque, namedtuple
from dataclasses import dataclass
from pathlib import Path

from common import UserError
from introspection import prompts
from tasks.problem import Problem, read_records, split_by_hash, split_of_record, write_generated

ASK = (
    "Write a Manufactoria program. It receives a tape, a row of colours, at the node start and sends it from node to "
    "node.\n"
    "- START start: has one route, NEXT node. So have PAINTER_RED, PAINTER_BLUE, PAINTER_YELLOW and PAINTER_GREEN, "
    "which first add their colour at the back.\n"
    "- PULLER_RB looks for R and B at the front of the tape, PULLER_YG for Y and G. It takes such a colour off and "
    "follows its route, [R] node for instance; from an empty tape or another colour it takes nothing and follows "
    "[EMPTY] node. A missing route rejects the tape.\n"
    "- END end accepts the tape. The target NONE rejects it, and so does a walk of more than 1000 nodes.\n"
    "A name is made of letters, digits and _ and is declared once, with a colon except after END; four spaces stand "
    "before a route. Tapes that begin with R:\n"
    "```manufactoria\nSTART start:\n    NEXT look\nPULLER_RB look:\n    [R] end\nEND end\n```\n"
    "Your task: {task}\n"
    "End with your program in a ```manufactoria block."
)
MAX_STEPS = 1000  # nodes that a tape may visit, start and end among them
MAX_CHARACTERS = 100_000  # of a program; a longer one is wrong, so that nobody pays for parsing it
MAX_FEEDBACK, TRACE = 2000, 15  # characters of a feedback, nodes of a walk that it shows
MAX_CASES = 35  # tests of a generated problem, as published
PULLERS = {"PULLER_RB": "RB", "PULLER_YG": "YG"}
PAINTERS = {"PAINTER_RED": "R", "PAINTER_BLUE": "B", "PAINTER_YELLOW": "Y", "PAINTER_GREEN": "G"}
ROUTES = (
    {"START": ("NEXT",), "END": ()}
    | {k: (*v, "EMPTY") for k, v in PULLERS.items()}
    | dict.fromkeys(PAINTERS, ("NEXT",))
)
_NODE = re.compile(rf"({'|'.join(ROUTES)})\s+(\w+)(:?)\s*(?:#.*)?")
_ROUTE = re.compile(r"(\[(?:R|B|Y|G|EMPTY)\]|NEXT)\s+(\w+)\s*(?:#.*)?")
# A test; output: what is left of the tape, where it is checked.
Case = namedtuple("Case", "tape accepted output check_output", defaults=("", False))


@dataclass(frozen=True)
class Manufactoria(Problem):
    """One problem; `turn` is what the model is asked, `gold` a right answer where the record has a solution."""

    id: str
    turn: str
    cases: tuple[Case, ...]
    split: str
    gold: str | None = None

    def correction(self, said: str) -> str:
        told = prompts.plain(feedback(said, self))
        return f"\n{told}" if told else ""

    def grade(self, text: str) -> bool:
        return grade(text, self)


# ---- the language --------------------------------------------------------------------------------------------------
def program_of(text: str) -> str | None:
    """The program in a model turn: its last ```manufactoria block, or its last block without a language.

    None without a closed one.
    """
    *before, last = re.split(r"```manufactoria(?!\w)", text)
    if before:
        return last.partition("```")[0].strip() if "```" in last else None
    # Fences open and close in turn.
    bare = [block for block in text.split("```")[1:-1:2] if not block.partition("\n")[0].strip()]
    return bare[-1].strip() if bare else None


def parse(program: str) -> dict[str, tuple[str, dict[str, str]]]:
    """{name: (kind, {NEXT, a colour or EMPTY: name of the next node})}.

    Raises ValueError with line and cause for a malformed program.
    """
    if len(program) > MAX_CHARACTERS:
        raise ValueError(f"the program is longer than {MAX_CHARACTERS} characters")
    nodes, kind, routes = {}, "", {}
    for number, line in enumerate(program.split("\n"), start=1):
        said = line.strip()
        if not said or said.startswith("#"):
            continue
        # An indented line is a route, whatever it says: a program that is indented as a whole is malformed.
        if nodes and line.startswith(("    ", "\t")):
            match = _ROUTE.fullmatch(said)
            label = match.group(1).strip("[]") if match else None
            if label not in ROUTES[kind] or label in routes:  # DELTA's parser takes the first of two equal branches
                raise ValueError(
                    f"line {number}: expected one of ({', '.join(ROUTES[kind])}) under {kind}, each once, "
                    f"got '{said[:200]}'"
                )
            routes[label] = match.group(2)
            continue
        match = _NODE.fullmatch(said)
        kind, name, colon = match.groups() if match else ("", "", "")
        if not colon and kind != "END":  # DELTA's parser refuses a colon after END
            raise ValueError(f"line {number}: expected a node such as 'PULLER_RB name:', got '{said[:200]}'")
        if name in nodes or (kind in ("START", "END") and name != kind.lower()):
            raise ValueError(f"line {number}: '{name[:200]}' is declared already, or no name for {kind}")
        routes = {}
        nodes[name] = (kind, routes)
    if [nodes.get(name, ("",))[0] for name in ("start", "end")] != ["START", "END"]:
        raise ValueError("a program needs the nodes 'START start:' and 'END end'")
    for name, (kind, routes) in nodes.items():
        # To go to END fails only once a tape does.
        unknown = [target for target in routes.values() if target not in nodes and target not in ("NONE", "END")]
        if unknown:
            raise ValueError(f"{kind} '{name[:200]}' goes to {unknown[0][:200]!r}, which is not declared")
        if ROUTES[kind] == ("NEXT",) and not routes:
            raise ValueError(f"{kind} '{name[:200]}' has no route NEXT")
    return nodes


def walk(nodes: dict[str, tuple[str, dict[str, str]]], tape: str) -> tuple[str, list[str], str]:
    """(what is left of a tape, names of the nodes it visited, why it was rejected or empty text); nodes: as parsed."""
    left, path, at, fault = deque(tape), [], "start", f"no end after {MAX_STEPS} nodes, probably a loop"
    while len(path) < MAX_STEPS:
        path.append(at)
        if at in ("end", "NONE") or at not in nodes:
            fault = {"end": "", "NONE": "the tape was sent to NONE"}.get(at, f"there is no node '{at}'")
            break
        kind, routes = nodes[at]
        if kind in PULLERS:
            label = left.popleft() if left and left[0] in PULLERS[kind] else "EMPTY"
            at = routes.get(label, "NONE")  # a missing route rejects
        else:
            left.extend(PAINTERS.get(kind, ""))
            at = routes["NEXT"]
    return "".join(left), path, fault


def fits(output: str, tape: str) -> bool:
    """Whether a tape fully matches an expected output, in which the signs . + * ? | ( ) mean what they mean in a
    regular expression. ValueError if it is malformed.
    """
    # `re` would take forever over (R+)+B and a thousand R, and it is the program that chooses the tape. Here sets of
    # places in the tape go through the expression, so that a repetition ends when it reaches no new place.
    return len(tape) in ends(output, 0, {0}, tape, 0)[1]


def ends(output: str, at: int, starts: set[int], tape: str, depth: int) -> tuple[int, set[int]]:
    """(where in `output` the alternatives that begin at `at` stop, places in the tape where they can stop that began
    in `starts`).
    """

    def piece(at: int, places: set[int]) -> tuple[int, set[int]]:
        """One character or bracket: where it ends, and the places after it."""
        if output[at] == "(":
            return ends(output, at + 1, places, tape, depth + 1)
        return at, {i + 1 for i in places if i < len(tape) and output[at] in (tape[i], ".")}

    found, now = set(), starts
    while output[at : at + 1] not in ("", ")"):
        if output[at] == "|":
            found, now, at = found | now, starts, at + 1
            continue
        if output[at] in "*+?" or depth > 5:
            raise ValueError(f"nothing to repeat, or brackets nested too deeply in '{output[:200]}'")
        last, reached = piece(at, now)
        new, sign = reached, output[last + 1 : last + 2]
        while new and sign in ("*", "+"):
            new = piece(at, new)[1] - reached
            reached = reached | new
        now = reached | now if sign in ("*", "?") else reached
        at = last + (2 if sign in ("*", "+", "?") else 1)
    if (at == len(output)) != (depth == 0):
        raise ValueError(f"the brackets do not match in '{output[:200]}'")
    return at, found | now


# ---- grading -------------------------------------------------------------------------------------------------------
def failures(text: str, problem: Manufactoria) -> list[tuple[Case, str, list[str], str]]:
    """The tests that a model turn fails, each with what `walk` says of its tape.

    Raises ValueError where no program can be read.
    """
    program, failed = program_of(text), []
    if program is None:
        raise ValueError("no program was found; write it between ```manufactoria and ```")
    nodes = parse(program)
    for case in problem.cases:
        left, path, fault = walk(nodes, case.tape)
        passed = not fault and (not case.check_output or fits(case.output, left))
        if passed != case.accepted:
            failed.append((case, left, path, fault))
    return failed


def grade(text: str, problem: Manufactoria) -> bool:
    """Whether the program of a model turn passes all tests of its problem (Resd's reward)."""
    try:
        return not failures(text, problem)
    except ValueError:
        return False


def feedback(text: str, problem: Manufactoria) -> str:
    """What Resd tells about a model turn, at most MAX_FEEDBACK characters; empty if all tests pass."""
    try:
        failed = failures(text, problem)
    except ValueError as error:
        return f"Parse error: {error}"
    # To reject a tape that should pass is Resd's run-time error, and shown alone; else the two smallest failures.
    stopped = [f for f in failed if f[3]][:1]
    parts = []
    for case, left, path, fault in stopped or sorted(failed, key=lambda f: len(f[0].tape) + len(f[1]))[:2]:
        wanted = "accepted" if case.accepted else "rejected"
        if case.check_output:
            wanted += f", with {case.output[:200]!r} left"
        lines = [
            f"Run-time error: {fault[:200]}" if fault else "Wrong answer",
            f"Tape: {case.tape[:200]!r}",
            f"Expected: {wanted}",
            f"Got: {'rejected' if fault else 'accepted'}, with {left[:200]!r} left",
            f"Nodes visited: {len(path)}, at last {' > '.join(name[:40] for name in path[-TRACE:])}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)[:MAX_FEEDBACK]


# ---- loading and generating ------------------------------------------------------------------------------------------
def load(path: Path, key: str = "shared.questions") -> list[Manufactoria]:
    """Problems of a file as it is published, or of ours. Raises UserError with file and line for a malformed one."""
    problems = []
    for i, (where, r) in enumerate(read_records(path, key)):
        if not isinstance(r, dict) or not {"messages", "ground_truth"} <= set(r):
            raise UserError(f"{where}: expected an object with 'messages' and 'ground_truth'")
        said = r["messages"][0] if isinstance(r["messages"], list) and len(r["messages"]) == 1 else None
        if not isinstance(said, dict) or said.get("role") != "user" or not isinstance(said.get("content"), str):
            raise UserError(f"{where}: messages: expected a list of one object with role 'user' and 'content'")
        split, solution = split_of_record(r, where, said["content"]), r.get("solution")
        if not isinstance(solution, str | None):
            raise UserError(f"{where}: solution: expected text, got {solution!r}")
        name, gold = str(r.get("id") or f"manufactoria-{i}"), solution and f"```manufactoria\n{solution}\n```"
        problems.append(Manufactoria(name, said["content"], cases_of(r["ground_truth"], where), split, gold))
    if not problems:
        raise UserError(f"{path}: no problems in the file")
    return problems


def cases_of(tests: object, where: str) -> tuple[Case, ...]:
    """The tests of a record; what one leaves out is read as DELTA's server does. Raises UserError."""
    try:
        tests = json.loads(tests) if isinstance(tests, str) else tests
        cases = []
        for t in tests or [None]:  # without tests every program would be right
            case = Case(
                t["input"], t.get("expected_accepted", True), t.get("expected_output", ""), t.get("check_output", True)
            )
            if set(case.tape) - set("RBYG") or [type(v) for v in case] != [str, bool, str, bool]:
                raise ValueError(f"got {t}")
            fits(case.output, "")
            cases.append(case)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{where}: ground_truth: expected a list of objects with 'input', a text of R, B, Y and G, "
            f"and what becomes of it ({error!r})"
        ) from error
    return tuple(cases)


RULES = {  # of a pattern: what a tape should do, and whether it does
    "substring": ("holds {pattern} in a row", lambda pattern, tape: pattern in tape),
    "ordered": (
        "holds {pattern} in this order, with or without other colours between",
        lambda pattern, tape: bool(re.match("".join(f"[^{colour}]*{colour}" for colour in pattern), tape)),
    ),
    "at least": (
        "holds at least {count} of the colour {colour}",
        lambda pattern, tape: tape.count(pattern[0]) >= len(pattern),
    ),
    "exactly": (
        "holds exactly {count} of the colour {colour}",
        lambda pattern, tape: tape.count(pattern[0]) == len(pattern),
    ),
}


def solution_of(rule: str, colours: str, pattern: str) -> str:
    """A program that follows a rule.

    It has a puller (on four colours two of them) for each number of colours of the pattern found so far.
    """
    size = len(pattern)
    last, beyond = (size + 1, "NONE") if rule == "exactly" else (size, "end")

    def after(found: int, colour: str) -> str:
        if rule == "substring":  # falls back to where a run of colours goes on
            found = max(k for k in range(size + 1) if (pattern[:found] + colour).endswith(pattern[:k]))
        elif colour == pattern[found % size]:
            found += 1
        return f"q{found}" if found < last else beyond

    lines = ["START start:", "    NEXT q0"]
    for found in range(last):
        lines += [f"PULLER_RB q{found}:", *(f"    [{c}] {after(found, c)}" for c in "RB")]
        if len(colours) == 4:
            lines += [f"    [EMPTY] p{found}", f"PULLER_YG p{found}:", *(f"    [{c}] {after(found, c)}" for c in "YG")]
        lines.append(f"    [EMPTY] {'end' if found == size else 'NONE'}")
    return "\n".join([*lines, "END end"])


def tests_of(rng: random.Random, rule: str, colours: str, pattern: str) -> list[dict]:
    """Up to MAX_CASES tests: the pattern whole, turned round, begun twice, with a colour missing or one too many, and
    all of these among noise.
    """
    tapes = ["", *colours, pattern, pattern[::-1]]
    for i in range(1, len(pattern) + 1):
        # A neighbour's colour could leave the pattern whole.
        between = [c for c in colours if c not in pattern[i - 1 : i + 1]] or [pattern[i]]
        tapes += [
            pattern[:i] + rng.choice(between) + pattern[i:],
            pattern[:i] + pattern,
            pattern[: i - 1] + pattern[i:],
        ]
    for core in rng.choices(tapes, k=200):
        noise, gap = rng.choice([colours, colours.replace(pattern[0], "")]), rng.choice([0, 0, 2])
        inner = "".join(c + "".join(rng.choices(noise, k=rng.randint(0, gap))) for c in core)
        before, behind = ("".join(rng.choices(noise, k=rng.randint(0, 5))) for _ in range(2))
        tapes.append(before + inner + behind)
    verdicts = {tape: RULES[rule][1](pattern, tape) for tape in tapes}
    few, many = sorted(([t for t in verdicts if verdicts[t] == wanted] for wanted in (True, False)), key=len)
    chosen = sorted([*few[: MAX_CASES // 2], *many][:MAX_CASES], key=len)
    return [
        {"input": t, "expected_output": "", "expected_accepted": verdicts[t], "check_output": False, "description": ""}
        for t in chosen
    ]


def generate(count: int, longest: int, seed: int) -> list[dict]:
    """`count` different problems in the published schema, with solutions.

    All problems of a pattern fall into one split.
    """
    rng, made = random.Random(seed), {}
    for _ in range(200 * count):
        rule, colours = rng.choice(list(RULES)), rng.choice(["RB", "RBYG"])
        pattern = "".join(rng.choices(colours, k=rng.randint(1, longest)))
        pattern = pattern if rule in ("substring", "ordered") else pattern[0] * len(pattern)  # a count: one colour
        if len(made) == count or (rule, colours, pattern) in made:
            continue
        name = RULES[rule][0].format(pattern=pattern, colour=pattern[0], count=len(pattern))
        task = f"accept a tape that {name}, and reject any other. Tapes are made of {', '.join(colours)}."
        made[rule, colours, pattern] = {
            "messages": [{"role": "user", "content": ASK.format(task=task)}],
            "ground_truth": tests_of(rng, rule, colours, pattern),
            "dataset": "manufactoria",
            "difficulty": "easy",
            "id": f"manufactoria-{len(made)}",
            "problem_family": f"contains_{rule if rule in ('substring', 'ordered') else 'count'}",
            "name": name,
            "solution": solution_of(rule, colours, pattern),
            "split": split_by_hash(pattern),
        }
    if len(made) < count:
        raise UserError(f"--count: there are fewer than {count} problems with patterns of up to {longest} colours")
    return list(made.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="generate Manufactoria problems")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument(
        "--longest", type=int, default=5, choices=range(1, 13), metavar="N", help="longest pattern, colours"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        write_generated(args.out, generate(args.count, args.longest, args.seed))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
