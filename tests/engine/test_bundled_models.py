"""The promises on the cards of the bundled models, on the bundled sample."""

from __future__ import annotations

import numpy as np
import pytest

from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks import plan_cascade
from connectoscope.tasks.plan_cascade import PlanCascade
from connectoscope.tasks.segment import Segment, run
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.xray2em.predict import load_network
from connectoscope.zoo.bundle import read_bundle
from connectoscope.zoo.places import bundled_models

BUNDLES = sorted(path for path in bundled_models().iterdir() if path.is_dir())


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.name)
def test_card_and_weights_agree(path):
    bundle = read_bundle(path)
    assert bundle.card.name == path.name
    assert sum(f.stat().st_size for f in path.iterdir()) < 25e6
    if bundle.card.reconstructs:
        load_network(bundle)
        assert bundle.card.calibration is not None
        assert {score.split for score in bundle.card.scores} == {"report"}
        return
    arguments = bundle.load_network().arguments
    assert bundle.card.receptive_field == arguments.receptive_field()
    assert bundle.card.stride == arguments.total_stride
    assert bundle.card.halo.exact == arguments.halo()
    assert {score.split for score in bundle.card.scores} >= {"choose", "report"}


def test_all_bundled_models_are_small_together():
    assert sum(f.stat().st_size for path in BUNDLES for f in path.iterdir()) < 25e6


def test_practical_halo_keeps_its_promise(tmp_path, monkeypatch):
    """At most 0.1 % of the voxels change by more than 1 of 255; small tiles, so that faces are many."""
    monkeypatch.setattr("connectoscope.segmentation.setup.best_precision", lambda device: "float32")
    monkeypatch.setattr(
        "connectoscope.segmentation.setup.choose_tile",
        lambda grid, halo, stride, voxels: tuple(2 * h + c for h, c in zip(halo, (4, 128, 128), strict=True)),
    )
    made = {}
    for exact in (False, True):
        out = tmp_path / f"{exact}.ome.zarr"
        values = Segment(
            source="sample:vnc",
            destination=str(out),
            target=("membranes",),
            exact=exact,
            box="0:4,0:256,0:256",
        )
        run(values, Context.local(tmp_path / f"{exact}.job", threads=1))
        channels = [open_volume(out, channel=c) for c in range(3)]
        made[exact] = np.stack([v.read(Box.of(v.shape)) for v in channels]).astype(int)
    assert (np.abs(made[True] - made[False]) > 1).mean() <= 0.001


def test_no_cascade_is_planned_for_what_fills_the_volume(tmp_path):
    asked = PlanCascade(
        source="sample:fib",
        destination=str(tmp_path / "p.cascade.json"),
        model="neurons-fib",
        target=("neurons",),
    )
    with pytest.raises(UserError, match="neurons fill the volume"):
        plan_cascade.run(asked, Context.local(tmp_path / "job"))
