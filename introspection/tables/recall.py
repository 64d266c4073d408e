"""Table recall (T8): what models taught by stage 2 recall, and what else could be put in its place.

Every condition gives one record a question, tried with its options in new orders: accuracy with the text, and without.
"""

import itertools

import numpy as np

from common import RolloutPhase, TablePhase, rng
from introspection import library, prompts
from introspection.bm25 import Bm25
from introspection.reader import Reader
from introspection.recall import begin_turns, recall_likeliest, recall_scores, with_each_left_out
from introspection.stats import cluster_means, mean
from introspection.tables.units import Cast, Condition, Settings, by_cluster, difference, in_every_unit, units_by_place
from tasks.mcq import Question, grade, same_views

# What a taught model recalls: as its turns are sampled; the likeliest point, wherever its threshold says so; the
# likeliest points of the whole question and of its parts, always.
OWN_WORDS = {"recalled": "recalled", "fired": "recalled by threshold", "union": "union of recalls"}
RECALLED = [
    *(Condition(kind, OWN_WORDS[kind], reader) for kind in ("recalled", "fired") for reader in ("own", "start")),
    Condition("union", OWN_WORDS["union"], "start"),
]
REPLACED = [Condition("replaced", f"recall: {text}", "own", text) for text in ("emptied", "random", "wrong")]
GIVEN = {  # label: which text the start model is given
    "best point": "best",
    "parent 1": "parent 1",
    "parent 2": "parent 2",
    "random point": "random",
    "wrong point": "wrong",
    "ideal point": "ideal",
    "BM25": "BM25",
    "BM25's cluster, its best point": "BM25's cluster",
    "BM25's two clusters, their best points": "BM25's two clusters",
    "one point a cluster": "one a cluster",
}
RIVALS = ("BM25", "BM25's cluster, its best point")  # what is recalled is held against
COMPOSED = ("BM25", "BM25's two clusters, their best points")

HEADS = ("with", "without", "advantage")


def primary(cfg: Settings) -> tuple[str, str, str]:
    """(split, condition, reader) of the contrast that was named beforehand."""
    return "test", OWN_WORDS["fired"], "start"


def conditions(cfg: Settings, writer: str, trained: list[str]) -> list[Condition]:
    """For one recaller, or for the start model with what it can be given instead."""
    if writer != "start":
        return RECALLED + REPLACED
    return [Condition("given", label, "start", text) for label, text in GIVEN.items()]


def measure(cfg: Settings, condition: Condition, cast: Cast) -> list[dict]:
    """The records of one condition. Every question is asked in n_verify orders of its options.

    `without` is always the start model without a point. `fired`: the share of turns that begin with a recalled point;
    `score`: the probability of the first token of one; `text`: the first point recalled.
    """
    # Which questions have a text, and their orders of options: the same noise whatever other conditions leave out.
    texts = None
    if condition.kind not in OWN_WORDS:
        texts = texts_of(condition.detail, cast.questions, cast.records, cast.sources)
    places = [i for i in range(len(cast.questions)) if texts is None or texts[i] is not None]
    n, start, recaller = cfg.n_verify, cast.start, cast.writer
    views = []
    for i in places:
        views += same_views(cast.questions[i], n, rng(*start.key, RolloutPhase.VIEWS, i))
    numbers = [(i, v) for i in places for v in range(n)]
    # The start model without a point: what every condition is compared with.
    unaided = start.answer_kept([start.prompt(v) for v in views], views, TablePhase.UNAIDED, numbers)
    points = [texts[i] for i in places for _ in range(n)] if texts else []
    # What the recaller writes of its own accord, and the point that it recalls in it.
    asked, turns, said = [], [], []
    if condition.kind != "given":
        asked = [recaller.prompt(v) for v in views]
    if condition.kind == "union":
        said = [text for text in unions(cfg, recaller, views[::n], cast.records["library"]) for _ in range(n)]
    elif condition.kind != "given":
        turns = recalling(cfg, condition.kind, recaller, asked, views, numbers)
        said = [prompts.parse_recall(text) for text in turns]
    # Who answers: the recaller, with its own point or with another in its place; or the start model, given one.
    if condition.reader == "own":
        answers = turns
        if condition.kind == "replaced":
            answers = replace_recalled(recaller, asked, views, turns, said, points, numbers)
    else:
        read = said if condition.kind in OWN_WORDS else points
        told = [start.prompt(view, point) for view, point in zip(views, read, strict=True)]
        answers = [start.chat.text(c.ids) for c in start.answer(told, views, TablePhase.ANSWERING, numbers=numbers)]
    # One record a question, over its orders.
    right = [grade(text, v) for text, v in zip(answers, views, strict=True)]
    alone = [grade(start.chat.text(c.ids), v) for c, v in zip(unaided, views, strict=True)]
    records = []
    for k, i in enumerate(places):
        part, question = slice(k * n, (k + 1) * n), cast.questions[i]
        record = {"question_id": question.id, "cluster": question.cluster}
        record |= {"with": sum(right[part]) / n, "without": sum(alone[part]) / n}
        if condition.kind in OWN_WORDS:
            fired = [text for text in said[part] if text is not None]
            record |= {"fired": len(fired) / n, "text": fired[0] if fired else None}
        records.append(record)
    if condition.kind in OWN_WORDS:
        for record, score in zip(records, recall_scores(recaller, asked[::n]), strict=True):
            record["score"] = score
    return records


