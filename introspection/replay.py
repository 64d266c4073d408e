"""The decoding step on a GPU: captured once as a CUDA graph, replayed for every token.

A model of 35 layers launches some three thousand kernels a token, and Python takes longer to launch them than the GPU
to run them. A graph launches them all at once, but with the same addresses every time: keys and values lie in storage
of a fixed capacity, whose unwritten places are masked, and whatever changes from token to token is a tensor.
"""

import warnings
from functools import cache as once
from weakref import WeakSet

import torch
from transformers import Cache
from transformers.cache_utils import DummyLayer, DynamicSlidingWindowLayer, StaticLayer

from introspection.cache import GrowingLayer

GROWTH = 256  # places by which the capacity grows; a new capture costs about as much as two steps without one
MIN_REPLAYED = 16  # tokens; shorter completions are not worth a capture
uncapturable: WeakSet[torch.nn.Module] = WeakSet()  # models that read from the GPU within a step


@once  # cuBLAS keeps 32 MB for every stream that it has seen
def capture_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


class FixedLayer(StaticLayer):
    """`keys` and `values` (rows, heads, places, size) of another layer, from place `offset` on.

    A step writes at `next_place` (1,).
    """

    def __init__(self, layer, length: int, capacity: int, next_place: torch.Tensor):
        self.sliding_window = getattr(layer, "sliding_window", None)
        kept = length - getattr(layer, "offset", 0)  # of what was fixed before; others hold nothing behind it
        seen = kept if self.sliding_window is None else self.sliding_window - 1
        states = [s[:, :, :kept][:, :, -seen:] for s in (layer.keys, layer.values)]
        dropped = length - states[0].shape[2]
        self.offset = dropped // 8 * 8  # attention kernels like their lengths so
        super().__init__(capacity - self.offset)
        self.is_sliding, self.next_place, self.is_initialized = layer.is_sliding, next_place, True
        # Zeros: a mask is not enough against what lay in the memory, 0 x NaN is NaN.
        self.keys, self.values = (
            torch.nn.functional.pad(s, (0, 0, dropped - self.offset, capacity - length)) for s in states
        )

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the states (rows, heads, 1, size) of a new token; returns all places."""
        place = self.next_place - self.offset
        self.keys.index_copy_(2, place, key_states)
        self.values.index_copy_(2, place, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.max_cache_len, self.offset

    def get_seq_length(self) -> torch.Tensor:
        return self.next_place

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.keys, self.values = self.keys.index_select(0, indices), self.values.index_select(0, indices)


def replayable(model, cache: Cache, new_tokens: int) -> bool:
    """Whether decoding steps can be captured and replayed.

    The rollout runs on a GPU and is long enough; its model masks places one by one and keeps keys and values so.
    """
    return (
        model.device.type == "cuda"
        and new_tokens >= MIN_REPLAYED
        and model not in uncapturable
        and model.config.get_text_config()._attn_implementation
        in ("sdpa", "eager")  # flash attention would see what lies ahead
        and all(type(layer) in (GrowingLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in cache.layers)
    )


class Replay:
    """Steps of one token for all rows of a cache, which it turns into fixed storage. mask: (rows, cached + 1)."""

    def __init__(self, model, cache: Cache, mask: torch.Tensor):
        rows, end = mask.shape
        capacity = -(-end // GROWTH) * GROWTH
        self.model, self.cache, self.steps_left = model, cache, capacity - end + 1
        self.next_place = torch.tensor([end - 1], device=mask.device)
        self.tokens, self.positions = mask.new_zeros(rows, 1), mask.sum(1, keepdim=True) - 1
        self.mask = mask.new_ones(rows, capacity)  # what lies ahead is masked by causality
        self.mask[:, :end] = mask
        for i, layer in enumerate(cache.layers):  # one after the other: twice the storage of one layer, not of all
            if type(layer) is not DummyLayer:  # of a layer that reuses another's
                cache.layers[i] = FixedLayer(layer, end - 1, capacity, self.next_place)
        self.graph, self.logits = self.captured() if mask.is_cuda and model not in uncapturable else (None, None)

    def captured(self) -> tuple[torch.cuda.CUDAGraph | None, torch.Tensor | None]:
        """The graph of `forward` and where it puts the logits.

        (None, None) for a model that reads from the GPU on the way.
        """
        current, stream, graph = torch.cuda.current_stream(), capture_stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # once outside the graph: libraries allocate their workspaces in the first call
            self.forward()
        current.wait_stream(stream)
        try:
            # thread_local: NCCL's watchdog has a thread of its own
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                logits = self.forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warnings.warn(f"decoding without a CUDA graph, about five times slower: {error}", stacklevel=2)
            uncapturable.add(self.model)
            torch.cuda.set_stream(current)  # a capture that failed leaves its own
            return None, None
        return graph, logits

    def forward(self) -> torch.Tensor:
        out = self.model(
            input_ids=self.tokens,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (rows, V) after the next tokens (rows,); the next call overwrites them."""
        self.tokens.copy_(tokens[:, None])
        if self.graph:
            self.graph.replay()
        else:
            self.logits = self.forward()
        self.next_place += 1
        self.positions += 1
        self.steps_left -= 1
        return self.logits
