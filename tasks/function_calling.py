"""Function calling: which of the given tools to call with which arguments; published files, a generator, one grader.

    python -m tasks.function_calling --out runs/calls.jsonl --count 600

Records are those of xLAM / APIGen (`query`, and `tools` and `answers` as JSON inside a string), as one JSON list or one
object a line. Nothing that a model writes is ever called: its text is parsed and compared.
"""

import argparse
import json
import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common import UserError
from tasks.problem import Problem, read_records, split_by_hash, split_of_record, write_generated

ASK = "Tools: {tools}\n{query}\nAnswer with a JSON list of calls, each with name and arguments."
MAX_CHARACTERS = 10_000  # of a model turn after its thoughts; a longer one is wrong
MAX_STARTS = 40  # brackets in prose from which JSON is tried
_MEANT = re.compile(r'\[\s*[\[{]|\{\s*"')
_TAG = re.compile(r"</?tool_call>")
_BLOCK = re.compile(r"(?:json)?\s*[\[{]", re.IGNORECASE)
# Beside several blocks: not all of them need be meant.
_DOUBT = re.compile(
    r"\b(?:wrong|incorrect|not|never|instead|either|or|alternative\w*|examples?|only)\b|n['’]t\b", re.IGNORECASE
)
# All that stands between two blocks: the second takes the place of the first.
_TAKEN_BACK = re.compile(
    r"(?:\W|but|oh|wait|that|this|is|was)*\b(?:no|wrong|incorrect|sorry|correction)\W*", re.IGNORECASE
)
_NO_MORE = re.compile(r"\bno (?:further|other|more)\b[^\[\]{}]{0,80}\[\s*\]\W*$", re.IGNORECASE)


@dataclass(frozen=True)
class Calling(Problem):
    """One problem; `turn` is what the model is asked, `answers` the right calls as `calls_of` gives them."""

    id: str
    query: str
    tools: str
    answers: Counter
    split: str
    gold: str = ""

    @property
    def turn(self) -> str:
        return ASK.format(tools=self.tools, query=self.query)

    def grade(self, text: str) -> bool:
        return grade(text, self)


# ---- grading -------------------------------------------------------------------------------------------------------
def unique_keys(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object whose keys differ: of two equal ones, json would silently keep the last."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def refuse_constant(constant: str) -> None:
    """NaN and Infinity, which Python's json would take."""
    raise ValueError(f"{constant} is no JSON")


DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=refuse_constant)


