"""Policies and tokenizers: loading them, and the checkpoints of their weights."""

import copy
import functools
import json
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlparse

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.utils import logging

from common import ROOT, Shared, UserError, write
from introspection.chat import Chat

ATTENTION = ("full_attention", "sliding_attention", "dummy")  # dummy: a layer that uses another one's keys (Gemma 4)
logging.disable_progress_bar()  # of loading and saving: the stage has its own bar


def locate(name: str) -> str:
    """A model's folder, or its hub name. Raises UserError for a folder that is missing or holds no model."""
    folder = ROOT / name  # an absolute name stays as it is
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"shared.model: folder '{name}' holds no config.json; expected a Hugging Face model folder")
        return str(folder)
    if name.count("/") != 1 or name.startswith((".", "/")) or (ROOT / name.split("/")[0]).exists():
        raise UserError(f"shared.model: no such folder '{name}'")
    check_network()
    return name


@functools.cache
def check_network() -> None:
    """Looks at the cache alone where the hub's name is not known: its client would try again for a minute."""
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True


def make_trainable(policy, cfg: Shared):
    """The policy as `cfg` wants it trained: embeddings frozen, LoRA adapters put in, activations recomputed.

    Raises UserError if adapters are asked for and peft is missing.
    """
    if cfg.freeze_embeddings:
        for module in policy.modules():  # Gemma 4 has a second table, one embedding per layer
            if isinstance(module, torch.nn.Embedding):
                module.weight.requires_grad_(False)
    if cfg.lora_rank:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise UserError("shared.lora_rank: LoRA needs the package peft (pip install peft==0.21.2)") from error
        # Vision and audio towers have projections of the same names, and layers that peft cannot wrap.
        targets = r"(?!.*(?:vision|audio)).*\.(?:layers|h)\.\d+\.(?:self_attn|self_attention|attention|attn|mlp)\."
        targets += r"(?:\w+_proj|c_\w+|query_key_value|dense\w*)"  # ..., GPT-2's, GPT-NeoX's
        if not any(re.fullmatch(targets, module) for module, _ in policy.named_modules()):
            raise UserError(f"shared.lora_rank: found no layers of {policy.config.model_type} to adapt; use 0")
        with torch.random.fork_rng(devices=[]):  # the same adapters on every rank and in every run of a seed
            torch.manual_seed(cfg.seed)
            policy = get_peft_model(
                policy, LoraConfig(r=cfg.lora_rank, lora_alpha=2 * cfg.lora_rank, target_modules=targets)
            )
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if cfg.gradient_checkpointing:
        # Reentrant checkpointing loses gradients of shared key-values (Gemma 4).
        policy.activation_checkpointing_enable({"use_reentrant": False})
        # It needs train mode, which would turn dropout on: what is scored would not be what was sampled.
        for module in policy.modules():
            rates = [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
            for name in [*rates, *(["p"] if isinstance(module, torch.nn.Dropout) else [])]:
                setattr(module, name, 0.0)
    return policy.eval()


def save(policy, tokenizer, folder: Path) -> None:
    """A plain Hugging Face folder; adapters are merged into the weights, and kept beside them.

    adapters/merged.json says what share of them merging lost: in bf16 an adapter is often smaller than a rounding.
    """
    if hasattr(policy, "merge_and_unload"):
        merged = copy.deepcopy(policy).merge_and_unload()
        policy.save_pretrained(folder / "adapters")
        write(folder / "adapters/merged.json", json.dumps({"lost": lost_in_merging(policy, merged)}))
        policy = merged
    for saved in (policy, tokenizer):
        saved.save_pretrained(folder)


@torch.no_grad()
def lost_in_merging(policy, merged) -> float:
    """Norm of what adapters should have added to the weights and merging did not, over the norm of what they should."""
    lost = intended = 0.0
    for name, module in policy.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            delta = module.get_delta_weight("default").float()
            added = merged.get_submodule(name).weight.float() - module.base_layer.weight.float()
            lost += (added - delta).square().sum().item()
            intended += delta.square().sum().item()
    return (lost / intended) ** 0.5 if intended else 0.0


def load_tokenizer(name: str):
    """The tokenizer of a model folder or hub name."""
    folder = locate(name)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"shared.model: cannot load a tokenizer from '{name}': {error}") from error


