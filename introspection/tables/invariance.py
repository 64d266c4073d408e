"""Is a learning point as good as the exchange that it stands for? (paper, 'Problem formulation' and 'Energy landscape')

Output invariance defines an introspection: the answer given (question, point) is the answer given (question, full
exchange). What is measured against an exchange is also measured between two exchanges on the same question: that is the
ceiling.
"""

import torch

from common import TablePhase, UserError
from introspection import detectors, prompts
from introspection.reader import Reader
from introspection.rollouts import Group, Point, after_exchange, answer_logprobs, rollout_1, rollout_2
from introspection.sampling import Completion, Trajectory, in_parts, left_pad
from introspection.tables.units import Cast, Condition, Settings
from tasks.mcq import Question, letter_in

METRICS = ("agreement", "kl", "distance")  # letters that agree; nats; 1 - cosine in the residual stream
PLACES = ("again: asked again", "again: point in the failed conversation", "again: point in a fresh one")


KINDS = {"same": "same", "transfer": "transfer", "again": "same"}  # condition: on which views points are tried

HEADS = ("measured", "beside it", "difference")  # beside it: the ceiling, or a fresh conversation without the point


def primary(cfg: Settings) -> tuple[str, str, str]:
    """(split, condition, reader) of the contrast that was named beforehand."""
    return "test_clusters", "agreement, same", "start"


def conditions(cfg: Settings, writer: str, trained: list[str]) -> list[Condition]:
    readers = ["start", "own"] if writer != "start" and cfg.own_reader else ["start"]
    return [Condition(name, name, reader) for name in KINDS for reader in readers]


def measure(cfg: Settings, condition: Condition, cast: Cast) -> list[dict]:
    """The records of one condition, a question each.

    'same' and 'transfer' name the views (invariance), 'again' is `ask_again`.
    """
    writer, reader, questions = cast.writer, cast.reader, cast.questions
    if writer.chat.tokenizer.get_vocab() != reader.chat.tokenizer.get_vocab():
        read_by_ids = "table invariance reads the writer's conversations by token ids"
        raise UserError(f"eval.writers: {read_by_ids}; expected models with the same tokenizer")
    kind = KINDS[condition.kind]
    groups = rollout_1(writer, questions, questions, group_size=cfg.group_size, verify_on=kind, n_verify=cfg.n_verify)
    asked = {"reveal": cfg.reveal, "max_point_tokens": cfg.max_point_tokens, "introspect": cfg.introspect}
    rollout_2(writer, groups, contributors="both", **asked)
    if condition.kind == "again":
        return ask_again(reader, groups)
    return compare_with_exchanges(reader, groups, kind)


def compare_with_exchanges(reader: Reader, groups: list[Group], kind: str) -> list[dict]:
    """Agreement, KL and distance between point and exchange.

    `..._ceiling`: the same between the exchange and another one.
    """
    cases = []
    for g in groups:
        told = [p for p in g.points if sound(g, p)]
        views = [view for view, k in zip(g.views_V, g.kinds_V, strict=True) if k == kind]
        if len(told) > 1:  # each is held against the exchange of the next one, the last against the first's
            following = told[1:] + told[:1]
            cases += [(g, p, other, view) for p, other in zip(told, following, strict=True) for view in views]
    if not cases:
        return []
    # What the same question is asked after: the point, its exchange, another exchange.
    contexts = [
        [reader.prompt(view, p.text) for _, p, _, view in cases],
        [after_exchange(reader, p, view) for _, p, _, view in cases],
        [after_exchange(reader, other, view) for _, _, other, view in cases],
    ]
    completions = [reader.sample(ids, TablePhase.AGAINST + i) for i, ids in enumerate(contexts)]
    letters = [[letter_of(reader, c, view) for c, (*_, view) in zip(part, cases, strict=True)] for part in completions]
    states = [last_states(reader, ids) for ids in contexts]
    columns = {}
    for suffix, a, b in (("", 0, 1), ("_ceiling", 1, 2)):
        both = zip(letters[a], letters[b], strict=True)
        columns[f"agreement{suffix}"] = [float(x is not None and x == y) for x, y in both]
        # KL, one sample of it for each answer: log p(answer | where it was given) - log p(answer | the other context).
        moved = [Trajectory(ids, [(c.ids, True)]) for ids, c in zip(contexts[b], completions[a], strict=True)]
        pairs = zip(completions[a], answer_logprobs(reader, moved), strict=True)
        columns[f"kl{suffix}"] = [sum(c.logprobs) - there for c, there in pairs]
        similar = torch.cosine_similarity(states[a], states[b], dim=-1)  # (cases, layers)
        columns[f"distance{suffix}"] = (1 - similar.mean(-1)).tolist()
    records = []
    for g in groups:
        mine = [i for i, case in enumerate(cases) if case[0] is g]
        if mine:
            means = {name: sum(values[i] for i in mine) / len(mine) for name, values in columns.items()}
            records.append({"question_id": g.question.id, "cluster": g.question.cluster} | means)
    return records


