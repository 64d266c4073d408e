"""Rollouts against transformers' generate(num_return_sequences=G), same prompts, same distribution of lengths.

    python -m benchmarks.rollouts [--save] [--repeats 5]

Prints the ratio, which part of it each of our five measures brings, and the cost per rollout from 1 to 256 rollouts
(table T7). Beside each stand two floors: a replay of the same forward passes at the same shapes without any
bookkeeping, and the roofline of this machine. Set malloc's thresholds for both sides (glibc; its upper limit is 32
MiB): MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=8589934592.
"""

import statistics
import time

import torch
from transformers import DynamicCache

from benchmarks.common import ROOT, options, random_llama, save, spread, time_in_turn
from common import Shared
from introspection import models, sampling
from introspection.cache import growing_cache
from introspection.sampling import sample
from tasks.bank import load_questions


def ours(model, prompt_ids, n, length, ends):
    def run():
        return sample(model, prompt_ids, n, length, 1.0, ends, [(0, i) for i in range(len(prompt_ids) * n)])

    return run


@torch.no_grad()
def theirs(model, prompt_ids, n, length, ends):
    """generate() on the same prompts, as `ours`: a function that samples once."""
    ids, mask = sampling.left_pad(prompt_ids, model.device)
    settings = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": length,
        "num_return_sequences": n,
        "eos_token_id": ends,
        "pad_token_id": 0,
    }

    def run():
        torch.manual_seed(0)
        return model.generate(input_ids=ids, attention_mask=mask, **settings)

    return run


def without(part: str, run):
    """`run` with one of our measures taken away."""

    def multinomial(logits, uniform, temperature, warp):
        logp = torch.log_softmax(logits.float() / temperature, -1)
        token = torch.multinomial(logp.exp(), 1)
        return token[:, 0], logp.gather(1, token)[:, 0]

    changes = {
        "sharing prefixes": ("run_shared_prefixes", lambda *_: None),
        "compaction": ("COMPACT_AT", -1.0),
        "growth in blocks": ("growing_cache", lambda config: DynamicCache(config=config)),
        "inverse-CDF sampling": ("inverse_cdf", multinomial),
        "prefill once": ("distinct", lambda rows: (rows, list(range(len(rows))))),
    }
    name, replacement = changes[part]
    original = getattr(sampling, name)

    def run_changed():
        setattr(sampling, name, replacement)
        try:
            return run()
        finally:
            setattr(sampling, name, original)

    return run_changed


def replay(model, prompt_ids, n, length, ends) -> float:
    """Seconds of the forward passes alone, at the shapes of one recorded run: no sampling, no compaction, no growth."""
    shapes, original = [], sampling.forward

    def record_shape(model, ids, mask, cache):
        shapes.append((tuple(ids.shape), mask.shape[1]))
        return original(model, ids, mask, cache)

    sampling.forward = record_shape
    try:
        ours(model, prompt_ids, n, length, ends)()
    finally:
        sampling.forward = original
    seconds, cache, rows = 0.0, None, None
    with torch.no_grad():
        for (batch, new), total in shapes:
            if batch != rows or new > 1:  # a cache of the right shape, outside the clock
                cache, rows = growing_cache(model.config), batch
                if total > new:
                    full = torch.ones(batch, total - new, dtype=torch.long)
                    original(model, torch.ones(batch, total - new, dtype=torch.long), full, cache)
            ids, mask = torch.ones(batch, new, dtype=torch.long), torch.ones(batch, total, dtype=torch.long)
            start = time.perf_counter()
            original(model, ids, mask, cache)
            seconds += time.perf_counter() - start
    return seconds


def roofline(model, tokens: int, context: int) -> float:
    """Seconds that the arithmetic of `tokens` decoded tokens takes at this machine's measured rates."""
    a = torch.randn(1024, 1024)
    start = time.perf_counter()
    for _ in range(20):
        a @ a
    flops = 20 * 2 * 1024**3 / (time.perf_counter() - start)
    block = torch.empty(2**26)
    target = torch.empty_like(block)
    start = time.perf_counter()
    for _ in range(4):
        target.copy_(block)
    rate = 4 * 2 * block.numel() * 4 / (time.perf_counter() - start)
    config, parameters = model.config, sum(p.numel() for p in model.parameters())
    kv_bytes = 2 * 4 * config.num_hidden_layers * config.hidden_size * context
    return tokens * max(2 * parameters / flops, kv_bytes / rate)


