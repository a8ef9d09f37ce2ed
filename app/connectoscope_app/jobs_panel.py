"""Jobs: what runs, what waits and what has ended, also before the window was opened."""

from __future__ import annotations

from qtpy.QtCore import QModelIndex, QRect, QSize, Qt, QUrl, Signal
from qtpy.QtGui import QColor, QDesktopServices, QPainter
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QPushButton,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)
from superqt import QFlowLayout

from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder
from napari_connectoscope.jobs import JobModel, JobWatcher, gone

_PROGRESS = 3  # column of JobModel
_GROOVE = {True: "#343c48", False: "#dbe0e6"}  # by darkness of the theme
_CHUNK = {True: "#2fa3b1", False: "#5cc3cd"}


class ProgressDelegate(QStyledItemDelegate):
    """Draws the fraction of a job as a bar, also on a selected row."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        fraction = index.data(Qt.ItemDataRole.UserRole)
        if fraction is None:
            super().paint(painter, option, index)
            return
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(option.rect, option.palette.highlight())
        groove = option.rect.adjusted(4, 6, -12, -6)
        done = QRect(groove.topLeft(), QSize(round(groove.width() * float(fraction)), groove.height()))
        dark = option.palette.text().color().lightness() > 128
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        for rect, colour in ((groove, _GROOVE[dark]), (done, _CHUNK[dark])):
            painter.setBrush(QColor(colour))
            painter.drawRoundedRect(rect, 4, 4)
        painter.setPen(option.palette.text().color())
        painter.drawText(groove, Qt.AlignmentFlag.AlignCenter, f"{100 * float(fraction):.0f} %")
        painter.restore()


class JobsPanel(QWidget):
    """A table of jobs and what can be done with the chosen one."""

    show_wanted = Signal(object)  # JobFolder: put its results into the viewer
    resumed = Signal(object)  # JobWatcher of a job that was started again
    forgotten = Signal(str)  # path of a job that left the list
    told = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        self.model = JobModel(self)
        self.table = QTableView()
        self.table.setModel(self.model)
        self.table.setAccessibleName("Jobs")
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(28)
        header = self.table.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        for column, width in ((0, 115), (2, 190), (_PROGRESS, 130), (4, 90)):
            self.table.setColumnWidth(column, width)
        self.table.setItemDelegateForColumn(_PROGRESS, ProgressDelegate(self))
        self.table.doubleClicked.connect(lambda _: self.show_results())
        self.table.selectionModel().selectionChanged.connect(lambda *_: self._refresh_buttons())
        self.model.dataChanged.connect(lambda *_: self._refresh_buttons())
        self._buttons = {}
        row = QFlowLayout()  # of several rows where there is little room
        row.setContentsMargins(0, 0, 0, 0)
        row.setHorizontalSpacing(6)
        row.setVerticalSpacing(6)
        for name, tip, slot in (
            (
                "Cancel",
                "Stop within seconds; finished blocks are kept, and Resume goes on",
                self.cancel,
            ),
            ("Resume", "Go on where the job was cancelled, paused or failed", self.resume),
            ("Show result", "Put the layers and the table of this job into the viewer", self.show_results),
            ("Folder", "Show the result in the system's file browser", self.open_folder),
            ("Forget", "Take the job off this list; its files stay", self.forget),
        ):
            button = QPushButton(name)
            button.setToolTip(tip)
            button.clicked.connect(slot)
            row.addWidget(button)
            self._buttons[name] = button
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.setSpacing(8)
        layout.addWidget(self.table, 1)
        layout.addLayout(row)
        self.setFocusProxy(self.table)
        self._refresh_buttons()

    def add(self, folder: JobFolder) -> JobWatcher:
        """Watch a job, and select it."""
        watcher = self.model.add(folder)
        self.select(watcher)
        return watcher

    def select(self, watcher: JobWatcher) -> None:
        self.table.selectRow(self.model.watchers().index(watcher))

    def current_row(self) -> int | None:
        rows = self.table.selectionModel().selectedRows()
        return rows[0].row() if rows else None

    def current(self) -> JobFolder | None:
        row = self.current_row()
        return None if row is None else self.model.watcher(row).folder

    def cancel(self) -> None:
        """Cancel the chosen job."""
        row = self._chosen()
        if row is None:
            return
        if not self.model.watcher(row).running:
            self.told.emit("This job has ended")
            return
        self.model.cancel(row)
        self.told.emit("Cancelling: finished blocks are kept")

    def resume(self) -> None:
        """Resume the chosen job."""
        row = self._chosen()
        if row is None:
            return
        if not self.model.can_resume(row):
            self.told.emit("Only a paused, cancelled or failed job can be resumed")
            return
        try:
            self.model.resume(row)
        except UserError as error:
            self.told.emit(str(error))
        else:
            self.told.emit("Resumed. It goes on when this window is closed.")
            self.resumed.emit(self.model.watcher(row))

    def show_results(self) -> None:
        """Show what the chosen job has made."""
        if self._chosen() is not None:
            self.show_wanted.emit(self.current())

    def open_folder(self) -> None:
        """Show the result of the chosen job in the file browser."""
        row = self._chosen()
        if row is None:
            return
        destination = self.model.request(row).destination
        place = self.model.watcher(row).folder.path if destination is None else destination.parent
        if not place.exists():
            self.told.emit(gone(place))
            return
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(place)))

    def forget(self) -> None:
        """Take the chosen job off the list, unless it runs."""
        row = self._chosen()
        if row is None:
            return
        watcher = self.model.watcher(row)
        if watcher.running:
            self.told.emit("This job is running: cancel it first")
            return
        path = str(watcher.folder.path)
        self.model.remove(row)
        self.forgotten.emit(path)

    def _chosen(self) -> int | None:
        row = self.current_row()
        if row is None:
            self.told.emit("Choose a job in the list first")
        return row

    def _refresh_buttons(self) -> None:
        row = self.current_row()
        running = row is not None and self.model.watcher(row).running
        enabled = {
            "Cancel": running,
            "Resume": row is not None and self.model.can_resume(row),
            "Show result": row is not None,
            "Folder": row is not None,
            "Forget": row is not None and not running,
        }
        for name, button in self._buttons.items():
            button.setEnabled(enabled[name])