def sound(group: Group, point: Point) -> bool:
    """Whether there is a point, and it does not simply state the answer."""
    return bool(point.text) and not detectors.states_answer(point.text, group.question.options)


def letter_of(reader: Reader, completion: Completion, question: Question) -> str | None:
    return letter_in(reader.chat.text(completion.ids), question.options)


@torch.no_grad()
def last_states(reader: Reader, prompt_ids: list[list[int]], rows: int = 32) -> torch.Tensor:
    """The residual stream after each layer where the answer begins, (prompts, layers, H) float32."""

    def look(part: list[list[int]]) -> torch.Tensor:
        ids, mask = left_pad(part, reader.model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        done = reader.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            output_hidden_states=True,
            use_cache=False,
            logits_to_keep=1,
        )
        return torch.stack([h[:, -1].float().cpu() for h in done.hidden_states[1:]], dim=1)  # (rows, layers, H)

    return torch.cat(in_parts(look, prompt_ids, rows))


def ask_again(reader: Reader, groups: list[Group]) -> list[dict]:
    """How often a loser's wrong answer comes back: asked again in the same conversation, with its point there, or in a
    fresh one.

    `without`: a fresh conversation without the point. None of them reveals the right answer, and points that state it
    are left out.
    """
    lost = []
    for g in groups:
        losers = [p for p in g.points if not p.won and sound(g, p)]
        lost += [(g, p) for p in losers if letter_of(reader, p.attempt.completion, g.question)]
    asked = {name: [] for name in (*PLACES, "without")}
    for g, p in lost:
        failed, said = p.exchange_ids[: -len(p.turn_ids)], p.attempt.completion.ids
        with_point = prompts.TRY_AGAIN + prompts.POINT.format(point=prompts.plain(p.text))
        asked[PLACES[0]].append(failed + reader.chat.next(said, prompts.TRY_AGAIN))
        asked[PLACES[1]].append(failed + reader.chat.next(said, with_point))
        asked[PLACES[2]].append(reader.prompt(g.question, p.text))
        asked["without"].append(reader.prompt(g.question))
    wrong = [letter_of(reader, p.attempt.completion, g.question) for g, p in lost]
    same = {}
    for k, (name, ids) in enumerate(asked.items()):
        completions = reader.sample(ids, TablePhase.AGAIN + k)
        letters = [letter_of(reader, c, g.question) for c, (g, _) in zip(completions, lost, strict=True)]
        same[name] = [float(letter == before) for letter, before in zip(letters, wrong, strict=True)]
    records = []
    for g in groups:
        mine = [i for i, (group, _) in enumerate(lost) if group is g]
        if mine:
            means = {name: sum(values[i] for i in mine) / len(mine) for name, values in same.items()}
            records.append({"question_id": g.question.id, "cluster": g.question.cluster} | means)
    return records


def expand(cfg: Settings, units: list[dict]) -> list[dict]:
    """One unit for each metric.

    `with`: what was measured; `without`: the ceiling (invariance), the fresh conversation (again).
    """
    made = []
    for u in units:
        again = u["condition"] == "again"
        columns = [(name, name, "without") for name in PLACES]
        if not again:
            columns = [(f"{name}, {u['condition']}", name, f"{name}_ceiling") for name in METRICS]
        for label, name, beside in columns:
            records = []
            for r in u["questions"]:
                place = {"question_id": r["question_id"], "cluster": r["cluster"]}
                records.append(place | {"with": r[name], "without": r[beside]})
            made.append(u | {"condition": label, "questions": records})
    return made


def remark(units: list[dict]) -> tuple[None, str]:
    return None, ""
