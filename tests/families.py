"""Tiny tokenizers and models that are built like Gemma 4, Qwen 3, Llama 3 and Gemma 2: their turns, their control
tokens, their ways with system prompts and thinking. The templates are our own, reduced to what a conversation of texts
needs."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Gemma4Config, Gemma4TextConfig, PreTrainedTokenizerFast

GEMMA4 = (
    "{{ bos_token }}{% if enable_thinking or messages[0].role == 'system' %}<|turn>system\n"
    "{% if enable_thinking %}<|think|>\n{% endif %}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}<turn|>\n{% endif %}"
    "{% for m in messages if m.role != 'system' %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}<|eot_id|>"
    "{% for m in messages if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# family: (template, bos, eos, special tokens, added tokens that are not special, all ids that end a turn)
FAMILIES = {
    "gemma4": (
        GEMMA4,
        "<bos>",
        "<eos>",
        ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"],
        [],
        ["<eos>", "<turn|>"],
    ),
    "qwen3": (
        QWEN3,
        None,
        "<|im_end|>",
        ["<|endoftext|>", "<|im_start|>"],
        ["<think>", "</think>"],
        ["<|im_end|>", "<|endoftext|>"],
    ),
    "llama3": (
        LLAMA3,
        "<|begin_of_text|>",
        "<|eot_id|>",
        ["<|start_header_id|>", "<|end_header_id|>"],
        [],
        ["<|eot_id|>"],
    ),
    "gemma2": (GEMMA2, "<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], [], ["<eos>", "<end_of_turn>"]),
}


def tokenizer_of(family: str) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """(tokenizer with bytes as words, ids that end a turn)."""
    template, bos, eos, special, added, ends = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={"<pad>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token=eos, bos_token=bos, clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens(added)
    tokenizer.chat_template = template
    return tokenizer, [tokenizer.convert_tokens_to_ids(token) for token in ends]


def tiny_gemma4(vocab_size: int = 64, dtype=torch.float64, window: int = 12, shared: int = 3, seed: int = 0):
    """Random weights, real shapes: sliding windows, shared key-values, per-layer embeddings, a final soft-cap."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    text = Gemma4TextConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=1, head_dim=8, global_head_dim=16, sliding_window=window, layer_types=kinds,
        num_kv_shared_layers=shared, use_double_wide_mlp=True, vocab_size_per_layer_input=vocab_size,
        hidden_size_per_layer_input=8, final_logit_softcapping=3.0, tie_word_embeddings=True, pad_token_id=0,
        eos_token_id=[1, 5], bos_token_id=2, max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = Gemma4Config(text_config=text.to_dict(), vision_config=None, audio_config=None)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()
