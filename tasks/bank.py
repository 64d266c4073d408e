"""The question bank as a file: our records, rows of MedMCQA and MedQA as they are published, collected conversations.

Nothing is dropped silently: a line that cannot be used is an error with its number, or left out and counted on stderr.
"""

import difflib
import math
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
from tqdm import tqdm

from common import ROOT, UserError
from introspection.prompts import LETTERS
from tasks.letters import without_letters
from tasks.mcq import Exchange, Question, in_order
from tasks.problem import SPLITS, read_records

KEYS = ("id", "question", "options", "answer", "cluster", "split", "explanation", "variants")
EXCHANGE_KEYS = ("id", "question_id", "turns", "final_answer", "gold")
# What published files call their splits.
SPLIT_CALLED = {"train": "train", "test": "test"} | dict.fromkeys(("dev", "val", "valid", "validation"), "val")


# ---- questions -----------------------------------------------------------------------------------------------------
def load_questions(names: str | Path, cluster: str = "", split_by: str = "hash") -> list[Question]:
    """The questions of a bank, in its order.

    names: one file, or text as in Shared.questions: files separated by commas, seen from the repository. cluster: only
    clusters whose name starts with it. split_by: as in Shared. Raises UserError with file and line for anything
    malformed: nothing is dropped silently.
    """
    paths = [names] if isinstance(names, Path) else [ROOT / name.strip() for name in names.split(",")]
    records = read_banks(paths, split_by)
    questions, places = [], {}
    for where, record in tqdm(records, desc="questions", delay=1, leave=False, dynamic_ncols=True, disable=None):
        question = parse_record(record, where)
        if question.id in places:
            first = places[question.id].removeprefix(f"{where.rpartition(':')[0]}:")
            stands = f"on line {first}" if first.isdigit() else f"in {first}"
            raise UserError(f"{where}: id '{question.id}' stands {stands} already; ids must differ")
        places[question.id] = where
        questions.append(question)
    if not questions:
        raise UserError(f"{names}: no questions in the file")
    questions = without_copies(questions, names)
    count_lettered(questions, names)
    kept = [q for q in questions if q.cluster.startswith(cluster) or q.split == "canary"]
    if not any(q.split != "canary" for q in kept):
        known = sorted({q.cluster for q in questions})
        raise UserError(
            f"shared.cluster: no question of a cluster that starts with '{cluster}' in {names}; "
            f"there are {', '.join(known)}"
        )
    return kept


def read_banks(paths: list[Path], split_by: str) -> list[tuple[str, object]]:
    """('file:line', our record) of every line of the files, in their order."""
    records, published = [], []
    for path in paths:
        lines = read_records(path, "shared.questions")
        first = lines[0][1] if lines else None
        if isinstance(first, dict) and ("cop" in first or "answer_idx" in first):
            prefix = "medqa" if len(paths) == 1 else f"medqa-{path.stem}"
            lines = from_published(lines, path, split_by, prefix)
            published += [record for _, record in lines]
        records += lines
    if split_by == "hash":
        give_splits(published)
    return records


def without_copies(questions: list[Question], names: str | Path) -> list[Question]:
    """The questions, of copies (same words, same right option) the first alone; the others are counted on stderr.

    Otherwise what is asked in a test may have been trained under another id, and a copy would serve as the other
    question on which a point is tried.
    """
    first, copies = {}, []
    for question in questions:
        known = first.setdefault((same_words(question.question), alike(question.options[question.answer])), question)
        if known is not question:
            copies.append((question.id, known.id))
    if copies:
        told = f"such as '{copies[0][0]}', which is '{copies[0][1]}'"
        print(f"{names}: {len(copies)} questions that stand there under another id left out, {told}", file=sys.stderr)
    return list(first.values())


def count_lettered(questions: list[Question], names: str | Path) -> None:
    """Says on stderr how many explanations are shown in part, or not at all, where the options are in a new order."""
    explanations = [q.explanation for q in questions if q.explanation]
    bar = tqdm(explanations, desc="explanations", delay=1, leave=False, dynamic_ncols=True, disable=None)
    left = [kept for kept, whole in zip(map(without_letters, bar), explanations, strict=True) if kept != whole]
    if left:
        print(
            f"{names}: {len(left)} explanations name options by letter or place; with options in a new order only the "
            f"rest of them is shown, and of {left.count(None)} there is none",
            file=sys.stderr,
        )