PARTS = ("sharing prefixes", "compaction", "growth in blocks", "inverse-CDF sampling", "prefill once")


def measure(case: tuple, repeats: int, parts: tuple[str, ...] = (), warm_ups: int = 1, floors: bool = True) -> dict:
    """Seconds and tokens of both sides, in turn, and seconds of the floors where asked for.

    parts: of ours without each of these measures too. The noise is the same every time, so that all of them are of the
    same completions; generate() draws others of the same model.
    """
    runs = {
        "ours": ours(*case),
        "generate": theirs(*case),
        **{f"ours without {part}": without(part, ours(*case)) for part in parts},
    }
    times = time_in_turn(runs, repeats, warm_ups)
    completions, made = runs["ours"](), runs["generate"]()[:, max(map(len, case[1])) :]
    over = torch.isin(made, torch.tensor(case[4])).int().cumsum(1)  # 0 up to the end token, the last one that counts
    tokens, context = sum(len(c.ids) for c in completions), statistics.mean(map(len, case[1])) + case[3] / 2
    theirs_made = int((over == 0).sum() + (over[:, -1] > 0).sum())
    record = {"rollouts": len(completions), "tokens": tokens, "tokens_generate": theirs_made, "seconds": times}
    if not floors:
        return record
    return record | {
        "replay": statistics.median(replay(*case) for _ in range(3)),
        "roofline": roofline(case[0], tokens, context),
    }


def cases() -> dict:
    """name: (model, prompts, rows a prompt, longest, end ids)."""
    policy = models.load_policy("organism/weights", Shared())
    chat = models.load_chat("organism/weights")
    questions = load_questions(ROOT / "data/bank.jsonl")[:16]
    asked = [chat.first(q.turn) for q in questions]
    draw = torch.Generator().manual_seed(0)
    random_prompts = torch.randint(60, 2048, (16, 200), generator=draw).tolist()
    large = (random_llama(2048, 576, 6), random_prompts, 32, 128, list(range(2, 53)))
    return {
        "organism, attempts, 16 x 32": (policy, asked, 32, 48, sorted(chat.eos_ids)),
        "33 M random Llama, 200-token prompts, mean 40, 16 x 32": large,
    }


def main() -> None:
    args = options(__doc__, repeats=5).parse_args()
    (name, small), (other, large) = cases().items()
    record = {"cases": {name: measure(small, args.repeats, PARTS)}, "scaling": []}
    show(name, record["cases"][name])
    model, asked, _, length, ends = small
    print(
        "\nrollouts   ours: s, ms a rollout, tokens/s   over the replay, the roofline   generate: s, ms a rollout, "
        "tokens/s"
    )
    for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        part = asked[: min(8, rows)]
        m = measure((model, part, rows // len(part), length, ends), args.repeats)
        a, b = (statistics.median(m["seconds"][side]) for side in ("ours", "generate"))
        record["scaling"].append(m)
        print(
            f"{rows:8d}   {a:.3f}  {1000 * a / rows:7.2f}  {m['tokens'] / a:9.0f}   {a / m['replay']:10.2f}  "
            f"{a / m['roofline']:10.2f}      {b:.3f}  {1000 * b / rows:7.2f}  {m['tokens_generate'] / b:9.0f}"
        )
    if args.save:  # the larger model takes half an hour, nearly all of it in generate()
        save("rollouts", record)
    # Minutes a run, tens of them a replay.
    record["cases"][other] = measure(large, args.repeats, warm_ups=0, floors=False)
    show(other, record["cases"][other])
    if args.save:
        save("rollouts", record)


def show(name: str, m: dict) -> None:
    base = statistics.median(m["seconds"]["ours"])
    print(f"\n{name}: {m['tokens']} tokens, generate() {m['tokens_generate']}")
    for variant, seconds in m["seconds"].items():
        print(f"  {variant:35s} {spread(seconds)}  {statistics.median(seconds) / base:.2f}x ours")
    for floor in (f for f in ("replay", "roofline") if f in m):
        print(f"  {floor:35s} {m[floor]:.3f} s  {m[floor] / base:.2f}x ours")


if __name__ == "__main__":
    main()
