"""Every task gives a form that holds its defaults, says what is wrong, and copies itself as a command."""

import shlex

import numpy as np
import pytest
import tifffile
from qtpy.QtWidgets import QToolButton
from showing import add_volume

from connectoscope.errors import UserError
from connectoscope.tasks.base import Parameters, Task, load_task, parameter, parameter_facts, task_names
from connectoscope.volumes import open_volume
from napari_connectoscope import fields, forms
from napari_connectoscope.forms import TaskForm, default_destination
from napari_connectoscope.sources import length_unit
from napari_connectoscope.wording import command_line, in_form_words


@pytest.fixture
def make_form(qtbot, monkeypatch):
    """Forms whose model cards are read at once."""

    def now(owner, function, then, failed=None):
        then(function())

    monkeypatch.setattr(forms, "background", now)

    def make(task, *args, **options):
        form = TaskForm(load_task(task) if isinstance(task, str) else task, *args, **options)
        qtbot.addWidget(form)
        return form

    return make


@pytest.mark.parametrize("name", task_names())
def test_form_holds_the_defaults_of_every_task(make_form, name):
    task = load_task(name)
    form = make_form(task)
    assert set(form.fields) == set(task.parameters.model_fields)
    for field_name, info in task.parameters.model_fields.items():
        if info.is_required() or field_name == task.destination:
            continue
        default = info.get_default(call_default_factory=True)
        value = form.values()[field_name]
        assert (tuple(value) if isinstance(value, list) else value) == default, field_name


@pytest.mark.parametrize("name", task_names())
def test_form_round_trips_through_the_parameters(make_form, name, tmp_path):
    task = load_task(name)
    form = make_form(task)
    required = [n for n, i in task.parameters.model_fields.items() if i.is_required()]
    for file in {"data", "recipe", "result", "truth"}.intersection(required):
        (tmp_path / file).touch()
    form.set_values({name: str(tmp_path / name) for name in required})
    form.set_values({"model": "synapse-vnc"})
    if "destination" in form.fields:
        form.set_values({"destination": str(tmp_path / "made") + task.ending(form.values())})
    if "name" in form.fields:
        form.set_values({"name": "x"})
    parameters = form.parameters()
    other = make_form(task)
    other.set_values(parameters.model_dump(mode="json"))
    assert other.parameters() == parameters
    for entry in task.menu:
        preset = make_form(task, None, entry.preset).values()
        assert all(
            (tuple(preset[k]) if isinstance(v, tuple) else preset[k]) == v for k, v in entry.preset.items()
        )


class Everything(Parameters):
    """One of each kind of parameter."""

    source: str = parameter(role="source", argument=True, help="A volume.")
    several: tuple[str, ...] = parameter((), help="Words.")
    rate: float = parameter(1e-4, gt=0, help="Small.", unit="1/s")
    steps: int = parameter(5_000_000_000, ge=0, help="Large.")
    count: int = parameter(3, ge=1, le=9, help="Bounded.", unit="sections")
    maybe: int | None = parameter(None, ge=1, le=255, advanced=True, help="Optional.")
    on: bool = parameter(True, help="On.")


EVERYTHING = Task(name="everything", summary="", parameters=Everything, run=lambda p, c: {})


def test_every_kind_of_value(make_form):
    form = make_form(EVERYTHING)
    form.set_values({"source": "a b.tif", "several": ("x", "y"), "maybe": 7, "on": False, "count": 4})
    assert form.values() == {
        "source": "a b.tif",
        "several": ["x", "y"],
        "rate": 1e-4,
        "steps": 5_000_000_000,
        "count": 4,
        "maybe": 7,
        "on": False,
    }
    assert shlex.split(form.as_command()) == [
        *("connectoscope", "everything", "a b.tif", "--several", "x", "--several", "y"),
        *("--count", "4", "--maybe", "7", "--no-on"),
    ]


def test_what_is_wrong_is_one_line_in_the_form(make_form):
    form = make_form(EVERYTHING)
    with pytest.raises(UserError, match="Source is empty"):
        form.parameters()
    form.set_values({"source": "a.tif", "maybe": 300})
    with pytest.raises(UserError, match=r"Maybe: .*255"):
        form.parameters()
    assert "255" in form.error_text
    form.fields["maybe"].set_value(30)
    assert form.error_text == ""
    assert form.parameters().maybe == 30