def alike(text: str) -> str:
    """The text without what two writings of it differ in: case and spaces."""
    return "".join(text.casefold().split())


def same_words(text: str) -> str:
    """The same without punctuation, but for a decimal point: 'is caused by:' is 'is caused by'."""
    return re.sub(r"(?<!\d)[.]|[.](?!\d)|[-,:;?!'\"()\[\]_\u2010-\u2019\u201c\u201d]", "", alike(text))


# ---- rows as they are published ------------------------------------------------------------------------------------
def from_published(lines: list[tuple[str, object]], path: Path, split_by: str, prefix: str) -> list[tuple[str, dict]]:
    """Our records from the rows of MedMCQA or MedQA; `split` is None where split_by is hash.

    prefix: of the ids of MedQA, whose rows have none. Rows with options that are empty, or the same but for case and
    spaces, cannot be asked; they are left out and counted on stderr.
    """
    is_medmcqa = "cop" in lines[0][1]
    first = first_cop(lines, path) if is_medmcqa else 0
    split = split_in_name(path) if split_by == "file" else None
    rows, left_out = [], []
    for number, (where, row) in enumerate(lines, start=1):
        try:
            record = from_medmcqa(row, first) if is_medmcqa else from_medqa(row, f"{prefix}-{number}")
        except (KeyError, TypeError, AttributeError) as error:
            kind = "MedMCQA" if is_medmcqa else "MedQA"
            raise UserError(f"{where}: not a {kind} row like the first line ({error!r})") from error
        if len({alike(option) for option in record["options"]} - {""}) < len(record["options"]):
            left_out.append(where)
            continue
        rows.append((where, record | {"split": split_in_column(row, where) if split_by == "column" else split}))
    if left_out:
        print(
            f"{path}: {len(left_out)} rows with equal or empty options left out, the first is {left_out[0]}",
            file=sys.stderr,
        )
    return rows


def first_cop(lines: list[tuple[str, object]], path: Path) -> int:
    """What MedMCQA's `cop` calls the first option: 1 in the raw file, 0 in the hub's copy.

    Raises UserError where that cannot be told, and where answers are withheld (-1).
    """
    given = [row.get("cop") for _, row in lines if isinstance(row, dict)]
    seen = {cop if isinstance(cop, int) else "no number" for cop in given}
    if -1 in seen or not seen <= set(range(5)) or (0 in seen) == (4 in seen):
        raise UserError(
            f"{path}: 'cop' should run from 1 to 4 (raw MedMCQA) or from 0 to 3 (hub copy); "
            f"it has {sorted(map(str, seen))}"
        )
    return 0 if 0 in seen else 1


def from_medmcqa(row: dict, first: int) -> dict:
    names = [text_of(row.get(key)) for key in ("subject_name", "topic_name")]
    return {
        "id": str(row["id"]),
        "question": row["question"],
        "options": [text_of(row[key]) for key in ("opa", "opb", "opc", "opd")],
        "answer": LETTERS[row["cop"] - first],
        "cluster": ": ".join(name for name in names if name),
        "explanation": text_of(row.get("exp")) or None,
    }


def from_medqa(row: dict, name: str) -> dict:
    return {
        "id": name,
        "question": row["question"],
        "options": [text_of(row["options"][letter]) for letter in sorted(row["options"])],
        "answer": row["answer_idx"],
        "cluster": text_of(row.get("meta_info")) or "medqa",
        "explanation": None,
    }


