"""Which words of a learning point were read from its exchange.

log p(token | told what was right) - log p(token | told nothing), for each token of a point.

A token that the writer would say anyway has a ratio around 0: the blind writer of eval.py, word by word. Conversations
are rebuilt from their logged texts, which is near enough for a picture; nothing is trained on them.
"""

from pathlib import Path
from types import SimpleNamespace

import torch

from common import ROOT, UserError, rng
from introspection import library, models, prompts
from introspection.logprobs import collate, token_logprobs
from introspection.reader import Reader
from introspection.rollouts import Attempt, Group, feedback
from introspection.sampling import Completion, Trajectory
from tasks.mcq import Question


@torch.no_grad()
def word_ratios(run: Path, config: dict, rollouts: list[dict], questions: dict[str, Question], n: int) -> list[dict]:
    """The n best points of a run with the log-ratio of each token, by its final weights.

    Points of collected conversations are left out.
    """
    if not (run / "final").is_dir():
        raise UserError(f"--words: {run} has no final/ weights yet")
    prompts.use(config.get("prompts", "organism"), ROOT)
    folder, cfg = str(run / "final"), SimpleNamespace(**config)
    chat = models.load_chat(folder, cfg.system, config.get("thinking", "off"))
    reader = Reader(models.load_policy(folder, cfg), chat, cfg.temperature, cfg.max_new_tokens, (cfg.seed, 0, 0))
    sound = [r for r in rollouts if r["text"] and not r["leak"] and r["verified_on"] and r["question_id"] in questions]
    best = sorted(library.merge([r for r in sound if r["exchange_id"] is None]), key=lambda r: -library.interval(r)[0])
    distinct: dict[str, dict] = {}
    for record in best:  # a wording once, with the question on which it did best
        distinct.setdefault(library.essence(record["text"]), record)
    shown = []
    for r in list(distinct.values())[:n]:
        question = questions[r["question_id"]]
        said = chat.turn(r["attempt"])
        attempt = Attempt(Completion(said, [], True), r["source"] == "winner")
        group = Group(0, question, reader.prompt(question), [attempt], [], [])
        point = chat.content_ids(prompts.plain(r["text"]))
        opening = chat.close_thought([]) + chat.content_ids(prompts.INTROSPECTION.partition("{point}")[0])
        logprobs = []  # of the point's T tokens: told what was right, told nothing
        for reveal in (cfg.reveal, "nothing"):
            asked = feedback(reader, group, attempt, reveal, cfg.introspect == "optional", rng(cfg.seed))
            before = group.prompt_ids + said + chat.next(said, asked) + opening
            batch = collate([Trajectory(before, [(point, True)])], [[0]], reader.model.device)
            logprobs.append(token_logprobs(reader.model, batch, cfg.temperature).cpu())
        pieces = [chat.text(point[: k + 1])[len(chat.text(point[:k])) :] for k in range(len(point))]  # of the text
        words = [[piece, round(x, 3)] for piece, x in zip(pieces, (logprobs[0] - logprobs[1]).tolist(), strict=True)]
        shown.append(
            {
                "words": words,
                "cluster": r["cluster"],
                "source": r["source"],
                "gain": library.gain(r),
                "count": r["count"],
            }
        )
    return shown
