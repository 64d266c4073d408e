"""SSD, simple self-distillation: fine-tuning on the model's own unverified answers (arXiv 2604.01193).

  1. one answer to each train problem at `train_temperature`, truncated to `top_k` and `top_p`; nobody looks whether it
     is right
  2. supervised fine-tuning on these answers; only empty and cut ones are left out
  3. evaluated at `eval_temperature`, before and after: what is learned is a sharper distribution, which may pay at a
     higher one
Other than the source: cut answers are left out, evaluation is at temperature 1 without truncation to top k and top p,
the learning rate is constant (its: cosine with a warm-up, weight decay), and AdamW's second beta 0.99 (0.95).
As a first step before stage 1: `python grpo_introspect.py --config ... --set shared.model=runs/<config>/ssd/final`.

Inputs:  problems (their grader only measures), a causal language model with a chat template
Outputs: runs/<config>/ssd/ with targets.jsonl (answers), metrics.jsonl, eval.jsonl (first answers), final/ weights
Run:     python -m baselines.ssd --config configs/bank.yaml
"""

from dataclasses import dataclass

import torch

import common
from baselines.arena import Arena, Rival
from common import Options, RivalPhase, UserError, rng
from introspection.sampling import Trajectory, sample


@dataclass
class Config(Rival):
    train_temperature: float = 1.6  # of the answers that are trained on (source: 0.8 to 1.6 by model)
    top_k: int = 20  # the likeliest tokens that may be sampled, 0: all
    top_p: float = 0.8  # and of those as many as reach this probability, 1: all
    samples: int = 1  # answers to each train problem (source: 1)
    batch_size: int = 32  # answers of an optimiser step

    def check(self) -> None:
        super().check()
        self.check_numbers("ssd", "samples batch_size")
        if not 0 < self.top_p <= 1:
            raise UserError(f"ssd.top_p: expected a probability above 0 and at most 1, got {self.top_p}")
        if self.train_temperature == 0:
            raise UserError("ssd.train_temperature: expected a number above 0")
        if self.temperature != 1:
            raise UserError(
                "ssd.temperature: fine-tuning is at temperature 1; the answers are sampled at ssd.train_temperature"
            )


def truncate(logp: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Log-probabilities (rows, V) of the k likeliest tokens, and of those only as many as reach `top_p`.

    The others are -inf.
    """
    kept, places = logp.topk(min(top_k or logp.shape[-1], logp.shape[-1]), dim=-1)
    kept = torch.log_softmax(kept, dim=-1)
    before = kept.exp().cumsum(-1) - kept.exp()  # of the tokens that are likelier; the first one always stays
    kept = torch.log_softmax(kept.masked_fill((before >= top_p) & (before > 0), float("-inf")), dim=-1)
    return torch.full_like(logp, float("-inf")).scatter(-1, places, kept)


def generate(cfg: Config, arena: Arena) -> list[dict]:
    """The answers that are trained on, as ids (targets.jsonl)."""
    asked = [(p, k) for p in arena.train for k in range(cfg.samples)]
    views = [p.view(rng(cfg.seed, RivalPhase.SSD_VIEW, i, k)) for i, (p, k) in enumerate(asked)]
    prompt_ids = [arena.chat.first(view.turn) for view in views]
    keys = [(cfg.seed, RivalPhase.SSD_GENERATE, i) for i in range(len(asked))]
    said = sample(
        arena.policy,
        prompt_ids,
        1,
        cfg.max_new_tokens,
        cfg.train_temperature,
        sorted(arena.chat.eos_ids),
        keys,
        warp=lambda logp: truncate(logp, cfg.top_k, cfg.top_p),
    )
    arena.generated += sum(len(c.ids) for c in said)
    return [
        {"problem_id": view.id, "prompt_ids": ids, "answer_ids": c.ids, "right": view.grade(arena.chat.text(c.ids))}
        for view, ids, c in zip(views, prompt_ids, said, strict=True)
        if c.finished and len(c.ids) > 1
    ]


def main(cfg: Config, options: Options) -> None:
    arena = Arena(cfg, options, "ssd")
    if not arena.ready:
        return
    run = arena.run
    if arena.done == 0:  # a resumed run has its answers already
        for target in generate(cfg, arena):
            run.log("targets.jsonl", target)
    targets = run.read("targets.jsonl")
    if not targets:
        raise UserError(
            f"{run.path / 'targets.jsonl'}: no answer ended within {cfg.max_new_tokens} tokens; "
            "raise ssd.max_new_tokens"
        )
    for step in arena.steps():
        # Sampled once, by the start policy; a step takes the next of these answers, right or wrong.
        batch = common.walk(targets, step, cfg.batch_size, cfg.seed, RivalPhase.SSD_SHUFFLE)
        trajectories = [Trajectory(t["prompt_ids"], [(t["answer_ids"], True)]) for t in batch]
        weights = [1.0] * len(batch)
        # Update: fine-tuning is a policy gradient with every weight 1.
        arena.updater.backward(trajectories, weights)
        arena.updater.clip(cfg.max_grad_norm)
        update = arena.updater.apply()
        arena.count(trajectories, weights, update)
        # Log: the grade is told and never used.
        metrics = {"reward": sum(t["right"] for t in batch) / len(batch)}
        arena.finish(step, metrics | update)
    arena.close()


if __name__ == "__main__":
    common.launch(main, Config, "ssd")
