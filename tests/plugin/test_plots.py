"""Plots hold what jobs tell, curves grow, colours follow the theme, and a plan leads to its task's form."""

import sys

import numpy as np
import pytest

from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.jobs.events import read_events
from napari_connectoscope.plan_view import PlanView, cell_text, planned_task
from napari_connectoscope.plots import Plot, PlotView

PLAN = {
    "type": "result",
    "kind": "plan",
    "path": "/somewhere/brain.cascade.json",
    "name": "brain",
    "text": "A cascade of two levels takes 6 minutes instead of 41.",
    "table": [["Time", "41 min", "6 min"], ["Calls", 20480, 2310], ["Recall", 1.0, 0.984], ["Wakes", None, 12.5]],
    "task": "segment",
    "parameters": {"source": "sample:vnc", "model": "synapse-vnc", "target": ["mitochondria"], "unknown": 1},
}  # fmt: skip


@pytest.fixture
def view(qtbot):
    view = PlotView()
    qtbot.addWidget(view)
    view.resize(500, 300)
    return view


def test_an_event_of_the_context_is_a_plot(tmp_path):
    context = Context.local(tmp_path / "job")
    context.plot(
        "recall", {"two levels": [(0.1, 0.9), (0.2, None), (0.3, 1.0)], "plain": np.array([3, 4])},
        x="time", y="recall", marked={"chosen": (0.2, 0.98)},
    )  # fmt: skip
    plot = Plot.of(read_events(context.job.events_path)[0][0])
    assert (plot.name, plot.x, plot.y) == ("recall", "time", "recall")
    assert plot.series == {"two levels": [(0.1, 0.9), (0.3, 1.0)], "plain": [(0, 3), (1, 4)]}
    assert plot.marked == {"chosen": (0.2, 0.98)}


def test_curves_grow_and_a_resumed_run_takes_over(view):
    plot = Plot("training")
    for step, loss in ((0, 3.0), (10, 2.0), (20, 1.0)):
        plot.grow({"step": step, "values": {"loss": loss, "odd": None}})
    view.show_plot(plot)
    assert list(view._lines["loss"].yData) == [3.0, 2.0, 1.0]
    plot.grow({"step": 10, "values": {"loss": 1.5, "score": 0.5}})  # from a checkpoint before step 10
    view.changed()
    assert view._timer.isActive()  # drawn at most a few times a second
    view.redraw()
    assert list(view._lines["loss"].yData) == [3.0, 1.5]
    assert list(view._lines["score"].xData) == [10.0]


def test_lines_points_and_stars(view):
    plot = Plot.of(
        {
            "name": "p",
            "series": {"line": [[0, 1], [1, 2]], "cloud": [[1, 1], [0, 2], [2, 3]], "none": []},
            "marked": {"chosen": [1, 2]},
        }
    )
    view.show_plot(plot)
    assert view._lines["line"].opts["pen"] is not None
    assert view._lines["cloud"].opts["pen"] is None
    assert len(view._marks) == 2  # a star and its words
    view.show_plot(Plot("other"))
    assert view._lines == {}
    assert view._marks == []


def test_a_name_below_the_plot_hides_its_line(view):
    view.show_plot(Plot("p", series={"a < b": [(0, 0), (1, 1)], "c": [(0, 1), (1, 0)]}))
    assert "a&nbsp;&lt;&nbsp;b" in view.legend.text()
    view.legend.linkActivated.emit("0")
    assert [line.isVisible() for line in view._lines.values()] == [False, True]
    view.redraw()
    assert not view._lines["a < b"].isVisible()
    assert "line-through" in view.legend.text()
    view.legend.linkActivated.emit("0")
    assert view._lines["a < b"].isVisible()
    assert "line-through" not in view.legend.text()


def test_colours_follow_the_theme(view, monkeypatch, qtbot):
    from napari_connectoscope import plots

    view.show_plot(Plot("p", series={"a": [(0, 0), (1, 1)]}))
    view.show()
    qtbot.waitExposed(view)
    for kind, dark in (("light", False), ("dark", True)):
        theme = plots.get_theme(kind)
        monkeypatch.setattr(plots, "_theme", lambda theme=theme: theme)
        view.setStyleSheet(f"QLabel {{ color: {theme.text.as_hex()}; }}")
        assert (view.grab().toImage().pixelColor(250, 2).lightness() < 128) == dark
        assert view._lines["a"].opts["pen"].color().name() == plots._COLOURS[dark][0]


def test_plots_without_pyqtgraph_say_what_to_install(view, monkeypatch):

    monkeypatch.setitem(sys.modules, "pyqtgraph", None)
    view.show_plot(Plot("p"))
    assert "connectoscope[desktop]" in view.hint.text()
    view.changed()
    view.redraw()


def test_plan_shows_verdict_numbers_and_a_button(qtbot):
    view = PlanView()
    qtbot.addWidget(view)
    view.show_plan(PLAN)
    assert "6 minutes instead of 41" in view.verdict.text()
    cells = [[view.table.item(i, j).text() for j in range(3)] for i in range(view.table.rowCount())]
    assert cells == [
        ["Time", "41 min", "6 min"], ["Calls", "20,480", "2,310"], ["Recall", "1", "0.984"], ["Wakes", "–", "12.5"],
    ]  # fmt: skip
    with qtbot.waitSignal(view.run_wanted) as asked:
        view.run_button.click()
    assert asked.args == [PLAN]
    view.show_plan({"kind": "plan", "name": "bare", "path": "x"})
    assert view.verdict.text() == "bare"
    assert view.run_button.isHidden()


def test_a_ranking_tells_its_models_apart(qtbot):
    names = ["synapse-vnc", "synapse-fib-common", "synapse-fib-common-25"]
    view = PlanView()
    qtbot.addWidget(view)
    view.resize(400, 300)
    view.show_plan(PLAN)
    view.show_plan(
        {
            "kind": "ranking",
            "name": "v",
            "path": "x",
            "table": [[n, 0.1, "0.1–0.2", 0.5, 0.01] for n in names],
        }
    )
    view.show()
    qtbot.waitExposed(view)
    assert view.table.columnWidth(0) >= view.table.sizeHintForColumn(0)
    assert [view.table.item(row, 0).toolTip() for row in range(3)] == names


def test_plan_leads_to_the_form_of_its_task():
    task, entry = planned_task(PLAN)
    assert task.name == "segment"
    assert entry.title == "Mitochondria with a plan"
    assert entry.preset == {
        "source": "sample:vnc", "model": "synapse-vnc", "target": ["mitochondria"],
        "cascade": "/somewhere/brain.cascade.json",
    }  # fmt: skip
    _, entry = planned_task({**PLAN, "pays": False})
    assert (entry.title, entry.preset["cascade"]) == ("Mitochondria", "off")
    ranked = {"kind": "ranking", "name": "neurons-fib", "task": "segment", "parameters": {}}
    assert planned_task(ranked)[1].title == "Segment with neurons-fib"
    assert planned_task(ranked)[1].menu == ""
    with pytest.raises(UserError, match="no task"):
        planned_task({**PLAN, "task": "cook"})


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (0.12345, "0.1235"), ("a", "a"), (7, "7")])
def test_cell_text(value, text):
    assert cell_text(value) == text
