"""Which fragments are of one neuron: average-linkage agglomeration of their contacts.

The pair of the highest score is joined, its contacts added up, and so on until no score is above 0 (Bailoni et al.
2022, "GASP, a generalized framework for agglomerative clustering of signed graphs"). With t the threshold::

    score = (sum of (affinity - t) across faces + FAR * the same over longer offsets) / (number of them + DOUBT)

Only fragments that share a face are joined; affinities over longer offsets also count between those that do not yet.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from connectoscope.segmentation.neurons.contacts import Contacts

DOUBT = 10.0  # affinities that say nothing, added to each contact: a few noisy voxels do not come first
FAR = 0.0  # weight of an affinity over a longer offset

Node = list[float]  # of a contact: faces, sum of affinity - t, weighed number of all, weighed sum of all


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
        self.near: list[dict[int, Node]] = [{} for _ in range(count)]  # both ends hold the same list
        faces = contacts.faces.sum(axis=1).astype(float)
        gain = contacts.affinity - threshold * faces
        number = faces + FAR * contacts.far
        total = gain + FAR * (contacts.far_affinity - threshold * contacts.far)
        ends = (contacts.pairs.astype(np.int64) - 1).tolist()
        for (a, b), *edge in zip(
            ends, faces.tolist(), gain.tolist(), number.tolist(), total.tolist(), strict=True
        ):
            self.near[a][b] = self.near[b][a] = edge

    def join_alike(self) -> None:
        """Join the pair of the highest score as long as there is one above 0."""
        heap: list[tuple[float, int, int]] = []

        def push(a: int, b: int) -> None:
            faces, _, number, total = self.near[a][b]
            if faces and total > 0:
                heap.append((-total / (number + DOUBT), min(a, b), max(a, b)))

        for a, others in enumerate(self.near):
            for b in others:
                if a < b:
                    push(a, b)
        heapq.heapify(heap)
        while heap:
            score, a, b = heapq.heappop(heap)
            edge = self.near[a].get(b)
            if edge is None or not edge[0] or -edge[3] / (edge[2] + DOUBT) != score:
                continue  # one of the two has changed since
            for other in self.join(a, b):
                faces, _, number, total = self.near[a][other]
                if faces and total > 0:
                    heapq.heappush(heap, (-total / (number + DOUBT), min(a, other), max(a, other)))

    def absorb_small(self, min_voxels: float) -> None:
        """Give what is smaller than ``min_voxels``, the smallest first, to the neighbour of the highest mean affinity."""
        heap = [(v, a) for a, v in enumerate(self.voxels) if v < min_voxels and self.parent[a] == a]
        heapq.heapify(heap)
        while heap:
            voxels, a = heapq.heappop(heap)
            if self.parent[a] != a or self.voxels[a] != voxels:
                continue  # it has been joined since
            touching = [(-edge[1] / edge[0], b) for b, edge in self.near[a].items() if edge[0]]
            if not touching:
                continue
            b = min(touching)[1]
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
                edge = [x + y for x, y in zip(mine, edge, strict=True)]
            self.near[a][other] = self.near[other][a] = edge
            changed.append(other)
        self.near[b] = {}
        return changed

    def roots(self) -> NDArray[np.int64]:
        """The root of each fragment."""
        for a, up in enumerate(self.parent):  # a parent is smaller than its children, so it is final already
            self.parent[a] = self.parent[up]
        return np.array(self.parent, dtype=np.int64)
