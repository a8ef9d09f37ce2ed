"""The main window: viewers in the middle, docks around them, everything else is asked of the storeys below."""

from __future__ import annotations

import gc
import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.components import ViewerModel
from napari.layers import Layer
from napari.qt import QtViewer
from napari.utils.notifications import Notification, notification_manager
from qtpy.QtCore import QCoreApplication, QEvent, QObject, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QCloseEvent, QDragEnterEvent, QDragLeaveEvent, QDropEvent, QIcon, QResizeEvent
from qtpy.QtWidgets import QMainWindow, QPlainTextEdit

from connectoscope.adaptation.labelling import is_patches
from connectoscope.errors import ColourImage, SeveralVolumes, UserError
from connectoscope.jobs.folder import JobFolder
from connectoscope.paths import expanded
from connectoscope.segmentation.trust import is_reconstruction
from connectoscope.volumes import Volume
from connectoscope.volumes.stores import is_url
from connectoscope.zoo.card import CARD
from connectoscope_app import commands
from connectoscope_app.actions import Commands
from connectoscope_app.browser import VolumeBrowser, file_name, for_people, with_voxel_size
from connectoscope_app.comparison import Comparison
from connectoscope_app.dialogs import ErrorDialog, VolumeChoice, unquoted
from connectoscope_app.docks import hide_stray_tabs, make_docks
from connectoscope_app.job_results import JobResults
from connectoscope_app.jobs_panel import JobsPanel
from connectoscope_app.panes import Panes
from connectoscope_app.plots_panel import PlotsPanel
from connectoscope_app.samples import bundled_samples
from connectoscope_app.settings import Settings, load_settings, save_settings
from connectoscope_app.status import PlaceStatus
from connectoscope_app.tables_panel import TablesPanel
from connectoscope_app.task_panel import TaskPanel
from connectoscope_app.theme import apply_theme, register_themes
from connectoscope_app.welcome import WelcomePage
from napari_connectoscope.label_panel import LabelPanel
from napari_connectoscope.layers import open_in_background, warm_up
from napari_connectoscope.plan_view import planned_task
from napari_connectoscope.sources import layer_facts
from napari_connectoscope.table import fly_to
from napari_connectoscope.threads import background, one_line

_LAYOUT_VERSION = 3  # raise it when docks change, so that old layouts are not restored
_LOG_LINES = 2000
_TOLD_MS = 8000
_NAME = 80  # characters of what was dropped that are told: it may be any text

ICON = "connectoscope.svg"


def app_icon() -> QIcon:
    import connectoscope_resources

    return QIcon(str(Path(connectoscope_resources.__file__).parent / "icons" / ICON))


