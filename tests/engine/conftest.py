"""Runs the real segmentation with the stand-in model."""

from __future__ import annotations

import pytest
from filter_model import FilterBundle, Interrupting

from connectoscope.errors import Cancelled
from connectoscope.segmentation import setup as set_up_module
from connectoscope.segmentation.run import segment
from connectoscope.tasks.segment import Segment


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(volume, destination, tile=..., stop_at=..., **parameters): the summary."""

    def choose_tile(grid, halo, stride, voxels):
        return tuple(c + 2 * h for c, h in zip(run_.core, halo, strict=True))

    monkeypatch.setattr(set_up_module, "choose_tile", choose_tile)

    def run_(
        volume,
        destination,
        *,
        core=(8, 8, 8),
        stop_at=None,
        end=Cancelled,
        tile_scale=0,
        options=None,
        bundle=None,
        **parameters,
    ):
        run_.core = core
        context = Interrupting.local(f"{destination}.job", threads=1, **(options or {}))
        context.stop_at, context.end, context.tile_scale = stop_at, end, tile_scale
        values = Segment(source="memory", destination=str(destination), **parameters)
        summary = segment(volume, bundle or FilterBundle(), values, context)
        run_.looks = context.looks
        return summary

    run_.core = (8, 8, 8)
    return run_
