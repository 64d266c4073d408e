"""T6, the primary: do losers write more informative points than winners, on the same question?

    python -m reproduce.contributors [--jobs 2] [--quick]   # results/contributors.jsonl, .json, .md, .svg

The start model and writers that stage 1 trained answer each question eight times; where some are right and some wrong,
both write points, losers after seeing the answer, the explanation too, or a winner's attempt. The start model reads
them, on the point's own question and on others of its cluster. Beside that the same attempts by a blind writer, who is
told neither what is right nor whether it was: what losers gain there was not in what they were shown. Clusters of
'test_clusters' were never rewarded (skill), those of 'test' were (memory).
"""

import copy
from dataclasses import replace
from itertools import product

import numpy as np

from common import ReaderNumber, Shared, draw_some, rng
from introspection import models
from introspection.reader import Reader
from introspection.report.comparisons import dots
from introspection.report.figures import BLUE, GREY
from introspection.rollouts import Group, rollout_1, rollout_2, rollout_3
from reproduce.records import group, markdown_table, shown_interval
from reproduce.runs import Asked, ask, less, make_missing, over_clusters, publish, rounded, start
from tasks.bank import load_questions
from tasks.mcq import Question

BANK, MODEL = "data/bank.jsonl", "organism/weights"
REVEALS, SEEDS = ("answer", "explanation", "peer"), (0, 1, 2)
TRAINING = {"steps": 60, "group_size": 8, "eval_every": 0, "eval_questions": 24, "show_every": 0}
QUESTIONS, GROUP, VIEWS, FRESH = {"test_clusters": 240, "test": 120}, 8, 4, 4


def reader_of(folder: str) -> Reader:
    chat, policy = models.load_chat(folder), models.load_policy(folder, Shared())
    return Reader(policy, chat, 1.0, 48, (0, 0, ReaderNumber.EVALUATION))


def mixed(writer: Reader, questions: list[Question], pool: list[Question]) -> list[Group]:
    """Rollout 1: the questions that the writer answers right and wrong."""
    groups = rollout_1(writer, questions, pool, group_size=GROUP, verify_on="both", n_verify=VIEWS)
    return [g for g in groups if 0 < sum(a.won for a in g.attempts_G) < GROUP]


def record_of(group: Group) -> dict:
    """What a question's points are worth, by who wrote them; one that does not parse or leaks is worth nothing."""
    record = {"question": group.question.id, "cluster": group.question.cluster}
    for kind in ("same", "transfer"):
        record[f"without {kind}"] = group.fresh_accuracies_V[group.on(kind)].mean().item()
    for won, name in ((True, "winners"), (False, "losers")):
        points = [p for p in group.points if p.won == won]
        for kind in ("same", "transfer"):
            record[f"{name} {kind}"] = float(np.mean([group.gain(p, kind) if p.valid else 0.0 for p in points]))
        record[f"{name} n"] = len(points)
        record[f"{name} leaks"] = sum(p.leak for p in points)
    return record


def measure(writer: Reader, reader: Reader, groups: list[Group], reveal: str) -> list[dict]:
    """One record a question that was answered both ways."""
    rollout_2(writer, groups, contributors="both", reveal=reveal, max_point_tokens=64)
    rollout_3(reader, groups, n_fresh=FRESH, reward="sampled")
    return [record_of(g) for g in groups]


def make(asked: Asked, run: dict) -> dict:
    """What points of a writer, trained here where it has to be, are worth: records by split, told and blind."""
    folder = MODEL
    if run["writer"] == "trained":
        home = asked.runs / f"writers/{run['reveal']}-{run['seed']}"
        settings = TRAINING | {"shared.seed": run["seed"], "reveal": run["reveal"]}
        start(
            ["grpo_introspect.py"], "bank", home, settings | ({"steps": 2, "eval_questions": 8} if asked.quick else {})
        )
        folder = str(home / "grpo_introspect/final")
    bank, found = load_questions(BANK), {}
    writer, reader = reader_of(folder), replace(reader_of(MODEL), kept={})
    for split, most in QUESTIONS.items():
        pool = [q for q in bank if q.split == split]
        questions = draw_some(pool, 12 if asked.quick else most, rng(0))
        groups = mixed(writer, questions, pool)
        for told, reveal in (("told", run["reveal"]), ("blind", "nothing")):  # of the same attempts, on the same views
            found[f"{split}, {told}"] = measure(writer, reader, copy.deepcopy(groups), reveal)
    return rounded(found)


# ---- the page ------------------------------------------------------------------------------------------------------
KINDS = {"same": "own question", "transfer": "others of its cluster"}
SIDES = ("winners' points", "losers' points")