def test_changed_is_told(make_form, qtbot):
    form = make_form(EVERYTHING)
    for name, value in (("several", ["z"]), ("count", 5), ("on", False), ("rate", 0.5)):
        with qtbot.waitSignal(form.changed, timeout=500):
            form.set_values({name: value})


def test_targets_and_tooltips_come_from_the_card(make_form, small_model):
    form = make_form("segment", None, {"target": ("synapses",)})
    boxes = form.fields["target"].boxes
    assert list(boxes) == ["synapses", "membranes", "neurons"]
    assert boxes["membranes"].toolTip() == "membranes"
    assert form.values()["target"] == ["synapses"]
    assert "synapse-vnc" in form.fields["model"].names()
    assert form.values()["model"] == "synapse-vnc"


def test_targets_show_once_a_model_names_them(make_form, small_model):
    form = make_form("plan-cascade", None, {"detector": "cells"})
    assert form.fields["target"].isHidden()
    form.set_values({"model": "synapse-vnc"})
    assert not form.fields["target"].isHidden()


@pytest.mark.parametrize("name", task_names())
def test_every_path_can_be_chosen_in_a_dialog(make_form, name):
    form = make_form(name)
    for field_name, info in form.task.parameters.model_fields.items():
        if parameter_facts(info)["role"] not in ("plain", "model", "box", "voxel_size"):
            assert form.fields[field_name].findChildren(QToolButton), field_name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("correct the size with --voxel-size", "correct the size with Voxel size"),
        ("it has channels (choose with --channel)", "it has channels (choose with Channel)"),
        ("/data/brain--level.tif is no volume", "/data/brain--level.tif is no volume"),
        (
            "run connectoscope convert IN OUT --level 1, then --level",
            "run connectoscope convert IN OUT --level 1, then Level",
        ),
        (
            "try connectoscope info sample:vnc --level 1; then --level",
            "try connectoscope info sample:vnc --level 1; then Level",
        ),
        ("there is no --such-option", "there is no --such-option"),
    ],
)
def test_what_is_said_of_options_is_said_of_fields(text, said):
    assert in_form_words(text, load_task("segment")) == said


def test_what_is_visible_is_offered_where_a_layer_tells_it(make_form):
    assert not make_form("segment").fields["box"].button.isHidden()
    assert make_form("evaluate").fields["box"].button.isHidden()


def test_a_report_is_saved_not_opened(make_form, monkeypatch):
    field = make_form("prune").fields["report"]
    monkeypatch.setattr(fields.QFileDialog, "getSaveFileName", lambda *args, **options: ("page.html", ""))
    field.findChild(QToolButton).click()
    assert field.value() == "page.html"


def test_a_mask_is_chosen_like_a_volume(make_form):
    field = make_form("detect").fields["within"]
    assert isinstance(field, fields.PathField)
    assert field.value() is None
    field._take("tissue.ome.zarr")
    assert field.value() == "tissue.ome.zarr"


