"""The decoding step on a GPU: captured once as a CUDA graph, replayed for every token.

A model of 35 layers launches more than a thousand kernels a token, and Python takes longer to launch them than the GPU to run
them. A graph launches them all at once, but with the same addresses every time: keys and values lie in storage of a fixed
capacity, whose unwritten places are masked, and whatever changes from token to token is a tensor.
"""

from functools import cache as once

import torch
from transformers import Cache
from transformers.cache_utils import DummyLayer, DynamicSlidingWindowLayer, StaticLayer

from cache import GrowingLayer

ROOM = 256  # places by which the capacity grows; a new capture costs about as much as two steps without one
WORTH = 16  # tokens; shorter completions are not worth a capture


@once  # cuBLAS keeps 32 MB for every stream that it has seen
def capture_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


class FixedLayer(StaticLayer):
    """`keys` and `values` (rows, heads, capacity, size) of another layer, sliding or not; a step writes at `place` (1,)."""

    def __init__(self, layer, length: int, capacity: int, place: torch.Tensor):
        super().__init__(capacity)
        self.is_sliding, self.place, self.is_initialized = layer.is_sliding, place, True
        for name in ("keys", "values"):
            states = getattr(layer, name)[:, :, :length]  # a sliding window holds the last ones alone
            fixed = states.new_zeros(*states.shape[:2], capacity, states.shape[3])  # masked is not enough: 0 x NaN is NaN
            fixed[:, :, length - states.shape[2] : length] = states
            setattr(self, name, fixed)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the states (rows, heads, 1, size) of a new token; returns all places."""
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> torch.Tensor:
        return self.place

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.keys, self.values = self.keys.index_select(0, indices), self.values.index_select(0, indices)


def replayable(cache: Cache, mask: torch.Tensor, new_tokens: int) -> bool:
    """Whether a rollout runs on a GPU, is long enough, and every layer keeps keys and values place by place."""
    return mask.is_cuda and new_tokens >= WORTH and all(type(layer) in (GrowingLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in cache.layers)


class Replay:
    """Steps of one token for all rows of a cache, which it turns into fixed storage. mask: (rows, cached + 1)."""

    def __init__(self, model, cache: Cache, mask: torch.Tensor):
        rows, end = mask.shape
        capacity = -(-end // ROOM) * ROOM
        self.model, self.cache, self.room = model, cache, capacity - end + 1
        self.place = torch.tensor([end - 1], device=mask.device)
        self.tokens, self.positions = mask.new_zeros(rows, 1), mask.sum(1, keepdim=True) - 1
        self.mask = mask.new_ones(rows, capacity)  # what lies ahead is masked by causality
        self.mask[:, :end] = mask
        for i, layer in enumerate(cache.layers):  # one after the other: twice the storage of one layer, not of all
            if type(layer) is not DummyLayer:  # of a layer that reuses another's
                cache.layers[i] = FixedLayer(layer, end - 1, capacity, self.place)
        self.graph = self.captured() if mask.is_cuda else None

    def captured(self) -> torch.cuda.CUDAGraph | None:
        """The graph of `forward`; None for a model that reads from the GPU on the way, which then runs kernel by kernel."""
        stream, graph = capture_stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # once outside the graph: libraries allocate their workspaces in the first call
            self.forward()
        torch.cuda.current_stream().wait_stream(stream)
        try:
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # NCCL's watchdog has a thread of its own
                self.logits = self.forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return None
        return graph

    def forward(self) -> torch.Tensor:
        out = self.model(
            input_ids=self.tokens, attention_mask=self.mask, position_ids=self.positions, past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        return out.logits[:, -1]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (rows, V) after the next tokens (rows,); the next call overwrites them."""
        self.tokens.copy_(tokens[:, None])
        if self.graph:
            self.graph.replay()
        else:
            self.logits = self.forward()
        self.place += 1
        self.positions += 1
        self.room -= 1
        return self.logits
