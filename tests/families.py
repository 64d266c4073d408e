"""Tiny tokenizers and models that are built like those of many families: their turns, their control tokens, their ways
with system prompts, dates and thoughts, their heads. The templates are our own, reduced to what a conversation of texts
needs."""

from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, Gemma4Config, Gemma4TextConfig, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a small model.<|im_end|>\n{% endif %}" + CHATML
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set told = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set told = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{{ (told if loop.first else '') + m.content | trim }} [/INST]{% else %} "
    "{{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}<|eot_id|>"
    "{% for m in messages if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL1 = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }} {% endif %}{% endfor %}"
)
MISTRAL3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set told = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}[INST] "
    "{% if loop.last and told is defined %}{{ told }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set told = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set told = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ told if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
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
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
HARMONY = (
    "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>{% for m in messages %}"
    "{% if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% else %}"
    "<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
GRANITE = (
    "{% if messages[0].role != 'system' %}<|start_of_role|>system<|end_of_role|>Today's Date: "
    "{{ strftime_now('%B %d, %Y') }}.<|end_of_text|>\n{% endif %}"
    "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
EOS_TEXT = "{% for m in messages %}{{ m.role }}: {{ m.content }} {{ eos_token }}{% endfor %}assistant:"
NO_END = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
REWRITES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'user' and not loop.last %}(asked before) {% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# ---- tokenizers ----------------------------------------------------------------------------------------------------
def byte_level() -> Tokenizer:
    """Bytes as words (Llama 3, Qwen, Phi 4, ...)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={"<pad>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    return bpe


def pieces(kind: str) -> Tokenizer:
    """Characters with SentencePiece's mark for a space: in front of every piece of text between control tokens
    ('prepend', Llama 2), of the first one alone ('first', Mistral 0.3), or nowhere ('bare', Gemma)."""
    shown = [chr(c) for c in range(33, 127)] + ["\n", "▁"]
    vocab = {"<pad>": 0, "<unk>": 1} | {c: i + 2 for i, c in enumerate(shown)}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    if kind == "prepend":
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "first":
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return bpe


@dataclass
class Family:
    """A chat template with its tokenizer and, where it is right, a tiny model of its architecture."""

    template: str
    eos: str
    special: list[str]
    bos: str | None = None
    kind: str = "bytes"  # of tokenizer
    added: list[str] = field(default_factory=list)  # tokens that are not special
    ends: list[str] = field(default_factory=list)  # of the generation config, beside eos
    refused: str = ""  # what the refusal says; empty: right
    folds: bool = False  # whether a system prompt goes in front of the first user turn
    thinking: bool = False
    config: tuple[str, dict] = ("llama", {})  # architecture, settings beside the common ones


IM = ["<|im_start|>"]
R1 = ["<|User|>", "<|Assistant|>"]
CHANNELS = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"]
FAMILIES = {
    "chatml": Family(CHATML, "<|im_end|>", IM, config=("qwen2", {})),
    "chatml-default": Family(DEFAULT_SYSTEM, "<|im_end|>", IM),
    "llama2": Family(LLAMA2, "</s>", [], bos="<s>", kind="prepend"),
    "llama3": Family(
        LLAMA3, "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"], bos="<|begin_of_text|>",
        ends=["<|begin_of_text|>"],
    ),
    "mistral1": Family(
        MISTRAL1, "</s>", [], bos="<s>", kind="prepend", folds=True, config=("mistral", {"sliding_window": None}),
    ),
    "mistral3": Family(
        MISTRAL3, "</s>", ["[INST]", "[/INST]"], bos="<s>", kind="first", folds=True,
        config=("mistral", {"sliding_window": None}),
    ),
    "gemma2": Family(
        GEMMA2, "<eos>", ["<start_of_turn>", "<end_of_turn>"], bos="<bos>", folds=True, ends=["<end_of_turn>"],
        config=("gemma2", {"head_dim": 8, "sliding_window": 16}),
    ),
    "gemma3": Family(
        GEMMA3, "<eos>", ["<start_of_turn>", "<end_of_turn>"], bos="<bos>", kind="bare", added=["\n\n"],
        ends=["<end_of_turn>"], config=("gemma3_text", {"head_dim": 8, "sliding_window": 16}),
    ),
    "gemma4": Family(
        GEMMA4, "<eos>", ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"], bos="<bos>", ends=["<turn|>"],
        config=("gemma4", {}),
    ),
    "qwen3": Family(
        QWEN3, "<|im_end|>", ["<|endoftext|>", *IM], added=["<think>", "</think>"], ends=["<|endoftext|>"],
        config=("qwen3", {"head_dim": 8}),
    ),
    "qwen3-thinking": Family(
        QWEN3, "<|im_end|>", ["<|endoftext|>", *IM], added=["<think>", "</think>"], ends=["<|endoftext|>"],
        thinking=True, config=("qwen3", {"head_dim": 8}),
    ),
    "phi3": Family(
        PHI3, "<|endoftext|>", ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"], ends=["<|end|>"],
        config=("phi3", {}),
    ),
    "deepseek-r1": Family(DEEPSEEK_R1, "<|eos|>", R1, bos="<|bos|>", added=["<think>", "</think>"]),
    "granite": Family(
        GRANITE, "<|end_of_text|>", ["<|start_of_role|>", "<|end_of_role|>"],
        config=("granite", {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.25}),
    ),
    "eos-text": Family(EOS_TEXT, "</s>", [], config=("gpt_neox", {})),
    "harmony": Family(HARMONY, "<|return|>", CHANNELS, refused="answers in channels"),
    "no-end": Family(NO_END, "</s>", [], refused="ends a model turn with no control token"),
    "rewrites": Family(REWRITES, "<|im_end|>", IM, refused="changes earlier turns"),
}  # fmt: skip


def tokenizer_of(name: str) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """(tokenizer, ids that end a turn by the generation config)."""
    family = FAMILIES[name]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level() if family.kind == "bytes" else pieces(family.kind), pad_token="<pad>",
        eos_token=family.eos, bos_token=family.bos, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": family.special})
    tokenizer.add_tokens(family.added)
    tokenizer.chat_template = family.template
    return tokenizer, [tokenizer.convert_tokens_to_ids(token) for token in (family.eos, *family.ends)]


# ---- models --------------------------------------------------------------------------------------------------------
def tiny(kind: str, vocab_size: int, **more):
    """A model of random weights of an architecture; spread enough that its tokens differ."""
    if kind == "gemma4":
        return tiny_gemma4(vocab_size, torch.float32)
    common = {
        "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0,
        "bos_token_id": 2, "eos_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind).__class__(**(common | more)))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


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
