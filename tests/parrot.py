"""A model of few words, written by hand: guesses a letter, or writes a learning point where one was asked for.

It stands in for the bundled model where a test is about what is around a model. It takes a tenth of the time, and by
luck its answers and points are worth different things, so that there is something to train.
"""

import itertools
import math
from collections import Counter

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from introspection.models import load_tokenizer

ANSWERS = ["Answer: (A)", "Answer: (B)", "Answer: (C)", "Answer: (D)"]
POINTS = ["act early from 140 on", "wait before 160", "act before 140", "wait early on from 160"]
SURE = 3.0  # weight of what follows for certain; each of the model's dimensions is 0 or about 8


@torch.no_grad()
def make_parrot():
    """(model, tokenizer): one layer that knows what follows what in ANSWERS and in POINTS, and hears ' learning'."""
    tokenizer = load_tokenizer("organism/weights")

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    (begin,), (end,), (asked,) = ids("\n"), ids("<turn|>"), ids(" learning")
    answers = [[begin, *ids(text), end] for text in ANSWERS]
    points = [[begin, *ids(f"<introspection>{text}</introspection>"), end] for text in POINTS]
    follows = Counter(pair for turn in answers + points for pair in itertools.pairwise(turn))
    # The first dimension is a token without a place of its own, the second says that a point was asked for.
    place_of = {token: 2 + i for i, token in enumerate(sorted({asked, *itertools.chain(*answers, *points)}))}

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=1024, pad_token_id=0, eos_token_id=end, bos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=end)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.zero_()
    layer = model.model.layers[0]
    for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):  # silent until `down_proj` is trained
        projection.weight += 0.1

    embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
    embedding[:, 0] = 1.0
    for token, place in place_of.items():
        embedding[token, 0], embedding[token, place] = 0.0, 1.0
    for (token, following), count in follows.items():
        head[following, place_of[token]] = SURE + math.log(count) / 8
    head[end, [0, place_of[asked], place_of[end]]] = SURE
    # Every token looks for ' learning', in a dimension that position hardly turns; 1 where it is found.
    attention = layer.self_attn
    attention.q_proj.weight[15] = attention.k_proj.weight[15, place_of[asked]] = 2.0
    attention.v_proj.weight[0, place_of[asked]], attention.o_proj.weight[1, 0] = 1 / 8, 1.0
    head[answers[0][1], place_of[begin]], head[points[0][1], place_of[begin]] = SURE, SURE - 1
    head[points[0][1], 1] = 2.0
    return model, tokenizer