def canonical(value: object) -> str:
    """Equal texts for equal values: keys sorted, 1.0 as 1, ü as one letter, but true is not 1 and "1" is not 1."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{canonical(key)}:{canonical(value[key])}" for key in value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        value = unicodedata.normalize("NFC", value)
    return json.dumps(value)


def call_of(call: object) -> tuple[str, dict] | None:
    """(name, arguments) of one call in any of the forms that chat templates teach; None if it is no call.

    It may stand inside `function`, have `id` and `type` beside it, and call its arguments `parameters`; these may be
    JSON inside a string, null or left out.
    """
    if not isinstance(call, dict) or call.get("type", "function") != "function":
        return None
    if "function" in call and set(call) <= {"function", "id", "type"}:
        call = call["function"]
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    given = [key for key in call if key not in ("name", "id", "type")]
    if given not in ([], ["arguments"], ["parameters"]):
        return None
    arguments = call[given[0]] if given else None
    if isinstance(arguments, str):
        try:
            arguments = DECODER.decode(arguments)
        except (ValueError, RecursionError):
            return None
    elif arguments is None:
        arguments = {}
    return (call["name"], arguments) if isinstance(arguments, dict) else None


def calls_of(value: object) -> Counter | None:
    """The calls in a parsed answer as a multiset of canonical texts.

    None if it is no list of calls. One call may stand alone.
    """
    if not isinstance(value, list | dict):
        return None
    calls = [call_of(call) for call in ([value] if isinstance(value, dict) else value)]
    if None in calls:
        return None
    try:
        return Counter(canonical([name, arguments]) for name, arguments in calls)
    except RecursionError:  # nested deeper than anybody's arguments
        return None


def json_of(text: str) -> list:
    """The JSON lists and objects in a text, outermost ones only; what is not JSON around them is prose."""
    values, at = [], 0
    for _ in range(MAX_STARTS):
        at = min((i for i in (text.find("[", at), text.find("{", at)) if i >= 0), default=-1)
        if at < 0:
            return values
        try:
            value, at = DECODER.raw_decode(text, at)
            values.append(value)
        except (ValueError, RecursionError):
            if _MEANT.match(text, at):  # broken JSON: its inner parts are not an answer
                return []
            at += 1
    return []  # nothing but brackets: not worth the time


def answers_among(values: list) -> list[Counter]:
    """Those of JSON values that can be an answer: calls and lists of calls."""
    return [calls for calls in map(calls_of, values) if calls is not None]


def said_calls(text: str) -> Counter | None:
    """The calls that a model turn makes, those of sibling blocks (fences or tool_call tags) together.

    None where none can be read or it is not plain which are meant. Blocks are siblings if nothing stands between them
    and no word beside them says that one is wrong or that they are a choice.
    """
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    if len(text) > MAX_CHARACTERS:
        return None
    parts = (text if "```" in text else _TAG.sub("\n```\n", text)).split("```")  # fences open and close in turn
    blocks = {i: json_of(parts[i]) for i in range(1, len(parts), 2) if _BLOCK.match(parts[i].lstrip())}
    if not blocks:
        found = answers_among(json_of(text))
        if len(found) == 2 and _NO_MORE.search(text):  # 'No further calls: []' takes nothing back
            found = found[:1]
        return found[0] if len(found) == 1 else None
    if not all(blocks.values()):  # one is broken
        return None
    prose = "".join(part for i, part in enumerate(parts) if i not in blocks)
    between = "".join(parts[i] for i in range(min(blocks), max(blocks)) if i not in blocks)
    siblings = not between.strip() and not _DOUBT.search(prose)
    found_in = [answers_among(values) for values in blocks.values()]
    found = [calls for answers in found_in for calls in answers]
    if len(found) == 2 and _TAKEN_BACK.fullmatch(between):
        found = found[1:]
    if len(found) != 1 and not (siblings and all(len(answers) == 1 for answers in found_in)):
        return None
    calls = sum(found, Counter())
    # What prose quotes of the answer competes with nothing; any other call there does.
    return calls if all(quoted <= calls for quoted in answers_among(json_of(prose))) else None


def grade(text: str, problem: Calling) -> bool:
    """Whether a model turn makes exactly the right calls, in any order.

    Two answers in one turn are a hedge, and wrong.
    """
    return said_calls(text) == problem.answers


# ---- loading ---------------------------------------------------------------------------------------------------------
def load(path: Path, key: str = "shared.questions") -> list[Calling]:
    """Problems of a file as it is published, or of ours. Raises UserError with file and line for a malformed one."""
    problems = []
    for i, (where, r) in enumerate(read_records(path, key)):
        if not isinstance(r, dict) or not {"query", "tools", "answers"} <= set(r):
            raise UserError(f"{where}: expected an object with 'query', 'tools' and 'answers'")
        tools, answers = (inside(r[name], f"{where}: {name}") for name in ("tools", "answers"))
        calls = calls_of(answers)
        if not isinstance(answers, list) or calls is None:
            raise UserError(f"{where}: answers: expected a list of objects with 'name' and 'arguments'")
        name, query, gold = str(r.get("id", f"calls-{i}")), str(r["query"]), json.dumps(answers)
        problems.append(Calling(name, query, json.dumps(tools), calls, split_of_record(r, where, query), gold))
    if not problems:
        raise UserError(f"{path}: no problems in the file")
    return problems


def inside(value: object, where: str) -> object:
    """JSON that is published inside a string; plain JSON is taken as it is."""
    if not isinstance(value, str):
        return value
    try:
        return DECODER.decode(value)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error


# ---- generating ------------------------------------------------------------------------------------------------------
PLACES = ("paris", "oslo", "lima", "cairo", "tokyo", "delhi")
DAYS, PEOPLE = ("monday", "tuesday", "friday", "sunday"), ("ann", "bob", "eva", "tom")
ITEMS, COINS = ("tea", "rice", "soap", "milk", "salt"), ("euro", "yen", "peso")
# name, its arguments with what they may be, and how a user says it
TOOLS = {
    "get_weather": ({"city": PLACES, "day": DAYS}, "what is the weather in {city} on {day}"),
    "find_train": ({"start": PLACES, "goal": PLACES}, "find a train from {start} to {goal}"),
    "set_timer": ({"minutes": tuple(range(2, 60, 3))}, "wake me in {minutes} minutes"),
    "send_note": ({"to": PEOPLE, "about": ITEMS}, "tell {to} about the {about}"),
    "buy": ({"item": ITEMS, "count": tuple(range(1, 10))}, "get {count} of {item}"),
    "convert": ({"amount": tuple(range(5, 100, 5)), "into": COINS}, "how much is {amount} in {into}"),
    "call_person": ({"who": PEOPLE, "day": DAYS}, "ring {who} on {day}"),
    "book_room": ({"city": PLACES, "nights": tuple(range(1, 8))}, "a room in {city} for {nights} nights"),
}


def generate(count: int, seed: int) -> list[dict]:
    """`count` different problems in the published schema: one to three calls, among two tools more than are needed."""
    rng, made = random.Random(seed), {}
    for _ in range(100 * count):
        if len(made) == count:
            break
        needed = rng.choices(list(TOOLS), k=rng.choices([1, 2, 3], [0.5, 0.35, 0.15])[0])
        calls = [
            {"name": name, "arguments": {argument: rng.choice(values) for argument, values in TOOLS[name][0].items()}}
            for name in needed
        ]
        others = rng.sample([name for name in TOOLS if name not in needed], 2)
        offered = [*dict.fromkeys(needed), *others]
        rng.shuffle(offered)
        tools = [
            {
                "name": name,
                "parameters": {a: {"type": type(values[0]).__name__} for a, values in TOOLS[name][0].items()},
            }
            for name in offered
        ]
        query = ", and ".join(TOOLS[c["name"]][1].format(**c["arguments"]) for c in calls)
        made.setdefault(query, {"tools": json.dumps(tools), "answers": json.dumps(calls)})
    if len(made) < count:
        raise UserError(f"--count: fewer than {count} different queries were found")
    return [
        {"id": f"calls-{i}", "query": query, **record, "split": split_by_hash(query)}
        for i, (query, record) in enumerate(made.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="generate function calling problems")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        write_generated(args.out, generate(args.count, args.seed))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
