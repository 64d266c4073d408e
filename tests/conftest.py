"""Small models that every test may use, and one step of stage 1 on the bundled one. Real code paths, no download."""

import subprocess
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from chat import Chat
from common import ROOT, load_config
from grpo_introspect import Config, load_data, questions_of_step, set_advantages
from introspection import rollout_1, rollout_2, rollout_3
from measure import Reader
from models import eos_ids, load_policy, load_tokenizer

EOS = 3
SMALL = ["steps=4", "questions_per_step=2", "group_size=4", "n_verify=2", "n_fresh=2", "save_every=2", "eval_every=2", "eval_questions=4"]


def tiny_llama(vocab_size: int = 32, dtype=torch.float32, seed: int = 0, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True, "initializer_range": 0.3,
        "pad_token_id": 0, "eos_token_id": EOS, "bos_token_id": 2,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).to(dtype).eval()


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
def organism():
    cfg = config()
    tokenizer = load_tokenizer(cfg.model)
    return load_policy(cfg.model, cfg), Chat(tokenizer, eos_ids(cfg.model, tokenizer))


def one_step(organism, cfg: Config, step: int = 1, exchanges: list | None = None):
    """(groups, scores, reader) of the three rollouts of one step, as main makes them."""
    policy, chat = organism
    train, _, _ = load_data(cfg)
    reader = Reader(policy, chat, cfg.temperature, cfg.max_new_tokens, (cfg.seed, step, 0))
    verify = {"verify_on": cfg.verify_on, "n_verify": cfg.n_verify, "transfer_pool": cfg.transfer_pool}
    questions = questions_of_step(cfg, exchanges or train, step)
    groups = rollout_1(reader, questions, train, group_size=cfg.group_size, correction_turns=cfg.correction_turns, **verify)
    asked = {"reveal": cfg.reveal, "introspect": cfg.introspect, "max_point_tokens": cfg.max_point_tokens}
    rollout_2(reader, groups, contributors=cfg.contributors, **asked)
    rollout_3(reader, groups, n_fresh=cfg.n_fresh, reward=cfg.reward)
    return groups, [set_advantages(cfg, group) for group in groups], reader


def killed(command: list[str], log: Path, lines: int) -> None:
    """Runs a command and kills it without warning (kill -9) once a log has so many lines."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (log.exists() and log.read_text().count("\n") >= lines) and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "finished before it could be killed"
    process.kill()
    process.wait()
