"""Table points: who writes points, who reads them, and the controls beside them (tables T6, T10).

Every condition gives one record a question: accuracy with the points, and without, on the same views.
"""

from dataclasses import replace

import numpy as np

from common import RolloutPhase, TablePhase, rng
from introspection import detectors, library
from introspection.reader import Reader
from introspection.rollouts import Attempt, Group, Point, rollout_1, rollout_2, rollout_3, unmeasured
from introspection.sampling import Completion
from introspection.tables.units import Cast, Condition, Settings, difference, units_by_place
from tasks.mcq import Question, transfer_views

BLIND = {f"blind: {kind}": kind for kind in ("nothing", "swapped", "other")}  # label: what a blind writer is told


def best_of_label(n: int) -> str:
    return f"best of {n}"


HEADS = ("with", "without", "advantage")


def primary(cfg: Settings) -> tuple[str, str, str]:
    """(split, condition, reader) of the contrast that was named beforehand."""
    return ("test_clusters", "handshake", "own") if cfg.foreign else ("test_clusters", "points", "start")


def conditions(cfg: Settings, writer: str, trained: list[str]) -> list[Condition]:
    """For one writer: 'start', a trained one, or the foreign model (table T10: who understands whom)."""
    is_start, is_foreign = writer == "start", writer == cfg.foreign
    readers = ["start"]
    if cfg.own_reader and not is_start:
        readers.append("own")
    if cfg.foreign and not is_foreign:
        readers.append(cfg.foreign)
    if cfg.foreign and writer not in trained:
        readers += trained
    made = [Condition("points", "points", reader) for reader in readers]
    if cfg.blind and not is_foreign:
        made += [Condition("blind", label, "start", kind) for label, kind in BLIND.items()]
    if cfg.best_of and is_start:
        made.append(Condition("best of", best_of_label(cfg.best_of), "start"))
    if cfg.library and is_start:
        made.append(Condition("library", "library", "start"))
    elif cfg.library and writer in trained and cfg.own_reader:  # does a trained reader still read well?
        made.append(Condition("library", "library", "own"))
    return made


def measure(cfg: Settings, condition: Condition, cast: Cast) -> list[dict]:
    """The records of one condition."""
    writer, reader, questions = cast.writer, cast.reader, cast.questions
    if condition.kind == "library":
        return try_points(cfg, reader, from_library(cfg, reader, questions, cast.records["library"]))
    if condition.kind == "best of":
        groups = write_points(cfg, writer, questions, cfg.reveal, cfg.best_of, cfg.n_verify)
        return best_of(cfg, reader, groups, questions)
    reveal = condition.detail if condition.detail in ("nothing", "swapped") else cfg.reveal
    groups = write_points(cfg, writer, questions, reveal, cfg.group_size, cfg.n_verify)
    if condition.detail == "other":
        swap_points(cfg, groups)
    return try_points(cfg, reader, groups)


# ---- writers -------------------------------------------------------------------------------------------------------
def write_points(
    cfg: Settings, writer: Reader, questions: list[Question], reveal: str, n_points: int, n_verify: int
) -> list[Group]:
    """Rollouts 1 and 2: the points of a writer, and the views of each question on which any reader will try them."""
    groups = rollout_1(
        writer, questions, questions, group_size=n_points, verify_on="transfer", n_verify=n_verify,
        correction_turns=cfg.correction_turns,
    )  # fmt: skip
    asked = {"reveal": reveal, "max_point_tokens": cfg.max_point_tokens, "introspect": cfg.introspect}
    rollout_2(writer, groups, contributors="both", **asked)
    return groups


def swap_points(cfg: Settings, groups: list[Group]) -> None:
    """Gives every question the points of a question of another cluster."""
    texts = [[p.text for p in g.points] for g in groups]
    for i, group in enumerate(groups):
        others = [j for j in range(len(groups)) if groups[j].question.cluster != group.question.cluster]
        chosen = others[rng(cfg.seed, TablePhase.ELSEWHERE, i).integers(len(others))]
        for point, text in zip(group.points, texts[chosen], strict=True):
            point.text = text


def from_library(cfg: Settings, reader: Reader, questions: list[Question], records: list[dict]) -> list[Group]:
    """Each question's best point from a file; a composite gets that of each of its clusters, in a row."""
    groups = []
    for group in rollout_1(reader, questions, questions, group_size=1, verify_on="transfer", n_verify=cfg.n_verify):
        text = library.point_of(group.question.id, records)
        if text is not None:
            silent = Completion([], [], True)
            group.points = [Point([], Attempt(silent, False), [], *unmeasured(len(group.views_V)), silent, text)]
            groups.append(group)
    return groups


