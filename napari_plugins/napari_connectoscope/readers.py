"""Reading volumes and results for napari's File ▸ Open, through the same door as everything else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from napari.utils import Colormap
from napari.utils.notifications import show_info

from connectoscope.errors import ColourImage, SeveralVolumes, UserError
from connectoscope.volumes import open_volume, read_attributes
from connectoscope.volumes.endings import FILE_ENDINGS, FOLDER_ENDINGS
from napari_connectoscope.layers import LayerData, is_labels, volume_layers
from napari_connectoscope.points import is_points, points_layers
from napari_connectoscope.results import label_layers, probability_layers

KNOWN = (*FOLDER_ENDINGS, *FILE_ENDINGS)  # PNG and the like are rather pictures, and napari's
_MOST = 8  # volumes of one file that are opened at once
_CHANNELS = ("magenta", "green", "cyan", "yellow", "red", "blue")


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """npe2's entry: our reader where every path is of a kind that we read."""
    paths = [path] if isinstance(path, str) else list(path)
    names = [p.partition("::")[0].rstrip("/\\").lower() for p in paths]
    readable = (
        is_points(one) if name.endswith(".csv") else name.endswith(KNOWN)
        for one, name in zip(paths, names, strict=True)
    )  # a CSV may be anybody's
    return read if all(readable) else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Layers of one or several volumes: all channels, for a result of ours its labels as well; or points.

    Raises:
        UserError: one line that says what is wrong, as for several paths, of which napari wants one stack.
    """
    paths = [path] if isinstance(path, str) else path
    if len(paths) > 1:
        raise UserError(
            "volumes are not stacked: open them one by one, or with another reader, as napari's own"
        )
    return read_volume(paths[0])


def read_volume(source: str) -> list[LayerData]:
    """All layers of one source."""
    if source.lower().endswith(".csv"):
        return points_layers(source)
    if _is_result(source):
        layers, _ = probability_layers(source)
        return [*layers, *(label_layers(str(p), p.name)[0] for p in _labels_of(source))]
    try:
        volume = open_volume(source)
    except ColourImage:
        volume = open_volume(source, channel=0)
    except SeveralVolumes as several:
        return _first_of(several)
    if is_labels(volume.source):
        return volume_layers(volume, labels=True)
    if len(volume.channels) <= 1:
        return volume_layers(volume)
    layers = []
    for number, colour in zip(range(len(volume.channels)), _CHANNELS * len(volume.channels), strict=False):
        data, options, kind = volume_layers(open_volume(source, channel=number))[0]
        own = volume.channels[number]
        colour = own if own in _CHANNELS else colour  # red, green and blue of a colour image
        colormap = Colormap(["black", colour], name=f"connectoscope {colour}")
        shown = {"colormap": colormap, "blending": "additive", "visible": own != "alpha"}
        layers.append((data, {**options, **shown}, kind))
    return layers


def _first_of(several: SeveralVolumes) -> list[LayerData]:
    """The volumes of a file that holds several, the first one shown; those that cannot be opened are left out."""
    layers: list[LayerData] = []
    for place, _ in several.choices[:_MOST]:
        with contextlib.suppress(UserError):
            hidden = {"visible": False} if layers else {}
            layers += [(data, {**options, **hidden}, kind) for data, options, kind in read_volume(place)]
    if not layers:
        raise several
    if len(several.choices) > _MOST:
        show_info(f"{len(several.choices)} volumes are in there; the first {_MOST} are opened")
    return layers


def _is_result(source: str) -> bool:
    """Whether it is an image of several outputs that a task of ours made."""
    try:
        facts = read_attributes(source)
    except UserError:
        return False
    return "request" in facts and not is_labels(source)


def _labels_of(source: str) -> list[Path]:
    folder = Path(source) / "labels"
    return sorted(p for p in folder.iterdir() if is_labels(str(p))) if folder.is_dir() else []


def sample(name: str) -> list[LayerData]:
    """A bundled sample.

    Raises:
        UserError: there is none of that name.
    """
    return read_volume(f"sample:{name}")


vnc = partial(sample, "vnc")
fib = partial(sample, "fib")
lightsheet = partial(sample, "lightsheet")
xnh = partial(sample, "xnh")
