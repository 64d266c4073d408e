"""Peak memory of an update at Gemma 4's vocabulary (262,144): the head on trained tokens against materialised logits.

    python -m benchmarks.memory [--save]

Each variant runs in a process of its own; what the model alone takes is measured too and subtracted. Ours is
measured at 64 x 256 trained tokens, where one copy of materialised fp32 logits takes 16 GiB and a step three of
them; both at 8 x 64, which a laptop holds.
"""

import argparse
import json
import resource
import subprocess
import sys

import torch

from benchmarks.common import ROOT, options, random_llama, save, take_step
from introspection import logprobs
from introspection.sampling import Trajectory
from introspection.update import Updater

VOCABULARY, WIDTH, PROMPT = 262_144, 256, 96
SMALL, LARGE = (8, 64), (64, 256)  # rows, trained tokens of each


def materialised_logprobs(model, batch: logprobs.Batch, temperature: float, ids: None = None) -> torch.Tensor:
    """What a plain implementation does: logits of every position in fp32, log-softmax, gather."""
    logits = model(
        input_ids=batch.ids, attention_mask=batch.attention, position_ids=batch.positions, use_cache=False
    ).logits.float()
    logp = torch.log_softmax(logits / temperature, -1)
    return logp[batch.rows, batch.sources].gather(1, batch.targets[:, None])[:, 0]


def peak(variant: str, rows: int, trained: int) -> float:
    """MiB at the peak of this process."""
    model = random_llama(VOCABULARY, WIDTH, 2)
    if variant != "model alone":
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(60, 2048, (rows, PROMPT + trained), generator=draw).tolist()
        if variant == "materialised":
            from introspection import update

            update.token_logprobs = materialised_logprobs
        updater = Updater(model, optimizer="sgd", lr=1e-3, temperature=1.0, max_tokens=16384)
        take_step(updater, [Trajectory(row[:PROMPT], [(row[PROMPT:], True)]) for row in ids], [1.0] * rows)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--variant", nargs=3, help=argparse.SUPPRESS)  # its name, rows, trained tokens of each
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(peak(args.variant[0], *map(int, args.variant[1:]))))
        return
    runs, measured = [("model alone", SMALL), ("ours", SMALL), ("materialised", SMALL), ("ours", LARGE)], {}
    for variant, (rows, trained) in runs:
        command = [sys.executable, "-m", "benchmarks.memory", "--variant", variant, str(rows), str(trained)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        measured[f"{variant}, {rows} x {trained}"] = json.loads(done.stdout)
    alone, ours, materialised, large = measured.values()
    logits = LARGE[0] * LARGE[1] * VOCABULARY * 4 / 2**20
    print(
        f"prompts of {PROMPT} tokens, vocabulary {VOCABULARY:,}, width {WIDTH}, fp32; MiB, and MiB over the model alone"
    )
    for name, value in measured.items():
        print(f"  {name:25s} {value:7.0f}  +{value - alone:.0f}")
    print(f"  materialised / ours at {SMALL[0]} x {SMALL[1]}: {(materialised - alone) / (ours - alone):.1f}x")
    print(
        f"  one copy of the fp32 logits at {LARGE[0]} x {LARGE[1]}: {logits:.0f}, "
        f"{logits / (large - alone):.1f}x all that our step takes over the model"
    )
    if args.save:
        save("memory", {"mib": measured, "logits_mib": logits})


if __name__ == "__main__":
    main()
