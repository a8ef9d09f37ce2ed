"""Volumes and results in a viewer at once, without the thread that reads a user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.QtCore import QObject

from connectoscope.volumes import Volume
from napari_connectoscope import results
from napari_connectoscope.layers import add_source, make_layer, volume_layers


def add_volume(viewer: ViewerModel, volume: Volume) -> Layer:
    """Its layer, in the viewer."""
    layer = make_layer(volume_layers(volume)[0])
    add_source(viewer, layer)
    return layer


def add_result(
    viewer: ViewerModel, event: Mapping[str, Any], *, targets: Sequence[str] | None = None
) -> list[Layer]:
    """The layers of a ``result`` event."""
    found: list[list[Layer]] = []
    owner = QObject()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "background", lambda owner, function, then, failed: then(function()))
        patch.setattr(results, "QTimer", SimpleNamespace(singleShot=lambda wait, function: function()))
        results.add_result_in_background(
            viewer, event, owner=owner, targets=targets, added=found.append, failed=pytest.fail
        )
    return found[0]