def recalling(
    cfg: Settings, kind: str, recaller: Reader, asked: list[list[int]], views: list[Question], numbers: list[tuple]
) -> list[str]:
    """The recaller's turns: sampled; with the likeliest point where its threshold is reached (kind fired)."""
    begun, phase = [[] for _ in asked], TablePhase.RECALLING
    longest = cfg.max_new_tokens + cfg.max_point_tokens
    if kind == "fired":
        phase = TablePhase.BEGUN
        draws = [rng(*recaller.key, TablePhase.FIRST, *number).random() for number in numbers]
        begun = begin_turns(recaller, asked, recaller.fire_at, draws)
        begun = recall_likeliest(recaller, asked, begun, phase, longest)
    prompt_ids = [prompt + first for prompt, first in zip(asked, begun, strict=True)]
    sampled = recaller.answer(prompt_ids, views, phase, max_new_tokens=longest, numbers=numbers)
    return [recaller.chat.text(first + c.ids) for first, c in zip(begun, sampled, strict=True)]


def unions(cfg: Settings, recaller: Reader, questions: list[Question], records: list[dict]) -> list[str | None]:
    """For each question one text: its likeliest points, as a whole and with each sentence left out, one a cluster.

    Recall always fires. A recalled text is of the cluster whose point it repeats, else of that whose point BM25 finds
    nearest.
    """
    listed = [r for r in records if r["text"] and not r["leak"]]
    known, nearest = {library.essence(r["text"]): r["cluster"] for r in listed}, Bm25([r["text"] for r in listed])
    parts = [(i, part) for i, question in enumerate(questions) for part in with_each_left_out(question)]
    asked = [recaller.prompt(part) for _, part in parts]
    begun = begin_turns(recaller, asked, 0.0, [0.0] * len(asked))
    longest = cfg.max_new_tokens + cfg.max_point_tokens
    recalled = recall_likeliest(recaller, asked, begun, TablePhase.BEGUN, longest)
    of_question: list[dict[str, str]] = [{} for _ in questions]
    for (i, _), ids in zip(parts, recalled, strict=True):
        text = prompts.parse_recall(recaller.chat.text(ids))
        if text is not None:
            cluster = known.get(library.essence(text)) or listed[nearest.best(text)]["cluster"]
            of_question[i].setdefault(cluster, text)
    return [". ".join(points.values()) or None for points in of_question]


