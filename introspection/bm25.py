"""Okapi BM25: how well texts fit a query, by their words."""

import math
import re
from collections import Counter, defaultdict

import numpy as np


class Bm25:
    """Okapi BM25 over documents."""

    def __init__(self, documents: list[str], k1: float = 1.5, b: float = 0.75):
        self.k1 = k1
        counts = [Counter(words_of(d)) for d in documents]
        lengths = np.array([c.total() for c in counts])
        self.length_norm = k1 * (1 - b + b * lengths / max(lengths.mean(), 1)) if documents else lengths
        found = defaultdict(list)
        for place, count in enumerate(counts):
            for word, times in count.items():
                found[word].append((place, times))
        # Of each word, the documents that have it and how often, (2, documents with it).
        self.found = {word: np.array(pairs).T for word, pairs in found.items()}

    def scores(self, query: str) -> np.ndarray:
        """How well each document fits a query, (documents,)."""
        scores, n = np.zeros(len(self.length_norm)), len(self.length_norm)
        for word in set(words_of(query)) & self.found.keys():
            places, times = self.found[word]
            idf = math.log(1 + (n - len(places) + 0.5) / (len(places) + 0.5))
            scores[places] += idf * times * (self.k1 + 1) / (times + self.length_norm[places])
        return scores

    def best(self, query: str) -> int:
        """Place of the document that fits best."""
        return int(self.scores(query).argmax())


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