@pytest.mark.parametrize(
    ("task", "values", "said"),
    [
        ("prune", {"data": "no.toml"}, "Recipe: no.toml does not exist; check the name"),
        ("prune", {"model": "membrane-vcn"}, "there is no model 'membrane-vcn'; known: "),
        ("prune", {"destination": ""}, "New model is empty: a folder, or a bare name"),
        ("prune", {"destination": "my model"}, "New model: 'my model' is not a valid model name"),
        ("prune", {"destination": "membrane-vnc"}, "New model: a model 'membrane-vnc' comes with"),
        ("prune", {"report": "x.pdf"}, "Report: x.pdf: the report is a page; name it NAME.html"),
        ("adapt train", {"patches": "no.json", "labels": "."}, "Patches: no.json does not exist"),
        ("adapt train", {"labels": "."}, "Patches and Labels go together; without both"),
        ("adapt suggest", {"patch": "12x12"}, "Patch: '12x12' is not z,y,x in whole voxels"),
        ("segment", {"cascade": "no.cascade.json"}, "Cascade: no.cascade.json does not exist"),
        ("simulate-xray", {"voxel_size": "30"}, "Voxel size: '30' is not a length with a unit"),
        ("convert", {"destination": "a.n5", "version": "0.4"}, "Version is for OME-Zarr, and a.n5 is N5"),
        ("segment", {"box": "0:9"}, "box '0:9' is not z0:z1,y0:y1,x0:x1"),
        ("prune", {"data": "x" * 300}, "Recipe: xxx"),
        ("prune", {"model": "m" * 300}, "there is no model"),
    ],
)
def test_what_is_wrong_is_told_of_its_field(make_form, monkeypatch, tmp_path, qtbot, task, values, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").touch()
    form = make_form(task)
    form.show()
    form.set_values({"source": "a.tif", "on": "a.tif", "model": "synapse-vnc", "data": "r.toml"})
    made = "new" if form.label("destination") == "New model" else "a" + form.task.ending({})
    form.set_values({"destination": made})
    form.set_values(values)
    with pytest.raises(UserError):
        form.submission()
    assert form.error_text.startswith(said)
    if len(values) == 1 and "labels" not in values:
        line = form.fields[next(iter(values))]
        qtbot.waitUntil(lambda: line.isVisible() and form.focusWidget() is line.focusProxy())


@pytest.mark.parametrize("name", ["Mouse 1 (left).ome.zarr", "脑.tif", "–" * 9 + "x" * 200 + ".tif", "_.tif"])
def test_the_model_name_that_is_proposed_is_one(make_form, tmp_path, name):
    form = make_form("adapt train")
    form.set_values({"on": str(tmp_path / name), "model": "membrane-vnc"})
    assert form.parameters().destination.startswith("membrane-vnc-")


def test_layers_are_sources_and_bring_their_channel(make_form, viewer, volume_path):
    layer = add_volume(viewer, open_volume(volume_path))
    layer.metadata["connectoscope"]["channel"] = "1"
    form = make_form("segment", viewer)
    assert form.layer() is layer
    assert form.values()["source"] == str(volume_path)
    assert form.values()["channel"] == "1"
    assert form.values()["destination"] == str(volume_path.parent / "cell-segment.ome.zarr")
    form.set_values({"target": ("synapses",)})
    assert form.values()["destination"] == str(volume_path.parent / "cell-synapses.ome.zarr")
    form.set_values({"destination": str(volume_path.parent / "mine.ome.zarr"), "target": ("mitochondria",)})
    assert form.values()["destination"] == str(volume_path.parent / "mine.ome.zarr")
    viewer.layers.clear()
    assert form.layer() is None


def test_layer_in_memory_has_no_command(make_form, viewer, pixels, tmp_path):
    viewer.add_image(pixels, name="new")
    form = make_form("segment", viewer)
    assert form.values()["source"] == "layer:new"
    with pytest.raises(UserError, match="save it as OME-Zarr first"):
        form.as_command()
    with pytest.raises(UserError, match="does not state its voxel size"):
        form.submission()
    form.set_values({"voxel_size": "40,4,4nm"})
    assert form.submission().spilled_bytes == pixels.size


def test_visible_box_goes_into_the_form(make_form, viewer, pixels):
    viewer.canvas.size = (400, 400)
    layer = viewer.add_image(pixels, scale=(40, 4, 4), units=("nm",) * 3)
    form = make_form("segment", viewer)
    viewer.scene.camera.center = tuple(layer.data_to_world((0, 48, 40)))
    viewer.scene.camera.zoom = 400 / (20 * 4)  # 20 voxels fill the canvas
    form.fields["box"].button.click()
    assert form.values()["box"] == "0:12,38:59,30:51"


def test_default_destinations(tmp_path, monkeypatch):
    documents = tmp_path / "documents"
    documents.mkdir()
    monkeypatch.setattr(forms.platformdirs, "user_documents_path", lambda: documents)
    beside = default_destination(str(tmp_path / "a.ome.tif"), "synapses")
    assert beside == str(tmp_path / "a-synapses.ome.zarr")
    assert default_destination("sample:vnc", "synapses") == str(documents / "vnc-synapses.ome.zarr")
    assert default_destination("https://x.org/d/e.ome.zarr/", "x") == str(documents / "e-x.ome.zarr")
    assert default_destination(str(tmp_path / "f.h5") + "::/raw", "x") == str(tmp_path / "f-x.ome.zarr")
    assert default_destination("layer:same [1]", "x") == str(documents / "same_1-x.ome.zarr")
    assert default_destination("layer:a/b: c", "x") == str(documents / "b_ c-x.ome.zarr".replace(" ", "_"))


def test_command_line_leaves_defaults_away():
    segment = load_task("segment")
    values = {"source": "s", "destination": "d.ome.zarr", "model": "synapse-vnc", "exact": True}
    assert command_line(segment, values) == "connectoscope segment s d.ome.zarr --exact"


def test_a_destination_is_named_by_what_is_made(make_form, tmp_path):
    plan = make_form(
        "plan-cascade", None, {"source": str(tmp_path / "brain.ome.zarr"), "target": ("synapses",)}
    )
    assert plan.values()["destination"] == str(tmp_path / "brain-synapses.cascade.json")
    plan.set_values({"target": ("synapses", "mitochondria")})
    assert plan.values()["destination"] == str(tmp_path / "brain-plan-cascade.cascade.json")
    plan.set_values({"model": None})
    assert plan.values()["model"] is None
    detect = make_form("detect", None, {"source": str(tmp_path / "brain.ome.zarr")})
    assert detect.values()["destination"] == str(tmp_path / "brain-cells.csv")
    detect.set_values({"detector": "tissue"})
    assert detect.values()["destination"] == str(tmp_path / "brain-tissue.ome.zarr")


def test_cascade_is_off_auto_or_a_plan(make_form, tmp_path, monkeypatch):
    form = make_form("segment")
    field = form.fields["cascade"]
    assert [field.combo.itemText(i) for i in range(field.combo.count())] == ["off", "auto"]
    assert field.value() == "off"
    monkeypatch.setattr(fields.QFileDialog, "getOpenFileName", lambda *_: ("/x.cascade.json", ""))
    field._ask()
    assert form.values()["cascade"] == "/x.cascade.json"


def test_a_source_follows_its_layer(make_form, viewer, volume_path, pixels):
    layer = add_volume(viewer, open_volume(volume_path))
    form = make_form("segment", viewer)
    layer.name = "brain"
    assert form.layer() is layer
    assert form.values()["source"] == str(volume_path)
    other = viewer.add_image(pixels, name="other")
    viewer.layers.remove(layer)
    assert form.layer() is other
    viewer.layers.selection.active = viewer.add_image(pixels, name="third")
    assert form.values()["source"] == "layer:third"
    form.set_values({"source": "/data/elsewhere.tif"})  # typed: no layer's coming and going changes it
    viewer.layers.remove("third")
    other.name = "renamed"
    assert form.values()["source"] == "/data/elsewhere.tif"


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ("nonsense", "z0:z1,y0:y1,x0:x1"),
        ("0:900,0:64,0:64", "box 0:900,0:64,0:64 is not inside layer 'cell', which is 0:12,0:96,0:80"),
    ],
)
def test_a_box_that_cannot_be_is_told_in_the_form(make_form, viewer, volume_path, box, said):
    add_volume(viewer, open_volume(volume_path))
    form = make_form("segment", viewer, {"model": "synapse-vnc", "box": box})
    with pytest.raises(UserError, match=said):
        form.submission()
    assert form.error_text
    form.set_values({"box": "0:12,0:64,0:64"})
    form.submission()