def try_points(cfg: Settings, reader: Reader, groups: list[Group]) -> list[dict]:
    """Rollout 3: accuracy with a question's points and without. One that does not parse, or leaks, counts as none."""
    rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward="sampled")
    records = []
    for g in groups:
        fresh = g.fresh_accuracies_V.mean().item()
        points = [p.accuracies_V.mean().item() if p.valid else fresh for p in g.points]
        records.append(
            {
                "question_id": g.question.id,
                "cluster": g.question.cluster,
                "with": float(np.mean(points)),
                "without": fresh,
                "valid": sum(p.valid for p in g.points) / len(g.points),
                "exam_strategy": exam_strategies(g.points),
            }
        )
    return records


def exam_strategies(points: list[Point]) -> dict[str, list[int]]:
    """{corrections that came before it: [points, those of them that state an exam strategy]} (paper, 'Meta-Gaming')."""
    counts: dict[str, list[int]] = {}
    for point in (p for p in points if p.text):
        count = counts.setdefault(str(len(point.attempt.before) // 2), [0, 0])
        count[0] += 1
        count[1] += detectors.is_meta_gaming(point.text)
    return counts


def best_of(cfg: Settings, reader: Reader, groups: list[Group], questions: list[Question]) -> list[dict]:
    """The null of every writer: keep the best of N points on half of the cluster's other questions, measure it on the
    rest.

    A question with a single other one in its cluster is left out.
    """
    halves = {}
    for g in groups:
        others = [q for q in questions if q.cluster == g.question.cluster and q.id != g.question.id]
        order = rng(*reader.key, RolloutPhase.VIEWS, g.number, 1).permutation(len(others))
        halves[g.number] = [[others[i] for i in order[k::2]] for k in range(2)]
    groups = [g for g in groups if all(halves[g.number])]

    def on_half(k: int) -> list[dict]:
        for g in groups:
            draw = rng(*reader.key, RolloutPhase.VIEWS, g.number, 2 + k)
            g.views_V = transfer_views(g.question, halves[g.number][k], cfg.n_verify, draw)
            for p in g.points:
                p.accuracies_V, p.rewards_V = unmeasured(cfg.n_verify)
                p.verifications = []
        half = replace(reader, key=(*reader.key[:-1], reader.key[-1] + 1 + k), generated=0)  # new noise for each half
        records = try_points(cfg, half, groups)
        reader.generated += half.generated
        return records

    on_half(0)
    for g in groups:
        valid = [p for p in g.points if p.valid] or g.points
        g.points = [max(valid, key=lambda p: p.accuracies_V.nan_to_num().mean().item())]
    return on_half(1)


# ---- what is compared ----------------------------------------------------------------------------------------------
def expand(cfg: Settings, units: list[dict]) -> list[dict]:
    """The units and what is compared within them, question by question.

    points - blind, points - best of N: what the exchange, and training, added. handshake: what a trained writer and its
    trained reader gain beyond what each gains with the start model.
    """
    at, best = units_by_place(units), best_of_label(cfg.best_of)
    added = []
    for u in (u for u in units if u["writer"] != "start" and u["condition"] == "points"):
        writer, split, own = u["writer"], u["split"], u["questions"]
        if u["reader"] == "start":
            taken_off = {label: at.get((writer, split, label, "start")) for label in BLIND}
            taken_off[best] = at.get(("start", split, best, "start"))
            added += [difference(u, f"points - {label}", [own], [q]) for label, q in taken_off.items() if q is not None]
        elif u["reader"] == "own" and ("start", split, "points", writer) in at:
            plus = [own, at["start", split, "points", "start"]]
            minus = [at[writer, split, "points", "start"], at["start", split, "points", writer]]
            added.append(difference(u, "handshake", plus, minus))
    return units + added


def remark(units: list[dict]) -> tuple[None, str]:
    """How many points state an exam strategy, by how often the attempt had been corrected; where any was."""
    lines = []
    for u in (u for u in units if u["condition"] == "points" and u["reader"] == "start"):
        counts: dict[str, list[int]] = {}
        for record in u["questions"]:
            for turns, (points, strategies) in record.get("exam_strategy", {}).items():
                known = counts.setdefault(turns, [0, 0])
                counts[turns] = [known[0] + points, known[1] + strategies]
        if set(counts) - {"0"}:
            told = ", ".join(f"after {t} corrections {k} of {n}" for t, (n, k) in sorted(counts.items()))
            lines.append(f"Points that state an exam strategy, writer {u['writer']}, {u['split']}: {told}")
    return None, "".join(f"\n\n{line}" for line in lines)
