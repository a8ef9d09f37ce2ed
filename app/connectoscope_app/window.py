"""The main window: viewers in the middle, docks around them, everything else is asked of the storeys below."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

from napari.layers import Layer
from napari.qt import QtViewer
from napari.utils.notifications import Notification, notification_manager
from qtpy.QtCore import QByteArray, QCoreApplication, QEvent, QObject, QSize, Qt
from qtpy.QtGui import QCloseEvent, QDragEnterEvent, QDragLeaveEvent, QDropEvent, QIcon, QResizeEvent
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QPlainTextEdit, QWidget

from connectoscope.jobs.folder import JobFolder, JobState
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import unit_symbol
from connectoscope_app import commands
from connectoscope_app.actions import Commands
from connectoscope_app.browser import VolumeBrowser, short_name
from connectoscope_app.dialogs import ErrorDialog
from connectoscope_app.jobs_panel import JobsPanel
from connectoscope_app.panes import Panes
from connectoscope_app.samples import bundled_samples
from connectoscope_app.settings import Settings, load_settings, save_settings
from connectoscope_app.tables_panel import TablesPanel
from connectoscope_app.task_panel import TaskPanel
from connectoscope_app.theme import apply_theme, register_themes
from connectoscope_app.welcome import WelcomePage
from napari_connectoscope import layers as volume_layers
from napari_connectoscope.jobs import JobWatcher
from napari_connectoscope.table import fly_to

_LAYOUT_VERSION = 1  # raise it when docks change, so that old layouts are not restored
_LOG_LINES = 2000
_TOLD_MS = 8000

ICON = "connectoscope.svg"


def app_icon() -> QIcon:
    import connectoscope_resources

    return QIcon(str(Path(connectoscope_resources.__file__).parent / "icons" / ICON))


class MainWindow(QMainWindow):
    """One window with one viewer now; see :class:`~connectoscope_app.panes.Panes` for more of them.

    Args:
        settings: What is remembered; default: the user's file.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        warnings: list[str] = []
        if settings is None:
            settings, warnings = load_settings()
        self.settings = settings
        self.error_dialog: ErrorDialog | None = None
        self._volumes: weakref.WeakKeyDictionary[Layer, tuple[str, Volume]] = weakref.WeakKeyDictionary()
        self._results: dict[str, list[Layer]] = {}  # destination -> layers that grow
        self._open = QObject(self)  # what threads answer to; gone at once when the window closes
        self._followed: weakref.WeakSet[JobWatcher] = weakref.WeakSet()
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
        self.jobs = JobsPanel()
        self.tables = TablesPanel()
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setMaximumBlockCount(_LOG_LINES)
        self.log.setAccessibleName("Log")
        self.docks: dict[str, QDockWidget] = {}
        self._make_docks()
        self._position = QLabel()
        self.statusBar().addPermanentWidget(self._position)
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

    # -- assembly --------------------------------------------------------------------------------------------
    def _make_docks(self) -> None:
        left, right, bottom = (
            Qt.DockWidgetArea.LeftDockWidgetArea,
            Qt.DockWidgetArea.RightDockWidgetArea,
            Qt.DockWidgetArea.BottomDockWidgetArea,
        )
        for name, widget, area in (
            ("Volumes", self.browser, left),
            ("Layers", self.panes.layer_panels, right),
            ("Task", self.task_panel, right),
            ("Jobs", self.jobs, bottom),
            ("Objects", self.tables, bottom),
            ("Log", self.log, bottom),
        ):
            dock = QDockWidget(name, self)
            dock.setObjectName(f"dock-{name.lower()}")
            dock.setWidget(widget)
            if area == bottom:
                dock.setTitleBarWidget(QWidget(dock))  # the tab says it already
            self.addDockWidget(area, dock)
            self.docks[name] = dock
        self.setCorner(Qt.Corner.BottomRightCorner, right)
        self.setCorner(Qt.Corner.BottomLeftCorner, left)
        self.tabifyDockWidget(self.docks["Jobs"], self.docks["Objects"])
        self.tabifyDockWidget(self.docks["Objects"], self.docks["Log"])
        self.setTabPosition(Qt.DockWidgetArea.AllDockWidgetAreas, self.tabPosition(bottom).North)
        self.docks["Jobs"].raise_()
        self.resizeDocks([self.docks["Volumes"]], [310], Qt.Orientation.Horizontal)
        self.resizeDocks([self.docks["Task"]], [370], Qt.Orientation.Horizontal)
        self.resizeDocks([self.docks["Jobs"]], [210], Qt.Orientation.Vertical)
        self.resizeDocks([self.docks["Layers"], self.docks["Task"]], [500, 420], Qt.Orientation.Vertical)

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
        self.jobs.show_wanted.connect(self.show_job_results)
        self.jobs.resumed.connect(self._follow)
        self.jobs.forgotten.connect(self._forget_job)
        notification_manager.notification_ready.connect(self._napari_says)
        self.tables.fly_wanted.connect(lambda world, unit: fly_to(self.viewer, world, unit))
        for model in self.panes.models:
            model.layers.events.inserted.connect(self._layers_changed)
            model.layers.events.removed.connect(self._layers_changed)
            model.layers.selection.events.active.connect(self._show_active_volume)
            model.cursor.events.position.connect(self._show_position)

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
        self.tell(str(notification.message))

    def show_error(self, line: str, details: str = "") -> None:
        """The error dialog: one line, what to do, details folded."""
        self.log.appendPlainText(line)
        self.statusBar().clearMessage()
        if self.error_dialog is not None:
            self.error_dialog.close()
        dialog = ErrorDialog(line, details, self)
        dialog.destroyed.connect(lambda: self._dialog_gone(dialog))
        self.error_dialog = dialog
        dialog.open()

    def _dialog_gone(self, dialog: ErrorDialog) -> None:
        if self.error_dialog is dialog:
            self.error_dialog = None

    # -- volumes ---------------------------------------------------------------------------------------------
    def open_volume(self, source: str, *, instead_of: Layer | None = None, **choices: Any) -> None:
        """Open a volume in a thread, then show it.

        Args:
            source: Path, URL, ``sample:NAME``, or the folder of a job, which is added to the jobs.
            instead_of: A layer that leaves when the new one is there.
            choices: ``channel``, ``time``, ``voxel_size`` of ``connectoscope.volumes.open_volume``.
        """
        if "://" not in source and not source.startswith("sample:"):
            path = Path(source.partition("::")[0]).expanduser().absolute()
            if (path / "request.json").is_file():
                self.add_job(JobFolder(path))
                return
            source = str(path) + source[len(source.partition("::")[0]) :]
        self.tell(f"Opening {short_name(source)} …")

        def opened(layer: Layer, volume: Volume) -> None:
            if instead_of is not None and instead_of in self.viewer.layers:
                self.viewer.layers.remove(instead_of)
            self._volume_opened(source, layer, volume)

        def failed(line: str) -> None:
            self.settings.forget_volume(source)
            self._recent_changed()
            self.show_error(line)

        volume_layers.open_in_background(
            self.viewer, source, owner=self._open, opened=opened, failed=failed, **choices
        )

    def _volume_opened(self, source: str, layer: Layer, volume: Volume) -> None:
        self._volumes[layer] = (source, volume)
        self.settings.remember_volume(source)
        self._recent_changed()
        self.browser.details.show_volume(volume)
        self.setWindowTitle(f"{volume.name} — Connectoscope")
        self.tell(f"Opened {volume.name}: {' × '.join(map(str, volume.shape))} voxels")
        for warning in volume.warnings:
            self.log.appendPlainText(f"{volume.name}: {warning}")

    def _reopen(self, choices: dict[str, Any]) -> None:
        """Show the described volume anew with other choices, in place of the layer that shows it."""
        shown = self.browser.details.volume
        for layer, (source, volume) in list(self._volumes.items()):
            if volume is shown:
                kept = {"channel": volume.channel, "time": volume.time}
                chosen = {name: value for name, value in {**kept, **choices}.items() if value is not None}
                self.open_volume(source, instead_of=layer, **chosen)
                return

    def _show_active_volume(self, _event: object = None) -> None:
        layer = self.viewer.layers.selection.active
        if layer in self._volumes:
            volume = self._volumes[layer][1]
            if volume is not self.browser.details.volume:
                self.browser.details.show_volume(volume)
                self.setWindowTitle(f"{volume.name} — Connectoscope")

    def _layers_changed(self, _event: object = None) -> None:
        empty = all(len(model.layers) == 0 for model in self.panes.models)
        self.welcome.setVisible(empty)
        if empty:
            self.browser.details.show_volume(None)
            self.setWindowTitle("Connectoscope")

    def _recent_changed(self) -> None:
        recent = [source for source in self.settings.recent if not source.startswith("sample:")]
        self.browser.set_recent(recent)
        commands.install_recent(self, recent)

    def _show_position(self, _event: object = None) -> None:
        units = self.viewer.layers.units
        position = self.viewer.cursor.position[-3:]
        if not units or len(position) < 2:
            self._position.clear()
            return
        symbol = unit_symbol(str(units[-1]))
        numbers = "   ".join(f"{a} {p:,.0f}" for a, p in zip("zyx"[-len(position) :], position, strict=True))
        self._position.setText(f"{numbers} {symbol}".replace(",", "\u202f"))

    # -- jobs ------------------------------------------------------------------------------------------------
    def _job_started(self, folder: JobFolder) -> None:
        self.add_job(folder)
        self.tell("Started. It goes on when this window is closed.")

    def add_job(self, folder: JobFolder) -> None:
        """Watch a job: show its results while it runs."""
        self.settings.remember_job(str(folder.path))
        self._save()
        self._follow(self.jobs.add(folder))
        self.docks["Jobs"].show()
        self.docks["Jobs"].raise_()

    def _follow(self, watcher: JobWatcher) -> None:
        """Show what a watcher tells, once."""
        if watcher in self._followed:
            return
        self._followed.add(watcher)
        folder = watcher.folder
        name = job_name(folder)
        watcher.resulted.connect(lambda event: self._show_result(event, folder))
        watcher.progressed.connect(lambda _event: self._refresh_results(folder))
        watcher.logged.connect(lambda line: self.log.appendPlainText(f"{name}: {line}"))
        watcher.ended.connect(lambda state: self._job_ended(state, watcher))

    def show_job_results(self, folder: JobFolder) -> None:
        """Layers and tables of what a job has made so far."""
        events, _ = folder.read_events(0)
        results = [event for event in events if event["type"] == "result"]
        for event in results:
            self._show_result(event, folder)
        if not results:
            self.tell("This job has made nothing that can be shown yet")
        elif any(event["kind"] == "table" for event in results):
            self.docks["Objects"].show()
            self.docks["Objects"].raise_()

    def _show_result(self, event: dict[str, Any], folder: JobFolder) -> None:
        path = Path(event["path"])
        if not path.exists():
            self.tell(f"{path.name} is gone: it was moved or deleted")
            return
        if event["kind"] == "table":
            self.tables.show_table(path, str(event.get("name", path.stem)))
            return
        volume_layers.add_result_in_background(
            self.viewer,
            event,
            owner=self._open,
            targets=folder.request.parameters.get("target"),
            added=lambda layers: self._result_added(layers, folder),
            failed=self.tell,  # moved or damaged since: the job goes on
        )

    def _result_added(self, layers: list[Layer], folder: JobFolder) -> None:
        self._results.setdefault(str(folder.path), []).extend(layers)
        if folder.state().ended:  # it has ended while its layers were made
            self._finish_results(folder)

    def _refresh_results(self, folder: JobFolder) -> None:
        for layer in self._results.get(str(folder.path), []):
            volume_layers.refresh_result(layer)

    def _job_ended(self, state: JobState, watcher: JobWatcher) -> None:
        folder = watcher.folder
        self._finish_results(folder)
        name = job_name(folder)
        if state.status == "done":
            self.tell(f"{name}: finished")
            if any(event["kind"] == "table" for event in watcher.results):
                self.docks["Objects"].raise_()
        elif state.status == "failed":
            self.show_error(state.message or f"{name} failed", self._log_end(folder))
        else:
            self.tell(f"{name}: {state.status}. {state.message}".rstrip())

    def _finish_results(self, folder: JobFolder) -> None:
        destination = folder.request.destination
        if destination is not None:
            volume_layers.finish_results(self.viewer, str(destination))
        self._results.pop(str(folder.path), None)

    def _log_end(self, folder: JobFolder) -> str:
        try:
            return folder.log_path.read_text(encoding="utf-8", errors="replace")[-6000:]
        except OSError:
            return ""

    def _add_history(self) -> None:
        """Jobs of earlier windows: the ended ones as they stand, the running ones watched."""
        for path in reversed(self.settings.jobs):
            folder = JobFolder(path)
            if not folder.request_path.is_file():
                self._forget_job(path)
            elif folder.state().ended:
                self.jobs.add(folder)
            else:
                self.add_job(folder)
                self.tell(f"{job_name(folder)} went on while the window was closed")

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
        self.resize(QSize(1480, 920))
        if self.settings.geometry:
            self.restoreGeometry(_from_text(self.settings.geometry))
        if self.settings.layout:
            self.restoreState(_from_text(self.settings.layout), _LAYOUT_VERSION)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        super().resizeEvent(event)
        self._place_welcome()

    def event(self, event: QEvent) -> bool:
        handled = super().event(event)
        if event.type() == QEvent.Type.LayoutRequest:
            self._place_welcome()
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
        sources = urls or [line.strip() for line in mime.text().splitlines()]
        for source in filter(None, sources):
            self.open_volume(source)
        event.acceptProposedAction()

    # -- end -------------------------------------------------------------------------------------------------
    def _save(self) -> None:
        line = save_settings(self.settings)
        if line is not None:
            self.tell(line)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        """Remember the layout; jobs go on by themselves."""
        self.settings.geometry = _to_text(self.saveGeometry())
        self.settings.layout = _to_text(self.saveState(_LAYOUT_VERSION))
        self._save()
        for watcher in self.jobs.model.watchers():
            watcher.stop()
        notification_manager.notification_ready.disconnect(self._napari_says)
        self._open.deleteLater()
        QCoreApplication.sendPostedEvents(self._open, QEvent.Type.DeferredDelete)
        self.task_panel.close_preview()
        self.panes.close_panes()
        super().closeEvent(event)
        self.deleteLater()


def job_name(folder: JobFolder) -> str:
    return folder.path.name.removesuffix(".job")


def _to_text(data: QByteArray) -> str:
    return bytes(data.toBase64().data()).decode("ascii")


def _from_text(text: str) -> QByteArray:
    return QByteArray.fromBase64(text.encode("ascii", "ignore"))
