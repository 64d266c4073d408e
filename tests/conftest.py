"""Small models that every test may use, and one step of stage 1 on the bundled one. Real code paths, no download."""

import dataclasses
import json
import os
import signal

import pytest
import torch
from parrot import make_parrot
from transformers import LlamaConfig, LlamaForCausalLM

from common import ROOT, load_config, walk
from grpo_introspect import (
    Config,
    clip_otherwise,
    fresh_advantages,
    fresh_score,
    load_data,
    rewards_of,
    scores_of,
    view_weights,
)
from introspection.losses import centred_advantages, standard_errors
from introspection.models import load_chat, load_policy, save
from introspection.reader import Reader
from introspection.rollouts import rollout_1, rollout_2, rollout_3

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)  # models this small gain nothing from a second one, and lose much on a busy machine
EOS = 3
SMALL = [
    "steps=4",
    "questions_per_step=2",
    "group_size=4",
    "n_verify=2",
    "n_fresh=2",
    "save_every=2",
    "eval_every=2",
    "eval_questions=4",
    "preflight=false",  # a parrot reads no points
]


def tiny_llama(vocab_size: int = 32, dtype=torch.float32, seed: int = 0, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True,
        "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": EOS, "bos_token_id": 2,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).to(dtype).eval()


@pytest.fixture(autouse=True)
def interrupts_stop_the_tests():
    """A run catches signals in order to checkpoint; after it they end the process again."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture
def model():
    return tiny_llama()


@pytest.fixture
def model64():
    return tiny_llama(dtype=torch.float64)


def config(**changes) -> Config:
    overrides = [*SMALL, *(f"{k}={v}" for k, v in changes.items())]
    return load_config(Config, "grpo_introspect", ROOT / "configs/preeclampsia.yaml", overrides)


@pytest.fixture(scope="session")
def bank(tmp_path_factory) -> str:
    """The 13 train questions on pre-eclampsia with few others: an evaluation asks all 80 canary questions."""
    lines = (ROOT / "data/preeclampsia.jsonl").read_text().splitlines(keepends=True)
    split = {s: [line for line in lines if json.loads(line)["split"] == s] for s in ("train", "test", "canary")}
    path = tmp_path_factory.mktemp("bank") / "bank.jsonl"
    path.write_text("".join(split["train"] + split["test"][:2] + split["canary"][:4]))
    return str(path)


@pytest.fixture(scope="session")
def parrot(tmp_path_factory) -> str:
    """The folder of a model of few words (parrot.py), as shared.model takes it."""
    folder = tmp_path_factory.mktemp("parrot")
    save(*make_parrot(), folder)
    return str(folder)


@pytest.fixture(scope="session")
def organism():
    cfg = config()
    return load_policy(cfg.model, cfg), load_chat(cfg.model)


@pytest.fixture(scope="session")
def parroting(parrot):
    """What `organism` is, of the parrot."""
    return load_policy(parrot, config()), load_chat(parrot)


def one_step(organism, cfg: Config, step: int = 1, exchanges: list | None = None):
    """(groups, scores, reader) of the three rollouts of one step, as main makes them."""
    policy, chat = organism
    train, _, _ = load_data(cfg)
    reader = Reader(policy, chat, cfg.temperature, cfg.max_new_tokens, (cfg.seed, step, 0))
    verify = {"verify_on": cfg.verify_on, "n_verify": cfg.n_verify, "transfer_pool": cfg.transfer_pool}
    questions = walk(exchanges or train, step, cfg.questions_per_step, cfg.seed)
    groups = rollout_1(
        reader, questions, train, group_size=cfg.group_size, correction_turns=cfg.correction_turns, **verify
    )
    asked = {"reveal": cfg.reveal, "introspect": cfg.introspect, "max_point_tokens": cfg.max_point_tokens}
    rollout_2(reader, groups, contributors=cfg.contributors, **asked)
    rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward=cfg.reward)
    return groups, [give_advantages(cfg, group) for group in groups], reader


MADE: dict[tuple, tuple] = {}


def made_step(organism, cfg: Config):
    """What `one_step` makes of its settings, made once for all tests that only read it."""
    key = (id(organism), *dataclasses.astuple(cfg))
    if key not in MADE:
        MADE[key] = one_step(organism, cfg)
    return MADE[key]


def give_advantages(cfg: Config, group) -> torch.Tensor:
    """What main does to a group after the rollouts; its scores. test_stage1 holds main to it."""
    scores, valid = scores_of(cfg, group)
    centred = centred_advantages(scores, valid)
    advantages = centred if cfg.baseline == "group_mean" else fresh_advantages(scores, valid, fresh_score(cfg, group))
    if cfg.clip == "zero":
        advantages = advantages.clamp(min=0)
    else:
        errors = standard_errors(rewards_of(group), valid, view_weights(cfg, group))
        advantages = clip_otherwise(cfg, advantages, errors)
    for point, advantage in zip(group.points, advantages.tolist(), strict=True):
        point.advantage = advantage if point.valid else 0.0
    return scores.masked_fill(~valid, float("nan"))
