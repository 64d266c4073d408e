"""A plain GRPO step against TRL's GRPOTrainer (same prompts, group and lengths), and a whole step of stage 1.

Ours is built from introspection/sampling.py and introspection/update.py.

    python -m benchmarks.step [--save] [--repeats 5]          (needs requirements-dev.txt)

Rewards are drawn at random for both, with spread in all groups or in half of them: a group without spread has no
advantages, and costs us no forward or backward pass.
"""

import statistics
import tempfile
import time
from typing import NamedTuple

import torch

from benchmarks.common import ROOT, options, save, spread, take_step
from common import Shared, load_config, rng, walk
from grpo_introspect import Config, load_data, scores_of, training_batch
from introspection import models
from introspection.losses import centred_advantages
from introspection.reader import Reader
from introspection.rollouts import rollout_1, rollout_2, rollout_3
from introspection.sampling import Trajectory, sample
from introspection.update import Updater
from tasks.bank import load_questions


class Size(NamedTuple):
    model: str = "organism/weights"
    prompts: int = 8
    group: int = 16
    length: int = 48


BUNDLED = Size()


def rewards_of(step: int, half: bool, size: Size) -> torch.Tensor:
    """(prompts, group) random rewards; with `half`, every second group has no spread."""
    rewards = torch.from_numpy(rng(5, step).integers(0, 2, size=(size.prompts, size.group)).astype("float32"))
    if half:
        rewards[::2] = 1.0
    return rewards


def our_steps(half: bool, steps: int, size: Size = BUNDLED) -> list[float]:
    """Seconds of each of our steps."""
    model, prompts, group, length = size
    chat, policy = models.load_chat(model), models.load_policy(model, Shared())
    updater = Updater(policy, optimizer="adamw", lr=1e-6, temperature=1.0, max_tokens=16384)
    asked = [chat.first(q.turn) for q in load_questions(ROOT / "data/bank.jsonl")[:prompts]]
    times = []
    for step in range(steps):
        start = time.perf_counter()
        completions = sample(
            policy, asked, group, length, 1.0, sorted(chat.eos_ids), [(step, i) for i in range(prompts * group)]
        )
        advantages = []
        for rewards in rewards_of(step, half, size):
            spread_of_group = rewards.std() + 1e-4
            advantages += (centred_advantages(rewards, torch.ones(group, dtype=torch.bool)) / spread_of_group).tolist()
        take_step(
            updater, [Trajectory(asked[i // group], [(c.ids, True)]) for i, c in enumerate(completions)], advantages
        )
        times.append(time.perf_counter() - start)
    return times


def trl_steps(half: bool, steps: int, size: Size = BUNDLED) -> list[float]:
    """Seconds of each of TRL's steps, generation to optimiser."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Clock(TrainerCallback):
        def __init__(self):
            self.times = []

        def on_step_begin(self, *_args, **_kwargs):
            self.start = time.perf_counter()

        def on_step_end(self, *_args, **_kwargs):
            self.times.append(time.perf_counter() - self.start)

    model, prompts, group, length = size
    tokenizer, calls = models.load_tokenizer(model), []
    asked = [q.turn for q in load_questions(ROOT / "data/bank.jsonl")[:prompts]]

    def reward(completions, **_kwargs):
        calls.append(1)
        return rewards_of(len(calls), half, size).flatten().tolist()

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False,
            report_to=[], disable_tqdm=True, logging_steps=10**6, save_strategy="no", max_steps=steps,
            per_device_train_batch_size=prompts * group, num_generations=group,
            max_completion_length=length,
            temperature=1.0, top_k=0, top_p=1.0, learning_rate=1e-6, beta=0.0, shuffle_dataset=False,
        )  # fmt: skip
        dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in asked] * steps)
        policy = models.load_policy(model, Shared())
        GRPOTrainer(
            model=policy,
            reward_funcs=reward,
            args=settings,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[clock],
        ).train()
    return clock.times


def stage_1_steps(steps: int, size: Size = BUNDLED) -> list[float]:
    """Seconds of whole stage 1 steps on the bank: three rollouts, V = 4, update with a KL to the start."""
    overrides = [f"questions_per_step={size.prompts}", f"group_size={size.group}", "n_verify=4"]
    cfg = load_config(Config, "grpo_introspect", ROOT / "configs/bank.yaml", overrides)
    chat, policy, ref = (
        models.load_chat(size.model),
        models.load_policy(size.model, cfg),
        models.load_policy(size.model, cfg),
    )
    train, *_ = load_data(cfg)
    updater = Updater(
        policy,
        optimizer="adamw",
        lr=cfg.lr,
        temperature=1.0,
        max_tokens=cfg.max_tokens_per_micro_batch,
        kl_coef=cfg.kl_coef,
        ref_policy=ref,
    )
    times = []
    for step in range(1, steps + 1):
        start = time.perf_counter()
        reader = Reader(policy, chat, 1.0, cfg.max_new_tokens, (0, step, 0))
        groups = rollout_1(
            reader,
            walk(train, step, size.prompts, cfg.seed),
            train,
            group_size=size.group,
            verify_on="transfer",
            n_verify=4,
        )
        rollout_2(reader, groups, contributors="both", reveal=cfg.reveal, max_point_tokens=cfg.max_point_tokens)
        rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward="sampled")
        for group in groups:
            advantages = centred_advantages(*scores_of(cfg, group)).clamp(min=0)
            for point, advantage in zip(group.points, advantages.tolist(), strict=True):
                point.advantage = advantage
        take_step(updater, *training_batch(cfg, groups))
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    args = options(__doc__, repeats=5).parse_args()
    record = {}
    for name, half in (("all groups have advantages", False), ("half of the groups have none", True)):
        ours, theirs = our_steps(half, args.repeats + 2)[2:], trl_steps(half, args.repeats + 2)[2:]
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(f"{name}: ours {spread(ours)}, TRL {spread(theirs)}, {ratio:.2f}x")
        record[name] = {"ours": ours, "trl": theirs}
    whole = stage_1_steps(args.repeats + 2)[2:]
    print(f"a whole stage 1 step ({BUNDLED.prompts} x {BUNDLED.group}, V = 4): {spread(whole)}")
    record["stage 1"] = whole
    if args.save:
        save("step_gpu" if torch.cuda.is_available() else "step", record)


if __name__ == "__main__":
    main()
