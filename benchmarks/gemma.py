"""Gemma 4 E2B's shapes with random weights: rollouts, a whole step, peak memory, and the memory-bandwidth floor.

    python -m benchmarks.gemma [--save]       # full size in bf16 on a GPU; on a CPU a model of the same build, reduced

Random weights practically never end a turn, so every rollout runs to its limit: the worst case of a step. The step
is the paper's: 4 questions x 8 rollouts, a learning point each, one verification of each point, one update (fp32
LoRA, frozen embeddings, recomputed activations, as in configs/preeclampsia_gemma.yaml; needs peft).
"""

import statistics
import time

import torch
from transformers import AutoModelForCausalLM, Gemma4Config, Gemma4TextConfig

from benchmarks.common import options, save, take_step
from common import Shared, UserError
from introspection import models
from introspection.replay import MIN_REPLAYED
from introspection.sampling import Completion, Trajectory, sample
from introspection.update import Updater

VOCABULARY = 262_144
FULL = {
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_hidden_layers": 35,
    "num_kv_shared_layers": 20,
    "head_dim": 256,
    "global_head_dim": 512,
    "hidden_size_per_layer_input": 256,
}
SMALL = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 10,
    "num_kv_shared_layers": 5,
    "head_dim": 32,
    "global_head_dim": 64,
    "hidden_size_per_layer_input": 32,
}
# prompt, attempt, feedback, point: tokens; verification answers are as long as attempts
FULL_LENGTHS, SMALL_LENGTHS = (200, 512, 96, 128), (64, 32, 32, 16)


def random_gemma(sizes: dict, device: str, dtype: torch.dtype):
    """E2B's build: four sliding layers to a full one, shared keys and values, per-layer embeddings, final soft-cap."""
    layers = sizes["num_hidden_layers"]
    text = Gemma4TextConfig(
        **sizes, vocab_size=VOCABULARY, vocab_size_per_layer_input=VOCABULARY, num_attention_heads=8,
        num_key_value_heads=1, sliding_window=512, use_double_wide_mlp=True, final_logit_softcapping=30.0,
        layer_types=["full_attention" if i % 5 == 4 else "sliding_attention" for i in range(layers)],
        tie_word_embeddings=True, pad_token_id=0, eos_token_id=[1, 106], bos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            Gemma4Config(text_config=text.to_dict(), vision_config=None, audio_config=None), dtype=dtype
        ).eval()


class Clock:
    """Seconds by part, the device waited for."""

    def __init__(self, device: str):
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        self.seconds: dict[str, float] = {}

    def time(self, name: str, run):
        self.wait()
        start = time.perf_counter()
        result = run()
        self.wait()
        self.seconds[name] = time.perf_counter() - start
        return result


def time_rollouts(model, device: str, prompt: int, length: int, most: int) -> list[dict]:
    """1, 2, 4 ... rollouts of one prompt, `length` tokens each; after a warm-up."""
    ids, clock, rows, n = torch.randint(200, 20_000, (prompt,)).tolist(), Clock(device), [], 1
    sample(model, [ids], 1, 2 * MIN_REPLAYED, 1.0, [1], [(9, 0)])
    while n <= most:
        clock.time("rollouts", lambda n=n: sample(model, [ids], n, length, 1.0, [1], [(0, i) for i in range(n)]))
        seconds = clock.seconds["rollouts"]
        rows.append({"rollouts": n, "seconds": seconds, "tokens_per_second": n * length / seconds})
        print(
            f"{n:5d} rollouts x {length}: {seconds:8.2f} s, {1000 * seconds / n:9.1f} ms each, "
            f"{n * length / seconds:9.0f} tokens/s"
        )
        n *= 2
    return rows


def time_generate(model, device: str, prompt: int, length: int, most: int) -> list[dict]:
    """The same rollouts by `generate(num_return_sequences=n)`, for 32 and the most; after a warm-up."""
    ids, clock, rows = torch.randint(200, 20_000, (1, prompt), device=device), Clock(device), []

    def run(n: int, length: int):
        return model.generate(
            ids, do_sample=True, top_k=0, num_return_sequences=n, max_new_tokens=length, min_new_tokens=length
        )

    run(1, 8)
    for n in (32, most):
        assert clock.time("generate", lambda n=n: run(n, length)).shape == (n, prompt + length)
        seconds = clock.seconds["generate"]
        rows.append({"rollouts": n, "seconds": seconds, "tokens_per_second": n * length / seconds})
    return rows


