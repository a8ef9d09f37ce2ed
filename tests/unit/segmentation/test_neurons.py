"""Neurons piece by piece: contacts and agglomeration against the plainest way to say them, fragments of made-up tissue."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectoscope.errors import UserError
from connectoscope.segmentation.neurons import agglomeration
from connectoscope.segmentation.neurons.agglomeration import agglomerate
from connectoscope.segmentation.neurons.contacts import Contacts, add_contacts, find_contacts
from connectoscope.segmentation.neurons.evidence import BEFORE, Evidence, choose_evidence
from connectoscope.segmentation.neurons.fragments import mutex_fragments, seeded_fragments, split
from connectoscope.segmentation.neurons.offsets import offset_of
from connectoscope.segmentation.neurons.seams import seams_of, strengthen
from connectoscope.segmentation.neurons.table import adjacency_table
from connectoscope.segmentation.targets import choose_targets
from connectoscope.volumes.geometry import Box, number_text
from connectoscope.zoo import Card
from connectoscope.zoo.card import NeuronRule

quick = settings(deadline=None, max_examples=30)


def a_card(*outputs: str) -> Card:
    return Card.model_validate(
        {
            "schema": 1, "name": "m", "version": "1", "description": "", "licence": "BSD-3-Clause", "files": [],
            "architecture": {"name": "none", "arguments": {}}, "inputs": {"voxel_size": (8.0, 8.0, 8.0)},
            "outputs": [{"name": o, "meaning": "", "instances": False} for o in outputs],
            "receptive_field": (5, 5, 5), "stride": (1, 1, 1),
            "halo": {"exact": (2, 2, 2), "practical": (2, 2, 2)},
        }
    )  # fmt: skip


def plain_contacts(ids, affinities):
    """Voxel by voxel: pair -> [faces z, y, x, affinity]."""
    found = {}
    for u in itertools.product(*map(range, ids.shape)):
        for index, offset in enumerate(BEFORE):
            v = tuple(np.add(u, offset))
            if min(v) < 0 or any(np.greater_equal(v, ids.shape)) or ids[u] == ids[v] or not ids[u] * ids[v]:
                continue
            row = found.setdefault(tuple(sorted((int(ids[u]), int(ids[v])))), [0] * 4)
            row[index] += 1
            row[3] += int(affinities[(index, *u)])
    return found


def rows(contacts):
    sums = np.column_stack((contacts.faces, contacts.affinity))
    return {tuple(p): r for p, r in zip(contacts.pairs.tolist(), sums.tolist(), strict=True)}


@quick
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    cut=st.tuples(*[st.integers(1, 5)] * 3),
    seed=st.integers(0, 99),
)
def test_contacts_of_blocks_add_up_to_those_of_the_whole(shape, cut, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 4, shape).astype(np.uint64)
    affinities = rng.integers(0, 256, (3, *shape)).astype(np.uint8)
    whole = find_contacts(ids, affinities, Box.of(shape))
    assert rows(whole) == plain_contacts(ids, affinities)
    blocks = []
    for start in itertools.product(*(range(0, n, c) for n, c in zip(shape, cut, strict=True))):
        box = Box(start, tuple(np.add(start, cut))).intersection(Box.of(shape))
        read = box.grown((1, 1, 1)).intersection(Box.of(shape))
        within = box.shifted(tuple(-s for s in read.start))
        here = find_contacts(ids[read.slices], affinities[(slice(None), *read.slices)], within)
        blocks.append(Contacts.from_bytes(here.to_bytes()))
    assert rows(add_contacts(blocks)) == rows(whole)


def plain_agglomeration(count, found, voxels, threshold, min_voxels):
    """Look at all pairs, join the best, begin anew."""
    t = threshold - 0.5
    groups = {i: {i} for i in range(count)}

    def between(a, b):
        each = [
            found[tuple(sorted((i + 1, j + 1)))]
            for i in groups[a] for j in groups[b] if tuple(sorted((i + 1, j + 1))) in found
        ]  # fmt: skip
        return np.sum(each, axis=0) if each else np.zeros(4)

    def join(a, b):
        a, b = sorted((a, b))
        groups[a] |= groups.pop(b)

    while True:
        best = []
        for a, b in itertools.combinations(sorted(groups), 2):
            row = between(a, b)
            faces = row[:3].sum()
            total = row[3] - t * faces
            if faces and total > 0:
                best.append((-total / (faces + agglomeration.DOUBT), a, b))
        if not best:
            break
        join(*min(best)[1:])
    while True:
        small = [(sum(voxels[i] for i in g), a) for a, g in groups.items()]
        small = sorted((v, a) for v, a in small if v < min_voxels)
        done = False
        for _, a in small:
            near = [(b, between(a, b)) for b in groups if b != a]
            touching = [(-(r[3] - t * r[:3].sum()) / r[:3].sum(), b) for b, r in near if r[:3].sum()]
            if touching:
                join(a, min(touching)[1])
                done = True
                break
        if not done:
            break
    root = np.zeros(count, np.int64)
    for a, group in groups.items():
        root[list(group)] = min(group)
        assert a == min(group)
    return root


@quick
@given(shape=st.tuples(*[st.integers(1, 6)] * 3), seed=st.integers(0, 999), threshold=st.integers(1, 255))
def test_agglomeration_is_the_plain_one(shape, seed, threshold):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 10, shape)
    ids = np.unique(ids, return_inverse=True)[1].reshape(shape).astype(np.uint64) + np.uint64(1)
    affinities = rng.integers(0, 256, (3, *shape)).astype(np.uint8)
    contacts = find_contacts(ids, affinities, Box.of(shape))
    count, voxels = int(ids.max()), np.bincount(ids.ravel().astype(int))[1:]
    got = agglomerate(count, contacts, voxels, threshold, 12)
    np.testing.assert_array_equal(got, plain_agglomeration(count, rows(contacts), voxels, threshold, 12))


def test_what_is_small_goes_to_the_weakest_boundary():
    ids = np.array([[[1, 1, 1, 2, 3, 3, 3]]], np.uint64)
    affinities = np.zeros((3, 1, 1, 7), np.uint8)
    affinities[2, 0, 0, 3:5] = 10, 20  # 1|2 and 2|3
    contacts = find_contacts(ids, affinities, Box.of(ids.shape))
    assert agglomerate(3, contacts, np.array([3, 1, 3]), 128, 2).tolist() == [0, 1, 1]
    assert agglomerate(3, contacts, np.array([3, 1, 3]), 128, 1).tolist() == [0, 1, 2]


def two_rooms(flat=False):
    """Boundary (z, y, x): a wall at x = 15 with a small hole, in 12 planes."""
    boundary = np.zeros((12, 24, 31), np.uint8)
    boundary[:, :, 14:17] = 230
    boundary[5, 11:13, 14:17] = 90
    return boundary


def test_membranes_part_fragments_and_sections_are_taken_one_by_one_where_thick():
    boundary = two_rooms()
    for voxel in ((10.0, 10.0, 10.0), (50.0, 10.0, 10.0)):
        labels = split(seeded_fragments(boundary, 128, voxel))
        assert (labels > 0).all()
        left, right = np.unique(labels[:, :, :14]), np.unique(labels[:, :, 17:])
        assert not set(left) & set(right)
        if voxel[0] > 10:
            assert len(set(labels[0].ravel()) & set(labels[1].ravel())) == 0
        affinities = Evidence((0,), BEFORE, True, False).affinities(boundary[None])
        contacts = find_contacts(labels.astype(np.uint64), affinities, Box.of(labels.shape))
        voxels = np.bincount(labels.ravel())[1:]
        neurons = agglomerate(len(voxels), contacts, voxels, 128, 0)[labels.astype(int) - 1]
        assert len(np.unique(neurons)) == 2
        assert len(np.unique(neurons[:, :, :14])) == 1


def test_partners_far_away_keep_apart_what_a_hole_would_join():
    ids = np.ones((8, 16, 20), np.int64)
    ids[:, :, 10:] = 2
    offsets = (*BEFORE, (0, 0, -3))
    affinities = np.full((4, *ids.shape), 255, np.uint8)
    affinities[2, :, :, 10] = 60
    affinities[2, 4, 8, 10] = 230  # a hole
    joined = split(mutex_fragments(affinities, offsets, 128))
    assert joined.max() == 1
    affinities[3, :, :, 10:13] = 0
    labels = split(mutex_fragments(affinities, offsets, 128))
    assert labels.max() == 2
    assert len(set(zip(labels.ravel().tolist(), ids.ravel().tolist(), strict=True))) == 2
    assert not mutex_fragments(np.zeros((4, 4, 4, 4), np.uint8), offsets, 128).any()


@pytest.mark.parametrize("shape", [(1, 16, 20), (3, 16, 20), (4, 2, 20)])
def test_thin_volumes_have_no_partners_far_away(shape):
    offsets = (*BEFORE, (-3, 0, 0), (0, -3, 0), (-9, 0, 0), (0, 0, -9))
    affinities = np.full((len(offsets), *shape), 255, np.uint8)
    affinities[2, ..., 10] = 0
    affinities[6, ..., 10:19] = 0
    labels = split(mutex_fragments(affinities, offsets, 128))
    assert [len(np.unique(labels[..., part])) for part in (slice(10), slice(10, 20))] == [1, 1]
    assert labels.max() == 2


def test_crumbs_and_voxels_of_nobody_go_to_what_surrounds_them():
    affinities = np.full((3, 8, 8, 20), 200, np.uint8)
    affinities[:, :, :, 9:11] = 20
    labels = mutex_fragments(affinities, BEFORE, 128)
    assert sorted(np.unique(labels)) == sorted(np.unique(labels[:, :, [0, -1]]))
    assert len(np.unique(labels)) == 2


def test_a_seam_within_a_fragment_holds():
    found = np.ones((4, 4, 8), np.uint32)
    found[:2, :, 4:] = 2
    own, before = seams_of(found, Box((0, 0, 4), (4, 4, 8))), seams_of(found, Box((0, 0, 0), (4, 4, 4)))
    assert set(own) == {"x0"}
    affinities = np.full((3, 4, 4, 5), 7, np.uint8)
    strengthen(affinities, Box((0, 0, 1), (4, 4, 5)), own, ({}, {}, before))
    assert (affinities[2, 2:, :, 1] == 255).all()
    assert (affinities[2, :2, :, 1] == 7).all()
    assert (affinities[2, :, :, 2:] == 7).all()
    told = np.full_like(affinities, 7)
    ids = np.repeat(np.arange(1, 6, dtype=np.uint64), 16).reshape(5, 4, 4).transpose(1, 2, 0)
    contacts = find_contacts(ids, affinities, Box((0, 0, 1), (4, 4, 5)), told)
    assert contacts.affinity[0] == 8 * 255 + 8 * 7
    assert adjacency_table(contacts, (1.0, 1.0, 1.0)).splitlines()[1] == f"1,2,16,{number_text(1 - 7 / 255)}"
    before["x1"][:] = False
    affinities[:] = 7
    strengthen(affinities, Box((0, 0, 1), (4, 4, 5)), own, ({}, {}, before))
    assert set(affinities[2, 2:, :, 1].ravel()) == {127}


def test_evidence_is_read_off_the_names_of_outputs():
    assert offset_of("affinity_-9_0_12") == (-9, 0, 12)
    assert [offset_of(n) for n in ("affinity_0_0_0", "affinity_1_2", "boundary")] == [None] * 3
    names = ["boundary", "affinity_0_0_-9", "affinity_0_0_-1", "affinity_0_-1_0", "affinity_-1_0_0"]
    slow = a_card(*names).model_copy(update={"neurons": NeuronRule(fragments="affinities")})
    evidence = choose_evidence(slow)
    assert evidence == Evidence((4, 3, 2, 1, 0), (*BEFORE, (0, 0, -9)), boundary=True, mutex=True)
    assert evidence.reach == (1, 1, 9)
    assert choose_evidence(a_card(*names)) == Evidence((4, 3, 2, 0), BEFORE, boundary=True, mutex=False)
    assert choose_evidence(a_card(*names[1:])).channels == (3, 2, 1, 0)
    assert choose_evidence(a_card(*names[:2])) == Evidence((0,), BEFORE, boundary=True, mutex=False)
    with pytest.raises(UserError, match="'m' has neither affinities nor boundary"):
        choose_evidence(a_card("synapses"))
    with pytest.raises(UserError, match=r"no target 'cells'; it has membranes, neurons$"):
        choose_targets(a_card("boundary"), ("cells",), None, None)
    with pytest.raises(UserError, match=r"no target 'cells'; it has synapses$"):
        choose_targets(a_card("synapses"), ("cells",), None, None)


def test_affinities_are_the_mean_of_what_the_model_says_and_what_its_membranes_say():
    read = np.zeros((5, 1, 1, 2), np.uint8)
    read[:4] = 101
    read[4, 0, 0] = 200, 55
    made = Evidence((0, 1, 2, 3, 4), (*BEFORE, (0, 0, -1)), boundary=True, mutex=True).affinities(read)
    assert made[2:, 0, 0].tolist() == [[0, (101 + 55) // 2], [0, 101]]
    assert not made[:2].any()
