"""Packages that are damaged, unsafe or cannot be run: one line, and nothing is written."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from zoo_packages import (
    Files,
    foreign,
    graph,
    npy,
    put,
    said,
    unzipped,
    zipped,
)

from connectoscope.errors import UserError
from connectoscope.zoo.card import CARD
from connectoscope.zoo.imports import import_package


def file(name: str, data: bytes, *sums: str) -> Callable[[dict[str, Any], Files], None]:
    """Another file, with the checksum that it should have."""

    def change(rdf: dict[str, Any], files: Files) -> None:
        files[name] = data
        for place in (
            rdf["weights"]["onnx"],
            rdf["inputs"][0]["test_tensor"],
            rdf["outputs"][0]["test_tensor"],
        ):
            if place["source"] == name:
                place["sha256"] = hashlib.sha256(data).hexdigest()

    return change


def processing(kind: str, *asked: dict[str, Any]) -> Callable[[dict[str, Any], Files], None]:
    where = {"pre": "inputs", "post": "outputs"}[kind]
    return put(list(asked), where, 0, f"{kind}processing")


def outside() -> bytes:
    model = onnx.load_from_string(
        graph(helper.make_node("Mul", ["image", "k"], ["out"]), axes=5, k=np.ones(1))
    )
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model.SerializeToString()


def outside_a_constant() -> bytes:
    nodes = [helper.make_node("Mul", ["image", "k"], ["out"])]
    constant = helper.make_node("Constant", [], ["k"], value=helper.make_tensor("k", 1, [1], [1.0]))
    tensor = constant.attribute[0].t
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return graph(constant, *nodes, axes=5)


def outside_a_sparse_one() -> bytes:
    model = onnx.load_from_string(IDENTITY)
    values, indices = helper.make_tensor("s", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [0])
    indices.external_data.add(key="location", value="/etc/passwd")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return model.SerializeToString()


def custom() -> bytes:
    model = onnx.load_from_string(graph(helper.make_node("Evil", ["image"], ["out"], domain="evil"), axes=5))
    model.opset_import.append(helper.make_opsetid("evil", 1))
    return model.SerializeToString()


def flat(rdf: dict[str, Any], files: Files) -> None:
    """The output has no z."""
    axes = rdf["outputs"][0]["axes"]
    axes[:] = [a for a in axes if a.get("id") != "z"]


def huge(rdf: dict[str, Any], files: Files) -> None:
    """Voxels of more nanometres than there are numbers."""
    for kind in ("inputs", "outputs"):
        rdf[kind][0]["axes"][2] |= {"scale": 1e308, "unit": "micrometer"}


IDENTITY = graph(helper.make_node("Identity", ["image"], ["out"]), axes=5)
WEIGHTS = {"source": "model.onnx"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (put({"pytorch_state_dict": WEIGHTS}, "weights"), "weights as pytorch_state_dict; .* takes ONNX only"),
        (put({"torchscript": WEIGHTS, "keras_hdf5": WEIGHTS}, "weights"), "keras_hdf5, torchscript; .* ONNX only"),
        (put("0" * 64, "weights", "onnx", "sha256"), "its sha256 is not the one stated"),
        (put("../../secret.onnx", "weights", "onnx", "source"), "names a file outside itself"),
        (put("/etc/passwd", "weights", "onnx", "source"), "names a file outside itself"),
        (put("C:\\secret", "weights", "onnx", "source"), "names a file outside itself"),
        (put("https://a.org/w.onnx", "weights", "onnx", "source"), "refers to https://a.org"),
        (put("gone.onnx", "weights", "onnx", "source"), "has no gone.onnx"),
        (put(WEIGHTS, "weights", "onnx", "external_data"), "in a second file"),
        (file("model.onnx", b"\x80\x04pickle"), "not an ONNX file"),
        (file("model.onnx", outside()), "weights in a second file"),
        (file("model.onnx", outside_a_constant()), "weights in a second file"),
        (file("model.onnx", outside_a_sparse_one()), "weights in a second file"),
        (file("model.onnx", custom()), "operators of 'evil'"),
        (file("model.onnx", IDENTITY), "gives"),
        (file("test_input.npy", b"\x93NUMPY\x01\x00garbage"), "not an array of numbers"),
        (file("test_input.npy", b"\x80\x04."), "not an array of numbers"),
        (file("test_output.npy", npy(np.full((1, 2, 4, 4, 4), 3.0))), "only models that keep"),
        (flat, "input has axes bczyx, its output bcyx; only models that keep"),
        (file("test_input.npy", npy(np.zeros((1, 1, 0, 4, 4)))), "test tensor of 'image' is empty"),
        (file("test_input.npy", npy(np.full((1, 1, 4, 4, 4), np.nan))), "'image' holds values that are not numbers"),
        (file("test_output.npy", npy(np.full((1, 2, 4, 4, 4), np.inf))), "'probabilities' holds values that are not numbers"),
        (huge, "cannot be made a model: inputs.voxel_size.0: "),
        (put("0.4.10", "format_version"), "of format 0.4.10, connectoscope reads 0.5"),
        (put("dataset", "type"), "not the package of a model"),
        (put("many", "inputs"), "is damaged: inputs"),
        (put(None, "inputs", 0, "test_tensor"), "has no test tensors"),
        (put("time", "inputs", 0, "axes", 2, "type"), "has an axis z"),
        (put("x", "inputs", 0, "axes", 2, "id"), "has axes bcxyx"),
        (put({"min": 1, "max": 9}, "inputs", 0, "axes", 2, "size"), "how long the axis z"),
        (put(None, "inputs", 0, "axes", 2, "unit"), "states no voxel size; .*--voxel-size"),
        (put(2.0, "outputs", 0, "axes", 3, "scale"), "other voxels along y"),
        (processing("pre", {"id": "custom"}), "asks for 'custom' on 'image'"),
        (processing("pre", {"id": "binarize", "kwargs": {"threshold": 1}}), "asks for 'binarize'"),
        (processing("pre", {"id": "scale_range", "kwargs": {"axes": ["y", "x"]}}), "normalises each z"),
        (processing("pre", {"id": "scale_range", "kwargs": {"min_percentile": "a"}}), "not a single number"),
        (processing("pre", {"id": "scale_range", "kwargs": {"min_percentile": 99, "max_percentile": 1}}), "impossible way"),
        (processing("pre", {"id": "scale_linear", "kwargs": {"gain": [1, 2]}}), "not a single number"),
        (processing("pre"), "something else here than the package says"),
        (processing("post", {"id": "stardist_postprocessing"}), "asks for 'stardist_postprocessing'"),
        (processing("post", {"id": "sigmoid"}), "something else here than the package says"),
    ],
)  # fmt: skip
def test_refused_in_one_line(
    change: Callable[[dict[str, Any], Files], None], text: str, package: Path, models: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, out, err = said(capsys, "import", str(foreign(package, change)), "theirs")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(text, err), err
    assert [p.name for p in models.iterdir()] == ["small"]


def test_more_than_one_channel_or_tensor(package: Path, models: Path) -> None:
    def two(rdf: dict[str, Any], files: Files) -> None:
        image = np.load(io.BytesIO(files["test_input.npy"]))
        file("test_input.npy", npy(np.repeat(image, 2, 1)))(rdf, files)

    with pytest.raises(UserError, match="has 2 channels; only models of one channel"):
        import_package(foreign(package, two), models, "theirs")
    with pytest.raises(UserError, match=r"has 2 outputs \(probabilities, probabilities\)"):
        import_package(
            foreign(package, lambda rdf, _: rdf["outputs"].append(rdf["outputs"][0])), models, "theirs"
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
        ("type: model\na: &a [1]\nb: {<<: [{c: 1}, {d: 1}]}", "merges mappings"),
        ("[" * 400, "cannot be read"),
        ("type: model\nformat_version: 0.5.3\n", "is damaged"),
        ("- 1", "not the package of a model"),
        ("type: model\na: &a [1]\nb: [" + "*a, " * 17 + "]", "more than 16 aliases"),
        ("a" * (2**18 + 2), "larger than 256 KiB"),
    ],
)
def test_descriptions_that_are_none(text: str, message: str, models: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"rdf.yaml": text.encode()})
    with pytest.raises(UserError, match=message):
        import_package(path, models)
    assert not models.exists()


def test_a_zip_bomb_is_not_opened(package: Path, models: Path) -> None:
    bomb = foreign(package, lambda rdf, files: files.update({"model.onnx": bytes(65 * 2**20)}))
    with pytest.raises(UserError, match="zip bomb"):
        import_package(bomb, models, "theirs")


def test_ways_of_packing_that_know_no_bounds(package: Path, models: Path) -> None:
    files = unzipped(foreign(package))
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(package, "w") as strange:
            for name, data in files.items():
                strange.writestr(name, bytes(2**24) if name == "model.onnx" else data, kind)
        content = package.read_bytes()
        package.write_bytes(content.replace((2**24).to_bytes(4, "little"), (2**10).to_bytes(4, "little")))
        with pytest.raises(UserError, match="is not packed by deflate"):
            import_package(package, models, "theirs")


def test_packages_that_are_none(models: Path, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK not quite")
    (tmp_path / "empty").mkdir()
    half = zipped(tmp_path / "half.zip", {"rdf.yaml": b"type: model"}).read_bytes()[:-30]
    for name in ("half.zip", "w.pt", "w.onnx"):
        (tmp_path / name).write_bytes(half)
    for name, text in (
        ("a.zip", "neither a zip nor a folder"),
        ("half.zip", "is damaged: download it again"),
        ("w.pt", "pickled weights are never opened"),
        ("w.onnx", "does not say what its axes"),
        ("gone.zip", "there is no"),
        ("empty", "no rdf.yaml"),
    ):
        with pytest.raises(UserError, match=text):
            import_package(tmp_path / name, models)


def test_a_link_out_of_a_folder_is_not_followed(package: Path, models: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    folder = tmp_path / "linked"
    zipfile.ZipFile(foreign(package)).extractall(folder)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="names a file outside itself"):
        import_package(folder, models, "theirs")


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("weights.safetensors", b"other weights", "its sha256 is not the one stated"),
        (CARD, b"{}", "its sha256 is not the one stated"),
    ],
)
def test_our_own_when_damaged(name: str, data: bytes, text: str, package: Path, models: Path) -> None:
    damaged = zipped(package.with_name("damaged.zip"), {**unzipped(package), name: data})
    with pytest.raises(UserError, match=text):
        import_package(damaged, models, "theirs")
    assert [p.name for p in models.iterdir()] == ["small"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("export", "small", "a.zip"), "needs to know who made the model"),
        (("export", "small", "a.onnx", "--author", "me"), "names no authors"),
        (("show", "small", "--author", "me"), "--author belongs to 'models export'"),
        (("export", "small", "a.zip", "--voxel-size", "8nm"), "--voxel-size belongs to 'models import'"),
        (("import",), "use: connectoscope models import FILE.zip [NAME]"),
        (("import", "https://a.org/model.zip"), "download https://a.org/model.zip first"),
        (("import", "small.bioimage.zip", ""), "'' is not a valid model name"),
        (("import", "small.bioimage.zip", "synapse-vnc"), "comes with connectoscope; choose another name"),
        (("import", "small.bioimage.zip", "/proc/x/small"), "cannot make /proc/x/small"),
        (("import", "small.bioimage.zip"), "remove it first: connectoscope models remove small"),
        (("export", "xray2em-fib", "a.zip"), "makes EM from X-ray"),
    ],
)
def test_wrong_words(
    words: tuple[str, ...], text: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, err = said(capsys, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert text in err
    assert not list(tmp_path.glob("a.*"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models", "small.bioimage.zip"]
