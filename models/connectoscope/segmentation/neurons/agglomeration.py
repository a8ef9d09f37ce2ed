"""Which fragments are of one neuron: average-linkage agglomeration of their contacts.

The pair of the highest score is joined, its contacts added up, and so on until no score is above 0 (Bailoni et al.
2022, "GASP, a generalized framework for agglomerative clustering of signed graphs"). With t the threshold, over the
voxel faces that two fragments share::

    score = sum of (affinity - t) / (number + DOUBT)
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from connectoscope.segmentation.neurons.contacts import Contacts

DOUBT = 10.0  # faces that say nothing, added to each contact: a few noisy voxels do not come first

Contact = tuple[int, float]  # faces, and the sum of affinity - t across them


def agglomerate(
    count: int, contacts: Contacts, voxels: NDArray[np.int64], threshold: int, min_voxels: float
) -> NDArray[np.int64]:
    """The smallest fragment (0-based) that each of ``count`` fragments is joined with, directly or not.

    Equal scores go by the smaller indices, so that the result depends on the contacts alone.

    Args:
        contacts: With ids 1..count.
        voxels: Of each fragment.
        threshold: Joined are those of a mean affinity of at least this (0-255).
        min_voxels: What is still smaller afterwards is absorbed by the neighbour of the highest mean affinity.
    """
    graph = _Graph(count, contacts, voxels, threshold - 0.5)
    graph.join_alike()
    graph.absorb_small(min_voxels)
    return graph.roots()


class _Graph:
    def __init__(self, count: int, contacts: Contacts, voxels: NDArray[np.int64], threshold: float) -> None:
        self.parent = list(range(count))
        self.voxels = voxels.tolist()
        self.near: list[dict[int, Contact]] = [{} for _ in range(count)]
        faces = contacts.faces.sum(axis=1)
        gain = contacts.affinity - threshold * faces
        ends = (contacts.pairs.astype(np.int64) - 1).tolist()
        for (a, b), *contact in zip(ends, faces.tolist(), gain.tolist(), strict=True):
            self.near[a][b] = self.near[b][a] = (contact[0], contact[1])

    def join_alike(self) -> None:
        """Join the pair of the highest score as long as there is one above 0."""
        heap = [_rank(a, b, edge) for a, near in enumerate(self.near) for b, edge in near.items() if a < b]
        heap = [ranked for ranked in heap if ranked[0] < 0]
        heapq.heapify(heap)
        while heap:
            ranked = heapq.heappop(heap)
            _, a, b = ranked
            if b not in self.near[a] or _rank(a, b, self.near[a][b]) != ranked:
                continue  # one of the two has changed since
            for other in self.join(a, b):
                again = _rank(a, other, self.near[a][other])
                if again[0] < 0:
                    heapq.heappush(heap, again)

    def absorb_small(self, min_voxels: float) -> None:
        """Give what is smaller than ``min_voxels``, the smallest first, to the neighbour of the highest mean affinity."""
        heap = [(v, a) for a, v in enumerate(self.voxels) if v < min_voxels and self.parent[a] == a]
        heapq.heapify(heap)
        while heap:
            voxels, a = heapq.heappop(heap)
            if self.parent[a] != a or self.voxels[a] != voxels or not self.near[a]:
                continue  # it has been joined since, or touches nothing
            b = min((-gain / faces, b) for b, (faces, gain) in self.near[a].items())[1]
            self.join(*sorted((a, b)))
            if self.voxels[min(a, b)] < min_voxels:
                heapq.heappush(heap, (self.voxels[min(a, b)], min(a, b)))

    def join(self, a: int, b: int) -> list[int]:
        """Make ``b`` a part of ``a``; the neighbours whose contact with ``a`` has changed."""
        self.parent[b] = a
        self.voxels[a] += self.voxels[b]
        del self.near[a][b]
        changed = []
        for other, edge in self.near[b].items():
            if other == a:
                continue
            del self.near[other][b]
            mine = self.near[a].get(other)
            if mine is not None:
                edge = (mine[0] + edge[0], mine[1] + edge[1])
            self.near[a][other] = self.near[other][a] = edge
            changed.append(other)
        self.near[b] = {}
        return changed

    def roots(self) -> NDArray[np.int64]:
        """The root of each fragment."""
        for a, up in enumerate(self.parent):  # a parent is smaller than its children, so it is final already
            self.parent[a] = self.parent[up]
        return np.array(self.parent, dtype=np.int64)


def _rank(a: int, b: int, contact: Contact) -> tuple[float, int, int]:
    """The highest score first, as a key to sort by."""
    faces, gain = contact
    return (-gain / (faces + DOUBT), min(a, b), max(a, b))
