"""Peak memory of an update at Gemma 4's vocabulary (262,144): the head in chunks, on trained tokens, against materialised logits.

    python -m benchmarks.memory [--save]

Each variant runs in a process of its own; what the model alone takes is measured too and subtracted.
"""

import argparse
import json
import resource
import subprocess
import sys

import torch

import logprobs
from benchmarks.common import ROOT, random_llama, save
from rollout import Trajectory
from update import Updater

VOCABULARY, WIDTH, ROWS, PROMPT, TRAINED = 262_144, 256, 8, 96, 64


def materialised(model, batch: logprobs.Batch, temperature: float) -> torch.Tensor:
    """What a plain implementation does: logits of every position in fp32, log-softmax, gather."""
    logits = model(input_ids=batch.ids, attention_mask=batch.attention, position_ids=batch.positions, use_cache=False).logits.float() / temperature
    logp = torch.log_softmax(logits, -1)
    return logp[batch.rows, batch.sources].gather(1, batch.targets[:, None])[:, 0]


def peak(variant: str) -> float:
    """MiB at the peak of this process."""
    model = random_llama(VOCABULARY, WIDTH, 2)
    if variant != "model alone":
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(60, 2048, (ROWS, PROMPT + TRAINED), generator=draw).tolist()
        if variant == "materialised":
            import update

            update.token_logprobs = materialised
        updater = Updater(model, "sgd", 1e-3, 1.0, 1.0, 16384)
        updater.step([Trajectory(row[:PROMPT], [(row[PROMPT:], True)]) for row in ids], [1.0] * ROWS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", action="store_true", help="write results/memory.json")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(peak(args.variant)))
        return
    measured = {}
    for variant in ("model alone", "ours", "materialised"):
        command = [sys.executable, "-m", "benchmarks.memory", "--variant", variant]
        measured[variant] = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    extra = {name: measured[name] - measured["model alone"] for name in ("ours", "materialised")}
    print(f"{ROWS} rows of {PROMPT} + {TRAINED} tokens, vocabulary {VOCABULARY:,}, width {WIDTH}, fp32")
    for name, value in measured.items():
        print(f"  {name:15s} {value:7.0f} MiB" + (f"  (+{extra[name]:.0f} over the model)" if name in extra else ""))
    print(f"  materialised / ours, over the model: {extra['materialised'] / extra['ours']:.1f}x")
    if args.save:
        save("memory", {"mib": measured})


if __name__ == "__main__":
    main()