class MainWindow(QMainWindow):
    """The main window: one viewer, or two side by side for a comparison (:class:`~connectoscope_app.panes.Panes`).

    Args:
        settings: What is remembered; default: the user's file.
    """

    napari_said = Signal(str)  # from any thread

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        warnings: list[str] = []
        if settings is None:
            settings, warnings = load_settings()
        self.settings = settings
        self.error_dialog: ErrorDialog | None = None
        self._volumes: weakref.WeakKeyDictionary[Layer, tuple[str, Volume]] = weakref.WeakKeyDictionary()
        self._wanted: weakref.WeakKeyDictionary[Layer, dict[str, Any]] = weakref.WeakKeyDictionary()
        self.answers = QObject(self)  # what threads answer to; replaced when the volumes are closed
        self.setWindowTitle("Connectoscope")
        self.setWindowIcon(app_icon())
        self.setAcceptDrops(True)
        self.setDockNestingEnabled(True)
        self.setObjectName("connectoscope")
        register_themes()

        self.panes = Panes(self)
        self.setCentralWidget(self.panes)
        self.welcome = WelcomePage(app_icon(), self.panes)
        self.browser = VolumeBrowser()
        self.task_panel = TaskPanel()
        self.labels = LabelPanel(self.viewer)
        self.jobs = JobsPanel()
        self.tables = TablesPanel()
        self.plots = PlotsPanel()
        self.comparison = Comparison(self)
        self.results = JobResults(self)
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setMaximumBlockCount(_LOG_LINES)
        self.log.setAccessibleName("Log")
        largest = self.screen().availableGeometry().size()
        self.resize(QSize(1480, 920).boundedTo(largest))  # first: docks get their widths of it
        self.docks = make_docks(
            self,
            {
                "Volumes": self.browser,
                "Layers": self.panes.layer_panels,
                "Task": self.task_panel,
                "Patches": self.labels,
                "Jobs": self.jobs,
                "Objects": self.tables,
                "Plots": self.plots,
                "Log": self.log,
            },
        )
        self.place = PlaceStatus(self.statusBar())
        self.commands = Commands(self, self.show_error)
        self._connect()
        commands.install(self)
        samples = bundled_samples()
        self.browser.set_samples(samples)
        self.welcome.set_samples(samples)
        self._recent_changed()
        self.set_theme(settings.theme)
        self._default_state = self.saveState(_LAYOUT_VERSION)
        self._restore_layout()
        self._add_history()
        for line in warnings:
            self.tell(line)
        # All that is there once it is warm is of the program, so the garbage collector, who takes a quarter of a second to
        # look at it, is told to leave it until the window closes.
        QTimer.singleShot(1000, self, lambda: background(self, warm_up, lambda _: gc.freeze()))

    # -- assembly --------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        self.welcome.chosen.connect(self.open_volume)
        self.welcome.file_wanted.connect(lambda: commands.open_file(self))
        self.welcome.folder_wanted.connect(lambda: commands.open_folder(self))
        self.welcome.url_wanted.connect(lambda: commands.open_url(self))
        self.browser.open_wanted.connect(self.open_volume)
        self.browser.reopen_wanted.connect(self._reopen)
        self.task_panel.submitted.connect(self._job_started)
        self.task_panel.failed.connect(self.show_error)
        self.task_panel.told.connect(self.tell)
        self.jobs.told.connect(self.tell)
        self.jobs.show_wanted.connect(self.results.show)
        self.jobs.resumed.connect(self.results.follow)
        self.jobs.forgotten.connect(self._forget_job)
        self.plots.run_wanted.connect(self._run_plan)
        self.labels.failed.connect(self.show_error)
        self.labels.volume_wanted.connect(lambda source: self.open_volume(source, plain=True))
        self.labels.opened.connect(self.remember)
        self.labels.train_wanted.connect(lambda values: commands.show_training(self, values))
        self.napari_said.connect(self.tell)
        notification_manager.notification_ready.connect(self._napari_says)
        self.tables.fly_wanted.connect(lambda world, unit: fly_to(self.viewer, world, unit))
        self.panes.pane_added.connect(self._follow_pane)
        self.panes.unreadable.connect(self._tell_unreadable)
        self._follow_pane(self.viewer)

    def _follow_pane(self, model: ViewerModel) -> None:
        model.layers.events.inserted.connect(self._layers_changed)
        model.layers.events.removed.connect(self._layers_changed)
        model.layers.selection.events.active.connect(self._show_active_volume)
        self.place.follow(model)

    @property
    def viewer(self) -> Any:
        """The active pane's ``ViewerModel``."""
        return self.panes.model

    @property
    def _qt_viewer(self) -> QtViewer:
        """The active pane, by the name that napari's own main window has for it."""
        return self.panes.active

    # -- telling ---------------------------------------------------------------------------------------------
    def tell(self, line: str) -> None:
        """A line in the status bar, and in the log."""
        self.statusBar().showMessage(line, _TOLD_MS)
        self.log.appendPlainText(line)

    def _napari_says(self, notification: Notification) -> None:
        self.napari_said.emit(str(notification.message))

    def _tell_unreadable(self, line: str, details: str) -> None:
        self.tell(line)
        self.log.appendPlainText(details)

    def show_error(self, line: str, details: str = "") -> None:
        """The error dialog: one line, what to do, details folded; under a line that nobody has closed yet."""
        self.log.appendPlainText(line)
        self.statusBar().clearMessage()
        if self.error_dialog is not None:
            if self.error_dialog.isVisible():
                told = self.error_dialog.line.text().split("\n\n")
                line = "\n\n".join(dict.fromkeys((*told, line)))
                details = "\n\n".join(filter(None, (self.error_dialog.details.toPlainText(), details)))
            self.error_dialog.close()
        dialog = ErrorDialog(line, details, self)
        dialog.destroyed.connect(lambda: self._dialog_gone(dialog))
        self.error_dialog = dialog
        dialog.open()

    def _dialog_gone(self, dialog: ErrorDialog) -> None:
        if self.error_dialog is dialog:
            self.error_dialog = None

    # -- volumes ---------------------------------------------------------------------------------------------
    def open_volume(
        self, source: str, *, instead_of: Layer | None = None, plain: bool = False, **choices: Any
    ) -> None:
        """Open a volume in a thread, then show it.

        Args:
            source: Path, URL, ``sample:NAME``, the folder of a job, which is added to the jobs, a CSV of places, or
                patches to be labelled.
            instead_of: A layer that leaves when the new one is there; of several asked for, the last one counts.
            plain: A reconstruction, too, is a volume like others, not one half of a comparison.
            choices: ``channel``, ``time``, ``voxel_size`` of ``connectoscope.volumes.open_volume``.
        """
        self.tell(f"Opening {file_name(source)[:_NAME]} …")
        if instead_of is not None or "://" in source or source.startswith("sample:"):
            self._open(source, instead_of, choices)
            return
        file, mark, dataset = source.partition("::")

        def look() -> tuple[Path, str]:
            """In a thread: a disk on the network may take its time."""
            try:
                path = expanded(file).absolute()
                _check_volume(path)
                return path, _kind_of(path, plain=plain)
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise UserError(
                    f"{file_name(file)[:_NAME]} cannot be opened ({why}): check its path, and whether you may read it"
                ) from None

        def seen(answer: tuple[Path, str]) -> None:
            path, kind = answer
            others = {
                "job": self._add_job_at,
                "patches": self.label_patches,
                "reconstruction": self.results.show_reconstruction,
                "table": self.results.show_points,
            }
            if kind in others:
                self.statusBar().clearMessage()  # they tell what they do
                others[kind](path)
            else:
                self._open(f"{path}{mark}{dataset}", None, choices)

        background(self.answers, look, seen, self.show_error)

    def _open(
        self, source: str, instead_of: Layer | None, choices: dict[str, Any], *, coloured: bool = False
    ) -> None:
        viewer = self.panes.models[0]  # the right one is for what is made of it
        if instead_of is not None:
            self._wanted[instead_of] = choices

        def opened(layer: Layer, volume: Volume) -> None:
            if instead_of is not None:
                if self._wanted.get(instead_of) is not choices:  # something else was asked for since
                    viewer.layers.remove(layer)
                    return
                if instead_of in viewer.layers:
                    place = viewer.layers.index(instead_of)
                    viewer.layers.remove(instead_of)
                    viewer.layers.move(viewer.layers.index(layer), place)  # below what was made of it
                    layer.name = re.sub(r" \[\d+\]$", "", layer.name)  # as which napari told the two apart
            else:
                self.comparison.close()  # both panes look at one place, and their titles say at what
            if coloured:
                told = f"this is a colour image, of which '{volume.channels[0]}' is shown: choose another under Channel"
                volume = replace(volume, warnings=(*volume.warnings, told))
            self.volume_opened(source, layer, volume)

        def failed(line: str) -> None:
            if not is_url(source):  # a server may be back tomorrow
                self.settings.forget_volume(source)
                self._recent_changed()
            self.show_error(line)

        def several(error: SeveralVolumes) -> None:
            if isinstance(error, ColourImage):  # the panel then offers the other channels
                self._open(source, instead_of, {**choices, "channel": "0"}, coloured=True)
                return
            self.tell(f"{file_name(source)} holds several volumes: choose one")
            VolumeChoice(file_name(source), error.choices, self.open_volume, self).open()

        open_in_background(
            viewer, source, owner=self.answers, opened=opened, failed=failed, several=several, **choices
        )

    def volume_opened(self, source: str, layer: Layer, volume: Volume) -> None:
        """Know a volume that has got its layer."""
        self._volumes[layer] = (source, volume)
        for event in (layer.events.scale, layer.events.units, layer.events.metadata):
            event.connect(self._layer_placed)
        self.settings.remember_volume(source)
        self._recent_changed()
        self._describe(volume)
        self.tell(f"Opened {volume.name}: {' × '.join(map(str, volume.shape))} voxels")
        for warning in volume.warnings:
            self.log.appendPlainText(f"{volume.name}: {for_people(warning)}")

    def _layer_placed(self, event: Any) -> None:
        layer = event.source
        QTimer.singleShot(0, self, lambda: self._take_voxel_size(layer))  # once all of its facts are set

    def _take_voxel_size(self, layer: Layer) -> None:
        """The voxel size that a form was told of a layer is its volume's: it is asked for no more."""
        given = layer_facts(layer).get("voxel_size")
        if layer not in self._volumes or not given:
            return
        source, volume = self._volumes[layer]
        sized = with_voxel_size(volume, str(given))
        self._volumes[layer] = (source, sized)
        if sized is not volume and self.browser.details.volume is volume:
            self._describe(sized)

    def close_volumes(self) -> None:
        """Remove all layers, and the tables of their objects; what is on its way comes no more."""
        self._end_answers()
        self.answers = QObject(self)
        self.results.close()
        self.statusBar().clearMessage()  # "Opening …"
        self.panes.clear()
        self.tables.clear()

    def label_patches(self, path: Path) -> None:
        """Go on with the labelling of a file of patches."""
        self.labels.open(path)
        self.raise_dock("Patches")

    def remember(self, path: str) -> None:
        """Under Open Recent, from now on: a window that was killed finds its labels there."""
        self.settings.remember_volume(path)
        self._save()
        self._recent_changed()

    def _reopen(self, choices: dict[str, Any]) -> None:
        """Show the described volume anew with other choices, in place of the layer that shows it."""
        shown = self.browser.details.volume
        for layer, (source, volume) in list(self._volumes.items()):
            if volume is shown:
                size = layer_facts(layer).get("voxel_size")  # what the user has said of it
                kept = {"channel": volume.channel, "time": volume.time, "voxel_size": size}
                chosen = {name: value for name, value in {**kept, **choices}.items() if value is not None}
                self.open_volume(source, instead_of=layer, **chosen)
                return

    def _show_active_volume(self, _event: object = None) -> None:
        layer = self.viewer.layers.selection.active
        if layer in self._volumes:
            volume = self._volumes[layer][1]
            if volume is not self.browser.details.volume:
                self._describe(volume)

    def _layers_changed(self, _event: object = None) -> None:
        layers = [layer for model in self.panes.models for layer in model.layers]
        self.welcome.setVisible(not layers)
        shown = self.browser.details.volume
        volumes = [self._volumes[layer][1] for layer in layers if layer in self._volumes]
        if shown is not None and all(volume is not shown for volume in volumes):  # it has been closed
            self._describe(volumes[-1] if volumes else None)

    def _describe(self, volume: Volume | None) -> None:
        """In the panel and in the title."""
        self.browser.details.show_volume(volume)
        self.setWindowTitle("Connectoscope" if volume is None else f"{volume.name} — Connectoscope")

    def _recent_changed(self) -> None:
        recent = [source for source in self.settings.recent if not source.startswith("sample:")]
        self.browser.set_recent(recent)
        commands.install_recent(self, recent)

    # -- jobs ------------------------------------------------------------------------------------------------
    def _job_started(self, folder: JobFolder) -> None:
        self.add_job(folder)
        self.tell("Started. It goes on when this window is closed.")

    def add_job(self, folder: JobFolder) -> None:
        """Watch a job: show its results while it runs. Raises UserError when it is none, or of another version."""
        watcher = self.jobs.add(folder)
        self.settings.remember_job(str(folder.path))
        self._save()
        self.results.follow(watcher)
        self.raise_dock("Jobs")

    def _add_job_at(self, path: Path) -> None:
        try:
            self.add_job(JobFolder(path))
        except UserError as error:
            self.show_error(str(error))

    def raise_dock(self, name: str, height: int = 0) -> None:
        """Bring a panel to the front, at least so high."""
        dock = self.docks[name]
        dock.show()
        dock.raise_()
        if dock.height() < height:
            self.resizeDocks([dock], [height], Qt.Orientation.Vertical)

    def _add_history(self) -> None:
        """Jobs of earlier windows: the ended ones as they stand, the running ones watched."""
        for path in reversed(self.settings.jobs):
            folder = JobFolder(path)
            try:
                if not folder.request_path.is_file():
                    self._forget_job(path)
                elif folder.state().ended:
                    self.jobs.add(folder)
                else:
                    self.add_job(folder)
                    self.tell(f"{self.results.name_of(folder)} went on while the window was closed")
            except (UserError, OSError) as error:  # damaged since, or its disk is away
                self._forget_job(path)
                self.tell(one_line(error))

    def _run_plan(self, event: dict[str, Any]) -> None:
        """The form of the task that a plan is for, with the plan in it."""
        try:
            task, entry = planned_task(event)
        except UserError as error:
            self.show_error(str(error))
            return
        commands.show_task(self, task, entry)

    def _forget_job(self, path: str) -> None:
        self.settings.forget_job(path)
        self._save()

    # -- look ------------------------------------------------------------------------------------------------
    def set_theme(self, choice: str) -> None:
        """'dark', 'light' or 'system', for the window and its viewers."""
        self.settings.theme = choice  # type: ignore[assignment]  # checked by the model
        self.panes.set_theme(apply_theme(self, choice))

    def reset_layout(self) -> None:
        self.restoreState(self._default_state, _LAYOUT_VERSION)

    def _restore_layout(self) -> None:
        self.settings.restore_layout(self, _LAYOUT_VERSION)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        super().resizeEvent(event)
        self._place_welcome()

    def event(self, event: QEvent) -> bool:
        handled = super().event(event)
        if event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Show):
            self._place_welcome()
            if hasattr(self, "docks"):
                QTimer.singleShot(0, self, lambda: hide_stray_tabs(self, self.docks))
        return handled

    def _place_welcome(self) -> None:
        # The canvas is created before it, so it must be raised above the GL widget.
        if hasattr(self, "welcome"):
            self.welcome.setGeometry(self.panes.rect())
            self.welcome.raise_()

    # -- drops -----------------------------------------------------------------------------------------------
    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802
        if event.mimeData().hasUrls() or event.mimeData().hasText():
            self.welcome.set_drag(True)
            event.acceptProposedAction()

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:  # noqa: N802
        self.welcome.set_drag(False)

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802
        self.welcome.set_drag(False)
        mime = event.mimeData()
        urls = [u.toLocalFile() if u.isLocalFile() else u.toString() for u in mime.urls()]
        for source in urls or filter(None, map(unquoted, mime.text().splitlines())):
            self.open_volume(source)
        event.acceptProposedAction()

    # -- end -------------------------------------------------------------------------------------------------
    def _save(self) -> None:
        line = save_settings(self.settings)
        if line is not None:
            self.tell(line)

    def _end_answers(self) -> None:
        """At once: what a thread gives from now on goes nowhere."""
        self.answers.deleteLater()
        QCoreApplication.sendPostedEvents(self.answers, QEvent.Type.DeferredDelete)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        """Remember the layout; jobs go on by themselves, and labels that cannot be saved keep the window open."""
        if not self.labels.may_close():
            event.ignore()
            return
        self.settings.keep_layout(self, _LAYOUT_VERSION)
        self._save()
        for watcher in self.jobs.model.watchers():
            watcher.stop()
        notification_manager.notification_ready.disconnect(self._napari_says)
        self._end_answers()
        self.task_panel.close_preview()
        self.labels.close_session()
        self.panes.close_panes()
        gc.unfreeze()
        super().closeEvent(event)
        self.deleteLater()


def _check_volume(path: Path) -> None:
    """Raises UserError for what is opened elsewhere, and where. Raises OSError: it cannot be read."""
    if path.name == CARD or (path / CARD).is_file():
        name = path.parent.name if path.name == CARD else path.name
        raise UserError(f"{name} is a model: choose it under Model, in the form of a task")
    if path.name.endswith(".cascade.json"):
        raise UserError(f"{path.name} is a cascade's plan: choose it under Cascade, in the form of a task")
    if path.suffix == ".toml":
        raise UserError(f"{path.name} is a recipe: choose it in the form of Models ▸ Train or Models ▸ Prune")


def _kind_of(path: Path, *, plain: bool) -> str:
    """job, patches, reconstruction, table or volume. Raises OSError: it cannot be read."""
    if (path / "request.json").is_file():
        return "job"
    if is_patches(path):
        return "patches"
    if not plain and is_reconstruction(str(path)):
        return "reconstruction"
    return "table" if path.suffix.lower() == ".csv" and path.is_file() else "volume"