def replace_recalled(
    recaller: Reader,
    asked: list[list[int]],
    views: list[Question],
    turns: list[str],
    said: list[str | None],
    points: list[str],
    numbers: list[tuple],
) -> list[str]:
    """The turns, but where the recaller recalled something it goes on after another text instead."""
    swapped = [k for k, text in enumerate(said) if text is not None]
    forced = []
    for k in swapped:
        block = prompts.RECALL.format(point=prompts.plain(points[k]))
        forced.append(asked[k] + recaller.chat.content_ids(block))
    answers = list(turns)
    shown = [views[k] for k in swapped]
    sampled = recaller.answer(forced, shown, TablePhase.ANSWERING, numbers=[numbers[k] for k in swapped])
    for k, completion in zip(swapped, sampled, strict=True):
        answers[k] = recaller.chat.text(completion.ids)
    return answers


# ---- the texts that can be given -----------------------------------------------------------------------------------
def clusters_of(question: Question) -> list[str]:
    return question.cluster.split("+") if question.split == "composite" else [question.cluster]


def parents(question: Question, records: list[dict]) -> list[str]:
    """The best of the records for each of a question's clusters, its own question's first."""
    texts = []
    for cluster in clusters_of(question):
        fitting = [r for r in records if r["cluster"] == cluster]
        own = [r for r in fitting if r["question_id"] == question.id]
        if fitting:
            texts.append(library.best(own or fitting)["text"])
    return texts


def texts_of(
    which: str, questions: list[Question], records: dict[str, list[dict]], sources: dict[str, str]
) -> list[str | None]:
    """The text that a condition gives to each question, None where it has none. sources: question texts by id."""
    listed = [r for r in records["library"] if r["text"] and not r["leak"]]
    clusters = sorted({r["cluster"] for r in listed})
    best = {c: library.best([r for r in listed if r["cluster"] == c])["text"] for c in clusters}
    bm25 = Bm25([sources.get(r["question_id"], "") + " " + r["text"] for r in listed])

    def nearest_clusters(q: Question) -> list[str]:
        """Clusters of the records, the best fitting first."""
        order = np.argsort(-bm25.scores(q.question), kind="stable")
        return list(dict.fromkeys(listed[k]["cluster"] for k in order))

    def text_for(i: int, q: Question) -> str | None:
        own, others = parents(q, listed), [text for c, text in best.items() if c not in clusters_of(q)]
        whole = own if len(own) == len(clusters_of(q)) else []
        match which:
            case "best":
                return ". ".join(whole) or None
            case "parent 1":
                return whole[0] if len(whole) == 2 else None
            case "parent 2":
                return whole[1] if len(whole) == 2 else None
            case "random":
                return others[rng(TablePhase.ELSEWHERE, i).integers(len(others))] if others else None
            case "wrong" | "ideal":
                return ". ".join(r["text"] for r in records[which] if r["question_id"] == q.id) or None
            case "BM25":
                return listed[bm25.best(q.question)]["text"] if listed else None
            case "BM25's cluster" | "BM25's two clusters":
                chosen = nearest_clusters(q)[: 1 if which == "BM25's cluster" else 2]
                return ". ".join(best[c] for c in chosen) or None
            case "one a cluster":
                return ". ".join(best.values()) or None
            case "emptied":
                return ""
        raise ValueError(which)

    return [text_for(i, q) for i, q in enumerate(questions)]


# ---- what is compared ----------------------------------------------------------------------------------------------
def expand(cfg: Settings, units: list[dict]) -> list[dict]:
    """The units and what is compared within them, question by question.

    recalled - emptied: what a recaller's own words are worth to it. recalled - BM25: what retrieval would have been
    worth. interaction: what a text given to a composite is worth beyond its parents: R - P1 - P2 + N, accuracies with
    that text, with each parent's point, and with none.
    """
    at, added = units_by_place(units), []
    for u in units:
        writer, split, label = u["writer"], u["split"], u["condition"]
        if (label, u["reader"]) == ("recalled", "own"):
            emptied = at[writer, split, "recall: emptied", "own"]
            added.append(difference(u, "recalled - emptied", [u["questions"]], [emptied]))
        if u["reader"] == "own" or label not in (*OWN_WORDS.values(), *COMPOSED):
            continue
        if split == "composite":  # of gains over N: (R - N) - (P1 - N) - (P2 - N)
            both = [at["start", split, name, "start"] for name in ("parent 1", "parent 2")]
            added.append(difference(u, f"interaction: {label}", [u["questions"]], both))
        for rival in RIVALS if label in OWN_WORDS.values() else ():
            other = at.get(("start", split, rival, "start"))
            if other:
                added.append(difference(u, f"{label} - {rival}", [u["questions"]], [other]))
    return units + added