def load_chat(name: str, system: str = "", thinking: str = "off") -> Chat:
    """The turns of a model folder or hub name as token ids; `chat.tokenizer` is its tokenizer.

    Raises UserError for a model of a kind that cannot be sampled here: every script looks at this first.
    """
    tokenizer = load_tokenizer(name)
    check_layers(name)
    return Chat(tokenizer, eos_ids(name, tokenizer), system, thinking == "on")


def check_layers(name: str) -> None:
    """Raises UserError for a model whose layers keep anything but keys and values (linear attention, convolutions):
    such a state can be neither cut back nor dealt out to a group's rows.
    """
    config = text_config(name)
    others = {kind for kind in get_layer_types_and_kwargs(config)[0] if kind not in ATTENTION}
    if others:
        kinds = ", ".join(sorted(others))
        raise UserError(f"shared.model: '{name}' ({config.model_type}) has layers of kind {kinds}; expected attention")


def check_folder(folder: Path, key: str) -> None:
    """Raises UserError for a model folder whose tokenizer or weights cannot be read, by the setting that names it: a
    script that measures several models looks at all of them before it measures one.
    """
    try:
        load_chat(str(folder))
    except UserError as error:
        raise UserError(str(error).replace("shared.model", key, 1)) from error
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):  # reads what the file says of itself, not the weights
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{key}: cannot load '{file}': {error}") from error


def load_policy(name: str, cfg: Shared):
    """The causal LM in `name`, in eval mode.

    Raises UserError if any weight is missing: it would be random (Gemma 4, C1).
    """
    folder = locate(name)
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError("shared.device: cuda asked for, but torch finds no CUDA device")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = found if cfg.device == "auto" else cfg.device
    try:
        policy, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, cfg.dtype), output_loading_info=True
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        SafetensorError,
    ) as error:  # missing, unknown, misshapen, or broken weights
        raise UserError(f"shared.model: cannot load '{name}': {error}") from error
    if info["missing_keys"]:
        raise UserError(f"shared.model: '{name}' lacks weights, e.g. {sorted(info['missing_keys'])[0]}")
    return policy.eval().to(device)


def eos_ids(name: str, tokenizer) -> list[int]:
    """All ids that end a model turn.

    They stand in the generation config (Gemma 4 has several), the model config and the tokenizer.
    """
    listed = [tokenizer.eos_token_id]
    for config_class in (GenerationConfig, AutoConfig):
        try:
            found = getattr(config_class.from_pretrained(locate(name)), "eos_token_id", None)
        except OSError:  # a model may come without a generation config
            continue
        listed += found if isinstance(found, list) else [found]
    return sorted({token for token in listed if token is not None})


def write_checkpoint(policy, updater, folder: Path) -> None:
    """Trained weights under the names that the model itself uses (a tied tensor once), and the updater's state."""
    weights = {
        name: parameter.detach().contiguous()
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad
    }
    save_file(weights, folder / "weights.safetensors")
    torch.save(updater.state_dict(), folder / "updater.pt")


@torch.no_grad()
def restore(policy, updater, folder: Path) -> None:
    """Puts weights and optimiser back as they were, bit by bit.

    Raises KeyError if the model has changed shape or names.
    """
    weights = load_file(folder / "weights.safetensors")
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(weights.pop(name))
    if weights:
        raise KeyError(f"{folder}: weights of no parameter: {', '.join(weights)}")
    updater.load_state_dict(torch.load(folder / "updater.pt", weights_only=True))


def peak_memory_gib() -> float | None:
    """Peak of allocated GPU memory; None on the CPU, where the summary shows the process's peak."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def text_config(name: str):
    """The config of a model's text part. Raises UserError where it cannot be read."""
    try:
        return AutoConfig.from_pretrained(locate(name)).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"shared.model: cannot read the config of '{name}': {error}") from error


def size(cfg: Shared) -> tuple[int, int, int, int]:
    """(parameters, those that are trained, width, layers) of a model.

    From its config alone: no weight is loaded or allocated.
    """
    try:
        config = AutoConfig.from_pretrained(locate(cfg.model))
    except (OSError, ValueError) as error:
        raise UserError(f"shared.model: cannot read the config of '{cfg.model}': {error}") from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        count = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in make_trainable(model, cfg).parameters() if p.requires_grad)
    text = config.get_text_config()
    return count, trained, text.hidden_size, text.num_hidden_layers
