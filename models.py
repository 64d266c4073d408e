"""Policies and tokenizers: loading them, and the checkpoints of their weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from common import ROOT, Shared, UserError

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
    return name


def load_tokenizer(name: str):
    """The tokenizer of a model folder or hub name."""
    folder = locate(name)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"shared.model: cannot load a tokenizer from '{name}': {error}") from error


def load_policy(name: str, cfg: Shared):
    """The causal LM in `name`, in eval mode. Raises UserError if any weight is missing: it would be random (Gemma 4, C1)."""
    folder = locate(name)
    device = cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        policy, info = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, cfg.dtype), output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UserError(f"shared.model: cannot load '{name}': {error}") from error
    if info["missing_keys"]:
        raise UserError(f"shared.model: '{name}' lacks weights, e.g. {sorted(info['missing_keys'])[0]}")
    return policy.eval().to(device)


def eos_ids(name: str, tokenizer) -> list[int]:
    """All ids that end a model turn: the list of the generation config (Gemma 4 has several) and the tokenizer's own."""
    try:
        listed = GenerationConfig.from_pretrained(locate(name)).eos_token_id
    except OSError:  # a model may come without a generation config
        listed = None
    listed = [] if listed is None else listed if isinstance(listed, list) else [listed]
    return sorted({*listed, tokenizer.eos_token_id})


def write_checkpoint(policy, updater, folder: Path) -> None:
    policy.save_pretrained(folder)
    torch.save(updater.state_dict(), folder / "updater.pt")


def restore(policy, updater, folder: Path) -> None:
    """Puts weights and optimiser back as they were, bit by bit."""
    weights = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    policy.load_state_dict(weights, strict=False)  # tied weights are stored once
    updater.load_state_dict(torch.load(folder / "updater.pt", weights_only=True))


def peak_memory_gib() -> float | None:
    """Peak of allocated GPU memory; None on the CPU, where the summary shows the process's peak."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def size(name: str) -> tuple[int, int, int]:
    """(parameters, width, layers) of a model, from its config alone: no weight is loaded or allocated."""
    config = AutoConfig.from_pretrained(locate(name))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    return sum(p.numel() for p in model.parameters()), text.hidden_size, text.num_hidden_layers