def auroc(scores: list[float], needed: list[bool]) -> float | None:
    """Probability that a question that needs a point scores higher than one that does not; None without both kinds."""
    high, low = ([s for s, n in zip(scores, needed, strict=True) if n == kind] for kind in (True, False))
    wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low)
    return wins / (len(high) * len(low)) if high and low else None


def needs(best: list[dict], gain: float = 0.2, enough: float = 0.9) -> dict[str, bool]:
    """Whether questions need a point: True where the best one gains `gain`, False where they are right without.

    The middle is left out.
    """
    kinds = {r["question_id"]: False for r in best if r["without"] >= enough}
    return kinds | {r["question_id"]: True for r in best if r["with"] - r["without"] >= gain}


def remark(units: list[dict]) -> tuple[list[dict], str]:
    """(summary, the same for people).

    How often recall fires where it should, and what share of the best point's advantage it keeps.
    """
    lines, summary = [], summarise(units)
    lines.append(
        "| split | text | recall fires | where needed | where not needed | AUROC "
        "| share of the best point's advantage, start reader |"
    )
    lines.append("|" + "---|" * 7)
    for r in summary:
        needed = f"{shown(r['fires_needed'])} (n {r['needed']})"
        other = f"{shown(r['fires_not_needed'])} (n {r['not_needed']})"
        cells = [r["split"], r["text"], f"{r['fires']:.2f}", needed, other, shown(r["auroc"]), shown(r["gap_closed"])]
        lines.append("| " + " | ".join(cells) + " |")
    return summary, "\n\n" + "\n".join(lines)


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def summarise(units: list[dict]) -> list[dict]:
    """One record a split and a way of recalling: how often it fires, where it should and where not; the share of the
    best point that is kept.
    """
    best_of_split = {u["split"]: u["questions"] for u in units if u["condition"] == "best point"}
    lines = []
    for split, label in itertools.product(dict.fromkeys(u["split"] for u in units), OWN_WORDS.values()):
        place = {"split": split, "condition": label, "reader": "start"}
        seeds, best = [u["questions"] for u in units if place.items() <= u.items()], best_of_split.get(split, [])
        if seeds:
            needed = needs(best or seeds[0])  # without a best point the first recaller's own gains say what needs one
            closed = {"gap_closed": gap_closed(seeds, best)}
            lines.append({"split": split, "text": label} | firing(seeds, needed) | closed)
    return lines


def firing(seeds: list[list[dict]], needed: dict[str, bool]) -> dict:
    """How often recall fires; seeds: the records of each recaller; needed: of the questions that are judged."""
    judged = [[r for r in records if r["question_id"] in needed] for records in seeds]
    fired = {True: [], False: []}
    for r in (r for records in judged for r in records):
        fired[needed[r["question_id"]]].append(r["fired"])
    areas = [auroc([r["score"] for r in part], [needed[r["question_id"]] for r in part]) for part in judged]
    return {
        "needed": sum(needed.values()),
        "fires_needed": mean(fired[True]),
        "not_needed": len(needed) - sum(needed.values()),
        "fires_not_needed": mean(fired[False]),
        "fires": mean(r["fired"] for records in seeds for r in records),
        "auroc": mean(areas),
    }


def gap_closed(seeds: list[list[dict]], best: list[dict]) -> float | None:
    """Advantage of what was recalled / advantage of the best point, on the same questions; None without a gap."""
    *kept, top = in_every_unit([*seeds, best])
    gap = cluster_means([by_cluster(top)]).mean() if top else 0.0
    return float(cluster_means([by_cluster(s) for s in kept]).mean() / gap) if gap > 0.02 else None