def test_a_layer_that_was_moved_from_its_file_is_refused(make_form, viewer, volume_path):
    layer = add_volume(viewer, open_volume(volume_path))
    form = make_form("segment", viewer, {"model": "synapse-vnc"})
    moved = np.eye(4)
    moved[1, 3] = 5000
    for name, value in (("affine", moved), ("rotate", (0, 0, 30)), ("scale", (40, 8, 8))):
        before = getattr(layer, name)
        setattr(layer, name, value)
        for ask in (form.submission, form.as_command):
            with pytest.raises(UserError, match=r"'cell' was moved, .*: reset its transform"):
                ask()
        assert form.error_text
        setattr(layer, name, before)
    layer.scale, layer.translate, layer.units = (0.04, 0.004, 0.004), (0.4, 0.04, 0.02), ("um",) * 3
    assert form.submission().image is None  # the same place in another unit


def test_a_long_name_does_not_widen_the_form(make_form, viewer, pixels):
    narrow = make_form("segment", viewer).minimumSizeHint().width()
    viewer.add_image(pixels, name="x" * 170)
    assert make_form("segment", viewer).minimumSizeHint().width() <= narrow + 20


@pytest.mark.parametrize("file", [True, False])
def test_the_voxel_size_that_is_given_is_the_layers(make_form, viewer, pixels, tmp_path, file):
    if file:
        tifffile.imwrite(tmp_path / "plain.tif", pixels, photometric="minisblack")
        layer = add_volume(viewer, open_volume(tmp_path / "plain.tif"))
    else:
        layer = viewer.add_image(pixels, name="plain")
    form = make_form("segment", viewer, {"model": "synapse-vnc"})
    with pytest.raises(UserError, match="'plain' does not state its voxel size"):
        form.submission()
    form.set_values({"voxel_size": "47.5 nm of something"})
    with pytest.raises(UserError, match="is not z,y,x with a unit"):
        form.submission()
    assert "is not z,y,x with a unit" in form.error_text
    form.set_values({"voxel_size": "40,4,4nm"})
    assert length_unit(layer) is None
    assert (form.submission().image is None) == file
    assert (length_unit(layer), tuple(layer.scale)) == ("nanometer", (40, 4, 4))
    assert make_form("segment", viewer).submission()  # it is known from now on
    # What was typed for this one does not resize the next one.
    other = viewer.add_image(pixels, name="other", scale=(50, 5, 5), units=("nm",) * 3)
    form.fields["source"].combo.setCurrentText("other")
    form.submission()
    assert tuple(other.scale) == (50, 5, 5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"level": 7}, "'cell' has no level 7; its levels are 0 to 1"),
        ({"channel": "9"}, "'cell' has no channel '9'; it has none: leave Channel empty"),
        ({"time": 77}, "'cell' has no time point 77; it has 1"),
        ({"within": "/nowhere.ome.zarr"}, "Within mask: /nowhere.ome.zarr does not exist"),
        ({"voxel_size": "abc"}, "'abc' is not z,y,x with a unit"),
    ],
)
def test_what_the_file_has_not_is_told_in_the_form(make_form, viewer, volume_path, values, said):
    add_volume(viewer, open_volume(volume_path))
    form = make_form("detect", viewer)
    form.set_values({"level": 1, "channel": "0", "time": 0})
    form.submission()
    form.set_values(values)
    with pytest.raises(UserError, match=said):
        form.submission()
    assert form.error_text


