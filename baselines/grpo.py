"""GRPO and its kin: the task's reward, group-relative, on the answer itself; nothing is introspected.

Sources: GRPO arXiv 2402.03300, DAPO 2503.14476, Dr. GRPO 2503.20783, Composer 2 2603.24477 (section 4.1).

  advantage   r - mean of the group; `scale_rewards` divides by the group's standard deviation (GRPO, DAPO; not Dr.
              GRPO)
  loss        grpo      mean over answers of the mean over their tokens
              dapo      mean over all tokens
              dr_grpo   sum over tokens, by answers x max_new_tokens
  on policy   one update a step, so the ratio is 1 and no clip is active
  chains      with `context_limit` an answer that fills the context is summarised by the model itself and goes on after
              the question and the summary; the final reward is given to every token of the chain, summaries included
              (Composer 2)
  reward_kl   beta of k1 = log pi - log ref, summed over the chain and taken off the reward: as a loss k1 has no
              expected gradient

Composer 2 is `scale_rewards: false`, `loss: dr_grpo`, `reward_kl` above 0 and a `context_limit`. Advantages are signed.
The default loss is DAPO's.

Inputs:  problems with a grader (a question bank, Countdown, function calling), a causal language model with a chat
         template
Outputs: runs/<config>/grpo/ with metrics.jsonl, eval.jsonl (first answers before and after), final/ weights
Run:     python -m baselines.grpo --config configs/bank.yaml
"""

from dataclasses import dataclass, field
from typing import Literal

import torch

import common
from baselines.arena import Arena, Rival
from common import Options, RivalPhase, UserError
from introspection import prompts
from introspection.losses import group_advantages
from introspection.reader import Reader
from introspection.rollouts import answer_logprobs
from introspection.sampling import Completion, Trajectory
from tasks.problem import Problem


@dataclass
class Config(Rival):
    group_size: int = 16  # G, answers to each problem
    loss: Literal["grpo", "dapo", "dr_grpo"] = "dapo"  # how tokens are averaged
    scale_rewards: bool = True  # whether advantages are divided by the group's standard deviation
    reward_kl: float = 0.0  # beta of the k1 penalty in the reward, 0: none
    # longest prompt and answer together, tokens; a longer answer goes on after a summary; 0: none
    context_limit: int = 0
    summary_tokens: int = 32  # longest summary
    max_generations: int = 4  # generations of a chain that answer; the last one is not cut by the limit's summary

    def check(self) -> None:
        super().check()
        if self.group_size < 2:
            raise UserError("grpo.group_size: a group of 1 has no spread around its mean; expected at least 2")
        if self.context_limit and min(self.summary_tokens, self.max_generations) < 1:
            raise UserError("grpo.context_limit: chains need summary_tokens and max_generations of at least 1")


@dataclass
class Chain:
    """One rollout: all its generations, answers and summaries, each with the prompt it was sampled after."""

    problem: Problem
    prompt_ids: list[int]
    generations: list[tuple[list[int], Completion]] = field(default_factory=list)
    answer: Completion | None = None

    def trajectories(self) -> list[Trajectory]:
        return [Trajectory(prompt, [(completion.ids, True)]) for prompt, completion in self.generations]