def weights_read(model) -> int:
    """Bytes of weights that one decoding step has to read: all but the embedding tables, and the head."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    rest = sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in tables)
    head = model.get_output_embeddings().weight
    return rest + head.numel() * head.element_size()


def memory_rate(device: str) -> float:
    """Bytes a second of a large copy, read and written."""
    block = torch.empty(2**28 if device == "cuda" else 2**26, device=device)
    target, clock = torch.empty_like(block), Clock(device)
    target.copy_(block)
    clock.time("copy", lambda: [target.copy_(block) for _ in range(8)])
    return 8 * 2 * block.numel() * block.element_size() / clock.seconds["copy"]


def step(model, device: str, lengths: tuple[int, int, int, int], questions: int = 4, group: int = 8) -> dict:
    """Seconds of each part of one introspection step; `model` must be trainable (models.make_trainable)."""
    prompt, attempt, feedback, point = lengths
    draw = torch.Generator().manual_seed(0)

    def turn(size: int) -> list[int]:
        return torch.randint(200, 20_000, (size,), generator=draw).tolist()

    def rollout(prompts: list[list[int]], n: int, size: int, phase: int) -> list[Completion]:
        return sample(model, prompts, n, size, 1.0, [1], [(0, phase, i) for i in range(len(prompts) * n)])

    updater = Updater(model, optimizer="adamw", lr=1e-4, temperature=1.0, max_tokens=4096)
    clock, n = Clock(device), questions * group
    asked, fed = [turn(prompt) for _ in range(questions)], [turn(feedback) for _ in range(n)]
    attempts = clock.time("rollout1", lambda: rollout(asked, group, attempt, 1))
    exchanges = [asked[i // group] + a.ids + fed[i] for i, a in enumerate(attempts)]
    points = clock.time("rollout2", lambda: rollout(exchanges, 1, point, 2))
    clock.time("rollout3", lambda: rollout([asked[i // group] + p.ids for i, p in enumerate(points)], 1, attempt, 3))
    trained = [
        Trajectory(asked[i // group], [(a.ids, True), (f, False), (p.ids, True)])
        for i, (a, f, p) in enumerate(zip(attempts, fed, points, strict=True))
    ]
    clock.time("update", lambda: take_step(updater, trained, [float(i % 2) for i in range(n)]))
    return clock.seconds


def main() -> None:
    args = options(__doc__).parse_args()
    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    lengths, most = (FULL_LENGTHS, 256) if gpu else (SMALL_LENGTHS, 64)
    model = random_gemma(FULL if gpu else SMALL, device, dtype)
    size, rate = sum(p.numel() for p in model.parameters()), memory_rate(device)
    print(f"{'full' if gpu else 'REDUCED'} size: {size / 1e9:.2f} B parameters, {dtype}, {device}")
    record = {"parameters": size, "sizes": FULL if gpu else SMALL, "lengths": lengths, "memory_rate": rate}

    def keep(**figures):  # part by part: a step that fails takes no figure with it
        record.update(figures)
        if args.save:
            save("gemma_gpu" if gpu else "gemma_cpu", record)

    scaling, floor = time_rollouts(model, device, *lengths[:2], most), weights_read(model) / rate * lengths[1]
    print(
        f"reading the weights once a token takes {floor:.2f} s: 1 rollout takes "
        f"{scaling[0]['seconds'] / floor:.1f}x that, {most} take {scaling[-1]['seconds'] / floor:.1f}x"
    )
    keep(scaling=scaling, weights_floor=floor, peak_memory_rollouts_gib=models.peak_memory_gib())  # allocated
    rivals, ours = time_generate(model, device, *lengths[:2], most), {r["rollouts"]: r["seconds"] for r in scaling}
    for rival in rivals:
        ratio = rival["seconds"] / ours[rival["rollouts"]]
        print(f"{rival['rollouts']:5d} by generate(): {rival['seconds']:8.2f} s, {ratio:.1f} times ours")
    keep(generate=rivals)
    shared = Shared(lora_rank=16, freeze_embeddings=True, gradient_checkpointing=True)
    try:
        model = models.make_trainable(model, shared)
    except UserError as error:
        raise SystemExit(str(error)) from error
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    runs = [step(model, device, lengths) for _ in range(3)]
    parts = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    peak = models.peak_memory_gib()
    print(
        f"a step of 32 rollouts: {sum(parts.values()):.1f} s",
        f"({', '.join(f'{name} {seconds:.1f}' for name, seconds in parts.items())})",
    )
    print(f"peak memory {peak:.1f} GiB (the paper's card has 48)" if gpu else "peak GPU memory: not run")
    keep(step=runs, peak_memory_gib=peak, reserved_gib=torch.cuda.max_memory_reserved() / 2**30 if gpu else None)


if __name__ == "__main__":
    main()
