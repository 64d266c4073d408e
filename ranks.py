"""Several processes that share a step's questions (torchrun); a single process is a world of one.

Questions go round the ranks, every noise key names its question by its number in the step, gradients and token counts are
summed: the result does not depend on how many ranks there are, rounding apart. Only the first rank writes.
"""

import os
import sys

import torch
import torch.distributed as dist


def start() -> None:
    """Joins the world that torchrun describes in the environment, once; each rank owns the GPU of its local number."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        if not first():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the life of the process)


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    return rank() == 0


def mine(items: list) -> tuple[list, list[int]]:
    """(this rank's items, their numbers in the whole list)."""
    numbers = list(range(rank(), len(items), world()))
    return [items[i] for i in numbers], numbers


def gather(items: list) -> list:
    """What `mine` dealt out, put together again on every rank, in order."""
    if world() == 1:
        return items
    parts = [None] * world()
    dist.all_gather_object(parts, items)
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def total(value: float) -> float:
    """The sum of a number over all ranks."""
    if world() == 1:
        return value
    tensor = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.item()


def largest(value: float) -> float:
    if world() == 1:
        return value
    tensor = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.item()


def sum_gradients(parameters: list[torch.Tensor]) -> None:
    """Adds up `.grad` over all ranks; where any rank has a gradient, every rank has one afterwards."""
    if world() == 1:
        return
    present = torch.tensor([float(p.grad is not None) for p in parameters])
    dist.all_reduce(present)
    for parameter, found in zip(parameters, present.tolist(), strict=True):
        if found:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def wait() -> None:
    if world() > 1:
        dist.barrier()
