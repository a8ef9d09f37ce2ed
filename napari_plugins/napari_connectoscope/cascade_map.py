"""The map of a cascade: which regions were looked at closely, in colours that stay the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_connectoscope.sources import layer_facts


class Meaning(NamedTuple):
    """One value of the map."""

    word: str
    text: str
    colour: str
    opacity: float


MEANINGS: dict[int, Meaning] = {
    1: Meaning("rejected", "rejected at a coarse level: level 0 was not read", "#8a8f98", 0.35),
    2: Meaning("accepted", "accepted: the full detector looked at level 0", "#1fa2c4", 1.0),
    3: Meaning("woken", "woken: an object in a neighbouring region reaches into it", "#ee8a1d", 1.0),
}
"""Values of ``labels/cascade`` (0 is outside). Blue and orange are told apart by all eyes."""

_OPACITY = 0.3
_NAME = "cascade"


def is_cascade_map(path: str) -> bool:
    """Whether a labels image is the map of a cascade, by its name (``labels/cascade``, ``*.cascade.ome.zarr``)."""
    name = Path(path).name
    return name == _NAME or name.endswith(f".{_NAME}.ome.zarr")


def map_options() -> dict[str, Any]:
    """Options of a labels layer that shows the map; the region under the pointer is named in words."""
    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    colours |= {value: _rgba(m) for value, m in MEANINGS.items()}
    return {
        "name": "Cascade map",
        "opacity": _OPACITY,
        "blending": "translucent_no_depth",
        "colormap": DirectLabelColormap(color_dict=colours),
        "features": {"index": [0, *MEANINGS], "region": ["outside", *(m.text for m in MEANINGS.values())]},
    }


def _rgba(meaning: Meaning) -> tuple[float, float, float, float]:
    red, green, blue = (int(meaning.colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return (red, green, blue, meaning.opacity)


def legend_html() -> str:
    """The meanings with their colours, for a label."""
    return "Regions: " + " ".join(
        f'<span style="color:{m.colour}">■</span>&nbsp;{m.word}&nbsp;' for m in MEANINGS.values()
    )


def level0_text(summary: Mapping[str, Any] | None) -> str:
    """``level 0 read: 4.2 %`` from the summary of a run with a cascade; '' where there was none."""
    fraction = (summary or {}).get("level0_read")
    if not isinstance(fraction, int | float):
        return ""
    return f"level 0 read: {100 * fraction:.{1 if fraction < 0.0995 else 0}f} %"


def map_shown(viewer: ViewerModel) -> Labels | None:
    """The topmost visible map of a viewer."""
    return next((layer for layer in reversed(viewer.layers) if _is_map_layer(layer) and layer.visible), None)


def meaning_at(viewer: ViewerModel) -> str:
    """The word for the region under the pointer; '' where no map is shown."""
    layer = map_shown(viewer)
    if layer is None or viewer.dims.ndisplay == 3:
        return ""
    meaning = MEANINGS.get(layer.get_value(viewer.cursor.position, world=True))
    return meaning.word if meaning else ""


def _is_map_layer(layer: Any) -> bool:
    return isinstance(layer, Labels) and is_cascade_map(str(layer_facts(layer).get("source") or ""))