def sides(records: list[dict], side: str, kind: str) -> dict[str, list[float]]:
    """Gains by cluster: of 'winners', of 'losers', or of losers minus winners ('difference')."""
    if side == "difference":
        return group((r["cluster"], r[f"losers {kind}"] - r[f"winners {kind}"]) for r in records)
    return group((r["cluster"], r[f"{side} {kind}"]) for r in records)


def row_of(lines: list[dict], writer: str, reveal: str, split: str, kind: str) -> dict:
    """Losers against winners of one kind of writer, told and blind, over its seeds."""
    told, blind = ([line[f"{split}, {name}"] for line in lines] for name in ("told", "blind"))
    row = {
        "writer": writer, "reveal": reveal, "split": split, "kind": kind, "seeds": len(lines),
        "questions": [len(records) for records in told],
        "leaks": {side: sum(r[f"{side} leaks"] for s in told for r in s) / sum(r[f"{side} n"] for s in told for r in s)
                  for side in ("winners", "losers")},
    }  # fmt: skip
    for side in ("winners", "losers", "difference"):
        row[side] = over_clusters([sides(records, side, kind) for records in told])
    apart = [[sides(records, "difference", kind) for records in part] for part in (told, blind)]
    row["blind difference"] = over_clusters(apart[1])
    row["told minus blind"] = over_clusters(less(*apart))
    return row


def records_of(lines: list[dict]) -> dict:
    """The table as records."""
    parts = group(((line["run"]["writer"], line["run"]["reveal"]), line) for line in lines)
    places = product(QUESTIONS, ("start", "trained"), KINDS, REVEALS)
    return {
        "rows": [
            row_of(parts[writer, reveal], writer, reveal, split, kind)
            for split, writer, kind, reveal in places
            if (writer, reveal) in parts
        ]
    }


def blocks(lines: list[dict], records: dict) -> list[str | list[str]]:
    """The page."""
    cells = []
    for row in records["rows"]:
        place = [row["split"], row["writer"], row["reveal"], KINDS[row["kind"]]]
        told = ("winners", "losers", "difference", "blind difference", "told minus blind")
        leaks = "{winners:.2f}, {losers:.2f}".format(**row["leaks"])
        asked = ", ".join(map(str, row["questions"]))
        cells.append([*place, *(shown_interval(row[name]) for name in told), leaks, asked])
    head = ["clusters", "writer", "losers see", "read on", "winners", "losers", "losers - winners", "the same, blind"]
    return [
        "# T6: losers' points against winners', on the same question",
        "Questions that a writer answers right and wrong in eight attempts; accuracy with a point minus without, start "
        "reader; points that leak or do not parse are worth nothing. Blind: the same attempts, points written without "
        f"being told what is right or whether it was. Trained: {TRAINING['steps']} steps on both kinds of points, "
        "verified on other questions. Primary: losers - winners, trained, answer, others of the cluster, "
        "test_clusters (never rewarded).",
        markdown_table([*head, "told - blind", "leaks: winners, losers", "questions"], cells),
        "95 % intervals over seeds and clusters.",
    ]


def draw(plt, records: dict):
    """Winners' and losers' points on clusters never rewarded."""
    part = [row for row in records["rows"] if row["split"] == "test_clusters"]
    primary = [r for r in part if (r["writer"], r["reveal"], r["kind"]) == ("trained", "answer", "transfer")]
    e = (primary or part)[0]["difference"]
    title = f"Losers' points minus winners' on the same question, trained, answer shown: {shown_interval(e, '+.2f')}"
    shown = []
    for row in part:
        bars = [(row[side], color) for side, color in (("winners", GREY), ("losers", BLUE))]
        label = f"{row['writer']}, {row['reveal']}: {KINDS[row['kind']]}"
        side_bars = [
            (b["mean"], b["low"], b["high"], color, name) for (b, color), name in zip(bars, SIDES, strict=True)
        ]
        shown.append((label, "", side_bars))
    note = "clusters never rewarded; questions answered both ways; start reader; bars: 95 % over seeds and clusters"
    return dots(plt, title, note, "accuracy with the point - without", shown, 1.0 + 0.4 * len(shown))


def main() -> None:
    asked = ask(__doc__)
    reveals, seeds = (REVEALS[:1], SEEDS[:1]) if asked.quick else (REVEALS, SEEDS)
    runs = [{"writer": "start", "reveal": reveal, "seed": 0} for reveal in reveals]
    runs += [{"writer": "trained", "reveal": reveal, "seed": seed} for seed in seeds for reveal in reveals]
    lines = make_missing(asked, "contributors", runs, make)
    records = records_of(lines)
    publish(asked, "contributors", lines, records, blocks(lines, records), draw)


if __name__ == "__main__":
    main()