def text_of(value) -> str:
    """A published value as text; empty for what tables write where there is none: null, NaN, 'nan'."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value)
    return "" if text.strip().lower() in ("", "nan") else text


def split_in_column(row: dict, where: str) -> str:
    called = str(row.get("split")).strip().lower()
    if called not in SPLIT_CALLED:
        expected = f"expected one of {', '.join(SPLIT_CALLED)}, got {row.get('split')!r}"
        raise UserError(f"{where}: 'split' (shared.split_by: column): {expected}")
    return SPLIT_CALLED[called]


def split_in_name(path: Path) -> str:
    found = {SPLIT_CALLED[word] for word in re.split("[^a-z]+", path.stem.lower()) if word in SPLIT_CALLED}
    if len(found) != 1:
        expected = f"expected one of {', '.join(SPLIT_CALLED)} as a word of its name"
        raise UserError(f"{path} (shared.split_by: file): {expected}")
    return found.pop()


def give_splits(records: list[dict]) -> None:
    """Gives each record a split by a hash: a tenth of the clusters, of the other questions a tenth val, a fifth test.

    A cluster with more than a tenth of all questions is no test_clusters: too little would be left to train on.
    """
    size = Counter(record["cluster"] for record in records)
    for record in records:
        cluster, drawn = record["cluster"], crc32(record["id"].encode()) % 10
        if size[cluster] * 10 <= len(records) and crc32(cluster.encode()) % 10 == 0:
            record["split"] = "test_clusters"
        else:
            record["split"] = {0: "val", 1: "test", 2: "test"}.get(drawn, "train")


# ---- company -------------------------------------------------------------------------------------------------------
def in_company(questions: list[Question]) -> list[Question]:
    """The questions that are not the only one of their cluster."""
    count = Counter(q.cluster for q in questions)
    return [q for q in questions if count[q.cluster] > 1]


def check_explanations(problems: list, what: str, script: str) -> None:
    """Says on stderr how many of them have no explanation to reveal; what: 'train questions of FILE'.

    Raises UserError where none has one.
    """
    bare = sum(getattr(p, "explanation", None) is None for p in problems)
    if bare == len(problems):
        raise UserError(f"{script}.reveal: none of the {what} has an explanation; use answer")
    if bare:
        print(f"{bare} of the {what} have no explanation: of these the answer alone is told", file=sys.stderr)


def draw_in_company(questions: list[Question], most: int, draw: np.random.Generator) -> list[Question]:
    """At most so many of the questions, in their order, none of them the only one of its cluster.

    What common.draw_some draws, where that leaves none alone. Else two of a cluster, of as many clusters as possible,
    in the order of the same permutation; then more of these clusters.
    """
    order = draw.permutation(len(questions)).tolist()
    chosen = order[:most]
    if len(in_company([questions[i] for i in chosen])) < len(chosen):
        clusters: dict[str, list[int]] = {}
        for i in order:
            clusters.setdefault(questions[i].cluster, []).append(i)
        shown = [places for places in clusters.values() if len(places) > 1][: most // 2]
        pairs = {i for places in shown for i in places[:2]}
        others = {i for places in shown for i in places[2:]}
        chosen = [*pairs, *(i for i in order if i in others)][:most]
    return [questions[i] for i in sorted(chosen)]


# ---- exchanges -----------------------------------------------------------------------------------------------------
def load_exchanges(path: Path, questions: list[Question]) -> list[Exchange]:
    """Collected conversations (docs/reference.md, 'Records') about `questions`.

    Raises UserError with file and line for anything malformed.
    """
    by_id, exchanges, places = {q.id: q for q in questions}, [], {}
    for where, record in read_records(path, "grpo_introspect.exchanges"):
        turns = record.get("turns") if isinstance(record, dict) else None
        if not isinstance(turns, list) or not all(
            isinstance(t, dict) and isinstance(t.get("content"), str) for t in turns
        ):
            raise UserError(f"{where}: expected an object with 'turns', a list of objects with 'role' and 'content'")
        check_keys(record, EXCHANGE_KEYS, where)
        if any(not t["content"].strip() for t in turns):
            raise UserError(f"{where}: a turn is empty; expected text in every 'content'")
        if not turns or [t.get("role") for t in turns] != ["user", "assistant"] * (len(turns) // 2):
            raise UserError(f"{where}: 'turns' must alternate user, assistant, and end with the assistant")
        for key in ("id", "question_id"):
            if not (isinstance(record.get(key), str) and record[key].strip()):
                raise UserError(f"{where}: '{key}' must be non-empty text, got {record.get(key)!r}")
        if record["id"] in places:
            raise UserError(f"{where}: id '{record['id']}' stands in {places[record['id']]} already; ids must differ")
        places[record["id"]] = where
        if "final_answer" not in record:
            raise UserError(f"{where}: no 'final_answer'; expected a letter, or null where the last turn gives none")
        question = by_id.get(record["question_id"])
        if question is None:
            raise UserError(
                f"{where}: question_id {record.get('question_id')!r} is no train question that can be used "
                "(one alone in its cluster needs verify_on: same or transfer_pool: bank)"
            )
        gold, final = record.get("gold") or question.letter, record.get("final_answer")
        letters = list(LETTERS[: len(question.options)])
        if gold not in letters or final not in [*letters, None]:
            raise UserError(
                f"{where}: 'gold' and 'final_answer' must be letters from A to {letters[-1]}, "
                f"got {gold!r} and {final!r}"
            )
        if gold != question.letter and not question.movable:
            raise UserError(
                f"{where}: gold {gold!r} is not the bank's {question.letter!r}, and these options cannot be reordered"
            )
        others = [text for i, text in enumerate(question.options) if i != question.answer]
        shown = in_order(question, others, letters.index(gold))  # the conversation may have shown another order
        exchanges.append(Exchange(record["id"], shown, tuple(t["content"] for t in turns), gold == final))
    if not exchanges:
        raise UserError(f"{path}: no exchanges in the file")
    return exchanges


# ---- records ------------------------------------------------------------------------------------------------------
def parse_record(record, where: str) -> Question:
    """One question record (docs/reference.md, 'Records'); raises UserError saying what was expected."""
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object, got {type(record).__name__}")
    check_keys(record, KEYS, where)
    for key in ("id", "question", "cluster", "split"):
        if not (isinstance(record.get(key), str) and record[key].strip()):
            raise UserError(f"{where}: '{key}' must be non-empty text, got {record.get(key)!r}")
    if record["split"] not in SPLITS:
        raise UserError(f"{where}: 'split' must be one of {', '.join(SPLITS)}, got '{record['split']}'")
    explanation = record.get("explanation")
    if not (explanation is None or isinstance(explanation, str)):
        raise UserError(f"{where}: 'explanation' must be text, got {explanation!r}")
    options, answer = parse_options(record, where)
    variants = record.get("variants") or []
    if not isinstance(variants, list) or not all(
        isinstance(v, dict) and isinstance(v.get("question"), str) and v["question"].strip() for v in variants
    ):
        raise UserError(f"{where}: 'variants' must be a list of objects with 'question' and 'answer'")
    question = Question(
        record["id"], record["question"], options, answer, record["cluster"], record["split"], explanation
    )
    twins = []
    for i, variant in enumerate(variants, start=1):
        twin_options, twin_answer = parse_options({"options": list(options)} | variant, f"{where}, variant {i}")
        twins.append(
            replace(
                question,
                id=f"{question.id}~{i}",
                question=variant["question"],
                options=twin_options,
                answer=twin_answer,
            )
        )
    return replace(question, variants=tuple(twins))


def check_keys(record: dict, known: tuple[str, ...], where: str) -> None:
    """Raises UserError for a key that looks like a known one that is missing; others are the user's own."""
    missing = [key for key in known if key not in record]
    for key in record:
        meant = difflib.get_close_matches(str(key), missing, n=1, cutoff=0.75) if key not in known else []
        if meant:
            raise UserError(f"{where}: unknown key '{key}'; did you mean '{meant[0]}'?")


def parse_options(record: dict, where: str) -> tuple[tuple[str, ...], int]:
    """(options, index of the right one)."""
    options, answer = record.get("options"), record.get("answer")
    if not isinstance(options, list) or not all(isinstance(o, str) and o.strip() not in ("", "nan") for o in options):
        raise UserError(f"{where}: 'options' must be a list of non-empty texts, got {options!r}")
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"{where}: expected 2 to {len(LETTERS)} options, got {len(options)}")
    if len(set(map(alike, options))) != len(options):
        raise UserError(f"{where}: two options are the same text, or differ in case and spaces alone")
    if answer is None:
        raise UserError(f"{where}: no 'answer'; expected the letter of the right option")
    letters = LETTERS[: len(options)]
    if not (isinstance(answer, str) and len(answer) == 1 and answer in letters):
        raise UserError(f"{where}: 'answer' must be a letter from {letters[0]} to {letters[-1]}, got {answer!r}")
    return tuple(options), letters.index(answer)
