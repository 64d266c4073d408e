"""What the benchmarks share: alternating timings, a random model, the machine."""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reproduce.records import write_records

ROOT = Path(__file__).resolve().parent.parent


def options(what: str, **others) -> argparse.ArgumentParser:
    """The command line of a benchmark; others: numbers and their defaults."""
    parser = argparse.ArgumentParser(description=what.split("\n")[0])
    parser.add_argument("--save", action="store_true", help="write into results/")
    for name, default in others.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


def time_in_turn(variants: dict, repeats: int, warm_ups: int = 1) -> dict[str, list[float]]:
    """Seconds of each variant, `repeats` times in turn after the warm-ups: drift of the machine hits all alike."""
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
    """A model whose next token is nearly uniform: k of V end ids give lengths that are geometric with mean V / k."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=2048, tie_word_embeddings=True,
        initializer_range=0.01, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def machine() -> dict:
    """What the figures were measured on; malloc's thresholds matter as much as the processor."""
    names = ("OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        **{name: os.environ.get(name) for name in names},
    }


def save(name: str, record: dict) -> None:
    path = ROOT / "results" / f"{name}.json"
    write_records(path, record | {"machine": machine()})
    print(f"wrote {path.relative_to(ROOT)}")