@pytest.mark.parametrize(("detector", "name"), [("cells", "x.txt"), ("cells", ""), ("tissue", "x.csv")])
def test_a_destination_of_another_kind_is_told_in_the_form(make_form, tmp_path, detector, name):
    form = make_form("detect", None, {"source": "a.tif", "detector": detector})
    form.set_values({"destination": str(tmp_path / name)})
    with pytest.raises(
        UserError, match=r"name the file x.csv|is a folder: name a file in it|name it x.ome.zarr"
    ):
        form.submission()
    assert form.error_text


def test_no_layer_no_proposed_destination(make_form, viewer, pixels, tmp_path):
    layer = viewer.add_image(pixels, name="mine")
    form = make_form("segment", viewer)
    assert "mine-segment" in form.values()["destination"]
    viewer.layers.remove(layer)
    assert form.values()["destination"] == ""
    form.set_values({"destination": str(tmp_path / "by-hand.ome.zarr")})
    viewer.layers.remove(viewer.add_image(pixels))
    assert form.values()["destination"] == str(tmp_path / "by-hand.ome.zarr")


def test_why_a_layer_is_no_source(make_form, viewer, pixels, small_model):
    form = make_form("segment", viewer, {"model": "synapse-vnc"})
    viewer.add_image(np.stack([pixels] * 3, axis=-1), rgb=True, name="photo")
    with pytest.raises(UserError, match="'photo' is a colour image"):
        form.submission()
    viewer.add_labels(pixels, name="cells")
    with pytest.raises(UserError, match="'cells' is labels"):
        form.submission()
    form.set_values({"source": "a.tif", "model": ""})
    with pytest.raises(UserError, match=r"Model is empty: choose one \(.*synapse-vnc"):
        form.submission()


@pytest.mark.parametrize("colour", ["#ff0000", "#00ff00"])
def test_the_arrow_has_the_colour_of_the_text(make_form, colour):
    form = make_form("segment")
    form.setStyleSheet(f"QPushButton {{ color: {colour} }}")
    form.show()
    for icon in (form._advanced.collapsedIcon(), form._advanced.expandedIcon()):
        image = icon.pixmap(16).toImage()
        dots = [image.pixelColor(x, y) for x in range(image.width()) for y in range(image.height())]
        assert {dot.name() for dot in dots if dot.alpha() > 128} == {colour}
