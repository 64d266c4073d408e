"""What the benchmarks share: alternating timings, a random model, the machine."""

import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent


def alternating(variants: dict, repeats: int, warm_ups: int = 1) -> dict[str, list[float]]:
    """Seconds of each variant, `repeats` times in turn after the warm-ups, so that drift of the machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(warm_ups + repeats):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if repeat >= warm_ups:
                times[name].append(time.perf_counter() - start)
    return times


def take_step(updater, trajectories: list, advantages: list, teacher=None, max_grad_norm: float = 1.0) -> dict:
    """One optimiser step; its metrics."""
    updater.backward(trajectories, advantages, teacher=teacher)
    updater.clip(max_grad_norm)
    return updater.apply()


def spread(values: list[float]) -> str:
    """'0.123 s [0.120, 0.131]': median and range."""
    return f"{statistics.median(values):.3f} s [{min(values):.3f}, {max(values):.3f}]"


def random_llama(vocab_size: int, width: int, layers: int, heads: int = 8, seed: int = 0) -> LlamaForCausalLM:
    """A model whose next token is nearly uniform: k of V end ids then give lengths that are geometric with mean V / k."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.01, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def machine() -> dict:
    """What the figures were measured on; malloc's thresholds matter as much as the processor."""
    names = ("OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")),
            name,
        )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": name,
        "threads": torch.get_num_threads(),
        "gpu": device,
        "torch": torch.__version__,
        **{n: os.environ.get(n) for n in names},
    }


def save(name: str, record: dict) -> None:
    path = ROOT / "results" / f"{name}.json"
    path.write_text(json.dumps(record | {"machine": machine()}, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")
