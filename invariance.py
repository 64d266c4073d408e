"""Is a learning point as good as the exchange that it stands for? (paper, 'Problem formulation' and 'Energy landscape')

Output invariance defines an introspection: the answer given (question, point) is the answer given (question, full exchange).
What is measured against an exchange is also measured between two exchanges on the same question: that is the ceiling.
"""

import torch

import library
import prompts
from common import UserError
from introspection import Group, Point, answer_logprobs, rollout_1, rollout_2
from measure import Reader
from rollout import Completion, Trajectory, in_parts, left_pad
from tasks.mcq import Question

AGAINST, AGAIN = 50, 60  # phases, part of every noise key
METRICS = ("agreement", "kl", "distance")  # letters that agree; nats; 1 - cosine in the residual stream
PLACES = ("again: asked again", "again: point in the failed conversation", "again: point in a fresh one")


def invariance(cfg, name: str, writer: Reader, reader: Reader, questions: list[Question]) -> list[dict]:
    """The records of one condition, a question each: 'same' or 'transfer' views (invariance), or 'again' (`answered_again`)."""
    if writer.chat.tokenizer.get_vocab() != reader.chat.tokenizer.get_vocab():
        raise UserError("eval.writers: table invariance reads the writer's conversations by token ids; expected models with the same tokenizer")
    kind = "transfer" if name == "transfer" else "same"
    groups = rollout_1(writer, questions, questions, group_size=cfg.group_size, verify_on=kind, n_verify=cfg.n_verify)
    rollout_2(writer, groups, contributors="both", reveal=cfg.reveal, max_point_tokens=cfg.max_point_tokens, introspect=cfg.introspect)
    return answered_again(reader, groups) if name == "again" else against_exchanges(reader, groups, kind)


def against_exchanges(reader: Reader, groups: list[Group], kind: str) -> list[dict]:
    """Agreement, KL and distance between point and exchange, and (`..._ceiling`) between the exchange and another one."""
    cases = []
    for g in groups:
        told = [p for p in g.points if sound(g, p)]
        views = [view for view, k in zip(g.views_V, g.kinds_V, strict=True) if k == kind]
        cases += [(g, p, other, view) for p, other in zip(told, told[1:] + told[:1], strict=True) if p is not other for view in views]
    if not cases:
        return []
    contexts = [
        [reader.prompt(view, p.text) for _, p, _, view in cases],
        [after_exchange(reader, p, view) for _, p, _, view in cases],
        [after_exchange(reader, other, view) for _, _, other, view in cases],
    ]
    completions = [reader.sample(ids, AGAINST + i) for i, ids in enumerate(contexts)]
    letters = [[letter_of(reader, c, view) for c, (*_, view) in zip(part, cases, strict=True)] for part in completions]
    states = [last_states(reader, ids) for ids in contexts]
    columns = {}
    for suffix, (a, b) in (("", (0, 1)), ("_ceiling", (1, 2))):
        columns[f"agreement{suffix}"] = [float(x is not None and x == y) for x, y in zip(letters[a], letters[b], strict=True)]
        elsewhere = answer_logprobs(reader, [Trajectory(ids, [(c.ids, True)]) for ids, c in zip(contexts[b], completions[a], strict=True)])
        columns[f"kl{suffix}"] = [sum(c.logprobs) - there for c, there in zip(completions[a], elsewhere, strict=True)]
        columns[f"distance{suffix}"] = (1 - torch.cosine_similarity(states[a], states[b], dim=-1).mean(-1)).tolist()
    records = []
    for g in groups:
        mine = [i for i, case in enumerate(cases) if case[0] is g]
        if mine:
            means = {name: sum(values[i] for i in mine) / len(mine) for name, values in columns.items()}
            records.append({"question_id": g.question.id, "cluster": g.question.cluster} | means)
    return records


def sound(group: Group, point: Point) -> bool:
    """Whether there is a point, and it does not simply state the answer."""
    return bool(point.text) and not library.states_answer(point.text, group.question.options)


def after_exchange(reader: Reader, point: Point, view: Question) -> list[int]:
    """The point's own conversation, an empty block where the point stood, then another question."""
    empty = reader.chat.content_ids(prompts.INTROSPECTION.format(point="")) + [reader.chat.between[0]]
    return point.exchange_ids + empty + reader.chat.next(empty, prompts.question_turn(view.question, list(view.options)))


def letter_of(reader: Reader, completion: Completion, question: Question) -> str | None:
    found = prompts.find_answer(reader.chat.text(completion.ids), question.options)
    return found[1] if found else None


@torch.no_grad()
def last_states(reader: Reader, prompt_ids: list[list[int]], rows: int = 32) -> torch.Tensor:
    """The residual stream after each layer where the answer begins, (prompts, layers, H) float32."""

    def look(part: list[list[int]]) -> torch.Tensor:
        ids, mask = left_pad(part, reader.model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        done = reader.model(input_ids=ids, attention_mask=mask, position_ids=positions, output_hidden_states=True, use_cache=False, logits_to_keep=1)
        return torch.stack([h[:, -1].float().cpu() for h in done.hidden_states[1:]], dim=1)  # (rows, layers, H)

    return torch.cat(in_parts(look, prompt_ids, rows))


def answered_again(reader: Reader, groups: list[Group]) -> list[dict]:
    """How often a loser's wrong answer comes back: asked again in the same conversation, with its point there, or in a fresh one.

    `without`: a fresh conversation without the point. None of them reveals the right answer, and points that state it are left out.
    """
    lost = [(g, p) for g in groups for p in g.points if not p.won and sound(g, p) and letter_of(reader, p.attempt.completion, g.question)]
    turns = {PLACES[0]: lambda _: prompts.TRY_AGAIN, PLACES[1]: lambda p: prompts.TRY_AGAIN + prompts.POINT.format(point=prompts.plain(p.text))}
    asked = {name: [p.exchange_ids[: -len(p.turn_ids)] + reader.chat.next(p.attempt.completion.ids, turn(p)) for _, p in lost] for name, turn in turns.items()}
    asked |= {PLACES[2]: [reader.prompt(g.question, p.text) for g, p in lost], "without": [reader.prompt(g.question) for g, _ in lost]}
    same = {}
    for k, (name, ids) in enumerate(asked.items()):
        said = reader.sample(ids, AGAIN + k)
        same[name] = [
            float(letter_of(reader, c, g.question) == letter_of(reader, p.attempt.completion, g.question)) for c, (g, p) in zip(said, lost, strict=True)
        ]
    records = []
    for g in groups:
        mine = [i for i, (group, _) in enumerate(lost) if group is g]
        if mine:
            means = {name: sum(values[i] for i in mine) / len(mine) for name, values in same.items()}
            records.append({"question_id": g.question.id, "cluster": g.question.cluster} | means)
    return records


def unfolded(units: list[dict]) -> list[dict]:
    """One unit for each metric: `with` is what was measured, `without` the ceiling (invariance) or the fresh conversation (again)."""
    made = []
    for u in units:
        columns = [(name, "without") for name in PLACES] if u["condition"] == "again" else [(name, f"{name}_ceiling") for name in METRICS]
        for name, beside in columns:
            records = [{"question_id": r["question_id"], "cluster": r["cluster"], "with": r[name], "without": r[beside]} for r in u["questions"]]
            made.append(u | {"condition": name if u["condition"] == "again" else f"{name}, {u['condition']}", "questions": records})
    return made