# ---- rollouts ------------------------------------------------------------------------------------------------------
def rollouts(cfg: Config, reader: Reader, problems_Q: list[Problem]) -> list[Chain]:
    """G chains for each problem, problem by problem; without a context limit each has one generation."""
    chains = [Chain(p, reader.chat.first(p.turn)) for p in problems_Q for _ in range(cfg.group_size)]
    numbers = {id(chain): (k // cfg.group_size, k % cfg.group_size) for k, chain in enumerate(chains)}
    live = chains
    for k in range(cfg.max_generations if cfg.context_limit else 1):
        # Room differs with the prompt: chains of equal room are sampled together, so that the limit cuts each at its
        # own place.
        rooms: dict[int, list[Chain]] = {}
        for chain in live:
            rooms.setdefault(room(cfg, chain), []).append(chain)
        for tokens, part in rooms.items():
            said = reader.sample(
                [c.prompt_ids for c in part],
                RivalPhase.ANSWER + 2 * k,
                max_new_tokens=tokens,
                numbers=[numbers[id(c)] for c in part],
            )
            for chain, completion in zip(part, said, strict=True):
                chain.generations.append((chain.prompt_ids, completion))
                chain.answer = completion
        live = [c for c in live if cfg.context_limit and not c.answer.finished and k + 1 < cfg.max_generations]
        if not live:
            break
        summarise(cfg, reader, live, RivalPhase.SUMMARY + 2 * k, numbers)
    return chains


def room(cfg: Config, chain: Chain) -> int:
    """New tokens that the context still holds.

    At least one, so that a chain with a long prompt ends as wrong and not as an error.
    """
    if not cfg.context_limit:
        return cfg.max_new_tokens
    return max(1, min(cfg.max_new_tokens, cfg.context_limit - len(chain.prompt_ids)))


def summarise(
    cfg: Config, reader: Reader, chains: list[Chain], phase: int, numbers: dict[int, tuple[int, int]]
) -> None:
    """Lets each chain write its summary, in the conversation that was cut, and puts it into a fresh prompt after the
    question.
    """
    asked = [c.prompt_ids + c.answer.ids + reader.chat.next(c.answer.ids, prompts.SUMMARISE) for c in chains]
    said = reader.sample(asked, phase, max_new_tokens=cfg.summary_tokens, numbers=[numbers[id(c)] for c in chains])
    for chain, prompt, completion in zip(chains, asked, said, strict=True):
        chain.generations.append((prompt, completion))
        summary = prompts.plain(reader.chat.text(completion.ids))
        chain.prompt_ids = reader.chat.first(chain.problem.turn + prompts.SUMMARY.format(summary=summary))


# ---- reward and training batch ---------------------------------------------------------------------------------------
def penalties(cfg: Config, arena: Arena, chains: list[Chain]) -> list[float]:
    """beta times the k1 estimate of each chain's KL to the start policy, summed over its sampled tokens.

    A number, not a graph.
    """
    if not cfg.reward_kl:
        return [0.0] * len(chains)
    reference = Reader(arena.ref_policy, arena.chat, cfg.temperature, cfg.max_new_tokens, ())
    # One number for each generation, chain by chain.
    ref_logprobs = iter(answer_logprobs(reference, [t for c in chains for t in c.trajectories()]))
    k1 = [[sum(said.logprobs) - next(ref_logprobs) for _, said in chain.generations] for chain in chains]
    return [cfg.reward_kl * sum(gaps) for gaps in k1]


def reduce_loss(
    advantages: torch.Tensor, lengths: torch.Tensor, reduction: str, rollouts: int, max_length: int
) -> torch.Tensor:
    """Weights (N,) with which `policy_gradient`, normalised by all sum(lengths) tokens, is the named reduction.

    sequence: mean over sequences of their mean over tokens (GRPO); token: mean over tokens (DAPO); constant: sum over
    tokens by rollouts x max_length (Dr. GRPO; Composer 2, whose rollouts are chains of several sequences). advantages,
    lengths: (N,).
    """
    tokens = lengths.sum()
    if reduction == "sequence":
        return advantages * tokens / (len(lengths) * lengths)
    if reduction == "constant":
        return advantages * tokens / (rollouts * max_length)
    return advantages


def training_batch(cfg: Config, chains: list[Chain], advantages: list[float]) -> tuple[list[Trajectory], list[float]]:
    """Every generation of every chain with its chain's advantage, weighted for the chosen reduction."""
    trajectories = [t for chain in chains for t in chain.trajectories()]
    each = [a for chain, a in zip(chains, advantages, strict=True) for _ in chain.generations]
    each = torch.tensor(each, dtype=torch.float64)  # (N,)
    lengths = torch.tensor([sum(t.loss_mask) for t in trajectories], dtype=torch.float64)  # (N,)
    reduction = {"grpo": "sequence", "dapo": "token", "dr_grpo": "constant"}[cfg.loss]
    return trajectories, reduce_loss(each, lengths, reduction, len(chains), cfg.max_new_tokens).tolist()


def main(cfg: Config, options: Options) -> None:
    arena = Arena(cfg, options, "grpo", reference=cfg.reward_kl > 0)
    if not arena.ready:
        return
    for step in arena.steps():
        # Sample: G chains for each problem; without a context limit a chain is one answer.
        chains = rollouts(cfg, arena.reader, arena.problems(step))
        # Grade: only the last answer of a chain counts, less what its distance from the start policy costs.
        right = [float(c.problem.grade(arena.chat.text(c.answer.ids))) for c in chains]
        kl = penalties(cfg, arena, chains)
        rewards = torch.tensor([r - k for r, k in zip(right, kl, strict=True)], dtype=torch.float64)
        rewards_QG = rewards.reshape(-1, cfg.group_size)  # (Q, G)
        # Advantages: relative to the group (one that is all right or all wrong moves nothing), for every generation
        # of a chain alike.
        advantages_QG = group_advantages(rewards_QG, cfg.scale_rewards)
        trajectories, weights = training_batch(cfg, chains, advantages_QG.flatten().tolist())
        # Update: one step on policy, so no ratio is clipped.
        arena.updater.backward(trajectories, weights)
        arena.updater.clip(cfg.max_grad_norm)
        update = arena.updater.apply()
        arena.count(trajectories, weights, update)
        # Log.
        summaries = [len(summary.ids) for c in chains for _, summary in c.generations[1::2]]  # between the answers
        metrics = {
            "reward": rewards_QG.mean().item(),
            "reward_std": rewards_QG.std(dim=1).mean().item(),
            "accuracy/attempt": sum(right) / len(right),
            "frac_reward_zero_std": (advantages_QG.abs().amax(1) == 0).double().mean().item(),
            "penalty": sum(kl) / len(kl),
            "completions/mean_length": sum(len(c.answer.ids) for c in chains) / len(chains),
            "generations": len(trajectories) / len(chains),
            "summaries/mean_length": sum(summaries) / len(summaries) if summaries else None,
        }
        arena.finish(step, metrics | update)
    arena.close()


if __name__ == "__main__":
    common.launch(main, Config, "grpo")
