"""X-ray left and EM right: two linked panes, or one place with a line between them, and below them what to trust."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QPushButton

from connectoscope.volumes import Volume, read_marks
from connectoscope.volumes.endings import short_name
from napari_connectoscope.layers import open_in_background
from napari_connectoscope.sources import layer_facts, source_of
from napari_connectoscope.threads import background
from napari_connectoscope.trust import TITLES, reliability_plot
from napari_connectoscope.trust_panel import TrustPanel

if TYPE_CHECKING:
    from connectoscope_app.window import MainWindow

_CAMERA = ("center", "zoom", "angles", "perspective")
_DIMS = ("ndisplay", "order", "point")


class Link:
    """What one viewer looks at, the other looks at as well, while ``on``."""

    def __init__(self, first: ViewerModel, second: ViewerModel) -> None:
        self.on = False
        self._first, self._second = first, second
        self._busy = False
        for source, target in ((first, second), (second, first)):
            for name in _CAMERA:
                self._follow(source, source.scene.camera, target.scene.camera, name)
            for name in _DIMS:
                self._follow(source, source.dims, target.dims, name)

    def _follow(self, viewer: ViewerModel, source: Any, target: Any, name: str) -> None:
        def changed(_event: object = None) -> None:
            if self.on and viewer.layers:  # an empty one looks at nothing
                self._copy(source, target, name)
                if name == "ndisplay":  # which moves the target's point, unheard while it is copied
                    self._copy(source, target, "point")

        getattr(source.events, name).connect(changed)

    def _copy(self, source: Any, target: Any, name: str) -> None:
        """Not back again: what a viewer cannot reach must not hold the other one."""
        value = getattr(source, name)
        if self._busy or getattr(target, name) == value or getattr(source, "ndim", 3) != 3:
            return
        if getattr(target, "ndim", 3) != 3:
            return
        self._busy = True
        try:
            setattr(target, name, value)
        finally:
            self._busy = False

    def begin(self) -> None:
        """The second viewer goes where the first one is; linked from now on."""
        self.on = True
        for name in _DIMS:
            self._copy(self._first.dims, self._second.dims, name)
        for name in _CAMERA:
            self._copy(self._first.scene.camera, self._second.scene.camera, name)


class Comparison(QObject):
    """Shows one reconstruction at a time beside its X-ray volume."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._path = self._source = ""
        self._link: Link | None = None
        self.trust: TrustPanel | None = None
        self.swipe_button = QPushButton("Swipe", window.panes)
        self.swipe_button.hide()
        self.swipe_button.setCheckable(True)
        self.swipe_button.setToolTip("X-ray left of a line, EM right of it; drag the line (Ctrl+T)")
        self.swipe_button.clicked.connect(lambda _=False: self.toggle_swipe())

    def open(self, path: str, ready: Callable[[ViewerModel], None]) -> None:
        """Make room for the reconstruction at ``path``; ``ready`` gets the viewer at the right for its layers."""
        window = self._window
        background(
            window.answers,
            lambda: read_marks(path),
            lambda marks: self._open(path, marks, ready),
            window.tell,
        )

    def _open(self, path: str, marks: dict[str, Any], ready: Callable[[ViewerModel], None]) -> None:
        asked = marks["request"]["parameters"]
        window, source = self._window, str(asked["source"])
        main = window.panes.models[0]
        if self._path == path and any(source_of(layer) == source for layer in main.layers):
            ready(window.panes.models[1])
            return

        def opened(layer: Layer, volume: Volume) -> None:
            window.volume_opened(source, layer, volume)
            go(layer)

        def go(layer: Layer | None) -> None:
            self._show(path, marks, layer)
            ready(window.panes.models[1])

        def gone(line: str) -> None:
            window.tell(f"{short_name(source)}, the X-ray volume, cannot be shown: {line}")
            go(None)

        there = next((layer for layer in main.layers if source_of(layer) == source), None)
        if there is not None:
            go(there)
            return
        choices = {
            name: asked[name] for name in ("channel", "time", "voxel_size") if asked.get(name) is not None
        }
        open_in_background(main, source, owner=window.answers, opened=opened, failed=gone, **choices)

    def _show(self, path: str, marks: dict[str, Any], xray: Layer | None) -> None:
        window, panes = self._window, self._window.panes
        link = self._link or self._make()
        right = panes.models[1]
        link.on = False
        self._path = ""  # clearing is no closing
        right.layers.clear()
        self._path, self._source = path, str(marks["request"]["parameters"]["source"])
        if xray is not None:
            # Hidden: both panes reach equally far, and what is asked of it can be asked there.
            copy = Layer.create(*xray.as_layer_data_tuple())
            copy.name, copy.visible = f"X-ray · {xray.name}", False
            right.add_layer(copy)
            right.layers.selection.active = None  # so that EM is chosen
        panes.show_pair((self._left_title(), f"EM · made by {marks['model']['name']}"))
        if self.trust is not None:
            self.trust.show()
        panes.activate(1)  # its layers are what is looked at next
        link.begin()
        window.plots.add_plot(short_name(path), reliability_plot(marks))

    def _make(self) -> Link:
        """The second pane, with what is below both."""
        window, panes = self._window, self._window.panes
        right = panes.add_pane().viewer
        right.layers.events.removed.connect(self._removed)
        left = panes.models[0].layers.events
        for event in (left.inserted, left.removed, left.renamed):
            event.connect(self._retitle)
        self.trust = TrustPanel(right)
        self.trust.rows.addWidget(self.swipe_button, 1, 3)
        self.swipe_button.show()
        self.trust.plot_wanted.connect(lambda _event: window.raise_dock("Plots", 400))
        panes.layout().addWidget(self.trust)
        self._link = Link(panes.models[0], right)
        return self._link

    def _left_title(self) -> str:
        there = (la.name for la in self._window.panes.models[0].layers if source_of(la) == self._source)
        return f"X-ray · {next(there, 'nothing')}"

    def _retitle(self, _event: object = None) -> None:
        if self._path:
            self._window.panes.set_title(0, self._left_title())

    def close(self) -> None:
        """Take the reconstruction away, if there is one."""
        if self._path:
            self._window.log.appendPlainText(f"{short_name(self._path)} was closed: open it again to compare")
            self._window.panes.models[1].layers.clear()

    def _removed(self, _event: object = None) -> None:
        """The last layer of the reconstruction has gone: one pane again."""
        panes = self._window.panes
        right = panes.models[1]
        if (
            self._path
            and not panes.closing
            and not any(layer_facts(layer).get("part") in TITLES for layer in right.layers)
        ):
            self._path = ""
            if self._link is not None:
                self._link.on = False
            if self.trust is not None:
                self.trust.hide()
            self.swipe_button.setChecked(False)
            panes.show_single()
            QTimer.singleShot(0, self, self._clear)  # napari may be removing several layers: not in its loop

    def _clear(self) -> None:
        """The form goes to the first pane; the hidden copy of the X-ray volume goes, and what was made of the reconstruction."""
        panes = self._window.panes
        if not self._path and not panes.closing:
            self._window.task_panel.go_to(panes.models[0])
            panes.models[1].layers.clear()

    def toggle_swipe(self) -> None:
        """One place with a line between both, or side by side."""
        panes = self._window.panes
        if not self._path:
            self._window.tell("Make EM from an X-ray volume first: Reconstruct ▸ X-ray to EM")
            return
        panes.set_swipe(not panes.swipes)
        self.swipe_button.setChecked(panes.swipes)
