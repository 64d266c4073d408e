"""Small models that every test may use: random weights, real code paths, no download."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

EOS = 3


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
