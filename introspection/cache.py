"""Keys and values of a rollout in storage that grows in blocks.

transformers grows its cache by concatenation: every token copies all keys and values into fresh memory, which is half
of the decoding time of a small model. Only full-attention layers are replaced; sliding windows and shared layers stay
as they are.
"""

import copy
from pathlib import Path

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

BLOCK = 64  # tokens by which the storage of a row grows


class GrowingLayer(DynamicLayer):
    """A full-attention cache layer.

    `keys` and `values` (rows, heads, length, size) are views of storage with room to grow.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new states (rows, heads, t, size) behind those that are there; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.storage = (key_states[:, :, :0], value_states[:, :, :0])
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if end > self.storage[0].shape[2]:
            self.storage = tuple(self._moved(s, start, -(-end // BLOCK) * BLOCK) for s in self.storage)
        for storage, states in zip(self.storage, (key_states, value_states), strict=True):
            storage[:, :, start:end] = states
        self._view(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps, repeats or reorders rows.

        Unless there are more of them than before, only those that change place are copied.
        """
        length, kept = self.get_seq_length(), len(indices)
        if length == 0:
            return
        if kept <= len(self.storage[0]):
            moved = (indices != torch.arange(kept, device=indices.device)).nonzero()[:, 0]
            for storage in self.storage:  # the right side is gathered before anything is overwritten
                storage[moved, :, :length] = storage[indices[moved], :, :length]
            self.storage = tuple(s[:kept] for s in self.storage)
        else:
            self.storage = tuple(s.index_select(0, indices) for s in self.storage)
        self._view(length)

    def _view(self, length: int) -> None:
        self.keys, self.values = (s[:, :, :length] for s in self.storage)

    @staticmethod
    def _moved(storage: torch.Tensor, used: int, capacity: int) -> torch.Tensor:
        grown = storage.new_empty(*storage.shape[:2], capacity, storage.shape[3])
        grown[:, :, :used] = storage[:, :, :used]
        return grown


def bytes_per_token(config) -> int:
    """Keys and values of one token of one row, at most: every layer in fp32 (a sliding window takes less)."""
    known = config.to_dict()
    known |= {name: known[own] for name, own in config.attribute_map.items() if own in known}  # GPT-2 says n_head
    heads = known.get("num_key_value_heads") or known["num_attention_heads"]
    size = max(known.get(name) or 0 for name in ("head_dim", "global_head_dim"))  # Gemma 4: of the larger layers
    size = size or known["hidden_size"] // known["num_attention_heads"]
    return 2 * known["num_hidden_layers"] * heads * size * 4


def rows_within(config, gib: float, tokens: int) -> int:
    """Rows of so many tokens whose keys and values fit, one at least.

    gib 0: on a machine that tells, a third of the memory that is free; without a bound where it does not.
    """
    free = Path("/proc/meminfo")
    if not gib and free.exists():
        gib = next(int(line.split()[1]) for line in free.read_text().splitlines() if "MemAvailable" in line) / 2**20 / 3
    return max(1, int(gib * 2**30 / (bytes_per_token(config) * tokens))) if gib else 2**31


def growing_cache(config) -> DynamicCache:
    """An empty cache for a model's (text) config."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def rows_of(cache: Cache, rows: torch.Tensor) -> Cache:
    """A cache of its own that begins with some rows of another, which stays as it is."""
    taken = copy.copy(cache)
    taken.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in taken.layers:
        if isinstance(layer, GrowingLayer):  # it selects in place
            length = layer.get_seq_length()
            layer.storage = tuple(s[rows, :, :length] for s in layer.storage)
            layer._view(length)
        else:
            layer.batch_select_indices(rows)
    return taken


def hole_filling(open_rows: list[int]) -> list[int]:
    """The open rows (ascending), so ordered that few of them move.

    Those of the front stay in their places, and the holes between them are filled with rows from the end.
    """
    n = len(open_rows)
    behind = [row for row in open_rows if row >= n]
    order = list(range(n))
    for hole in sorted(set(order) - set(open_rows)):
        order[hole] = behind.pop()
    return order
