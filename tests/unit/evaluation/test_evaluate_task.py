"""``evaluate`` by its command: grids that differ, boxes, instances, and what cannot be scored."""

from __future__ import annotations

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import label
from skimage.metrics import adapted_rand_error, variation_of_information
from sklearn.metrics import average_precision_score

from connectoscope.cli import main
from connectoscope.volumes import ImageSpec, create_image, set_attributes

NM = "nanometer"


def write(
    path: Path,
    data: NDArray[np.generic],
    scale: tuple[float, float, float] = (40.0, 4.0, 4.0),
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0),
    channels: tuple[str, ...] = (),
    unit: str | None = NM,
) -> Path:
    spec = ImageSpec(data.shape[-3:], data.dtype, scale, translation, unit, (8, 16, 16), channels)
    create_image(path, spec)[0].write(data).result()
    return path


@pytest.fixture
def made(tmp_path: Path) -> dict[str, NDArray[np.generic]]:
    """A truth of discs and a result as ``segment`` leaves it, noisy."""
    rng = np.random.default_rng(0)
    truth = np.zeros((6, 40, 48), np.uint8)
    truth[1:4, 5:12, 5:12] = 1
    truth[2:6, 20:30, 30:44] = 1
    truth[0:2, 30:36, 4:9] = 1
    score = np.clip(rng.normal(60 + 130 * truth, 40), 0, 255).astype(np.uint8)
    labels = np.zeros_like(truth)
    labels[1:4, 6:12, 5:11] = 1
    labels[2:6, 20:30, 30:44] = 2
    labels[5, 0:3, 40:44] = 3  # found in vain
    write(tmp_path / "truth.zarr", truth)
    root = write(tmp_path / "result.zarr", np.stack((score, 255 - score)), channels=("synapses", "boundary"))
    outputs = [{"name": n, "instances": n != "boundary", "threshold": 128} for n in ("synapses", "boundary")]
    set_attributes(root, outputs=outputs)
    write(root / "labels" / "synapses", labels)
    return {"truth": truth, "score": score, "labels": labels}


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``connectoscope evaluate WORDS``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["connectoscope", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0), *capsys.readouterr()


def evaluate(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    code, out, err = command(capsys, *words, "--json")
    assert code == 0, err
    result: dict[str, object] = json.loads(out)
    return result


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code, out, err = command(capsys, *words)
    assert code == 2, (out, err)
    assert len(err.strip().splitlines()) == 1
    return err


def test_voxels_and_objects(made, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    found = evaluate(capsys, tmp_path / "result.zarr", tmp_path / "truth.zarr", "--target", "synapses")
    truth, labels = made["truth"] > 0, made["labels"] > 0
    expected = average_precision_score(truth.ravel(), made["score"].ravel())
    assert found["average_precision"] == pytest.approx(expected, abs=1e-12)
    assert (found["object_tp"], found["object_fp"], found["object_fn"]) == (2, 1, 1)
    assert found["precision"] == pytest.approx((truth & labels).sum() / labels.sum())
    assert found["recall"] == pytest.approx((truth & labels).sum() / truth.sum())
    assert found["vi"] is None
    of_two = made["truth"] * (1 + (np.arange(48) > 20)).astype(np.uint8)  # the same voxels
    write(tmp_path / "named.zarr", of_two)
    named = evaluate(capsys, tmp_path / "result.zarr", tmp_path / "named.zarr", "--target", "synapses")
    assert named["vi"] is not None
    for key in ("average_precision", "best_f1", "f1", "precision", "recall"):
        assert named[key] == found[key]
    box = "1:4,0:20,0:20"
    found = evaluate(
        capsys, tmp_path / "result.zarr", tmp_path / "truth.zarr", "--target", "synapses", "--box", box
    )
    cut = (slice(1, 4), slice(0, 20), slice(0, 20))
    expected = average_precision_score(truth[cut].ravel(), made["score"][cut].ravel())
    assert found["average_precision"] == pytest.approx(expected, abs=1e-12)
    assert (found["object_tp"], found["object_fp"], found["object_fn"]) == (1, 0, 0)


def test_a_mask_as_result_is_made_of_objects_like_the_truth(made, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    for value in (1, 65535):
        write(tmp_path / f"mask{value}.zarr", (made["truth"] * np.uint16(value)).astype(np.uint16))
        found = evaluate(capsys, tmp_path / f"mask{value}.zarr", tmp_path / "truth.zarr")
        assert (found["object_tp"], found["object_fp"], found["object_fn"]) == (3, 0, 0)


def test_labels_of_ours_are_numbered(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    branches = np.zeros((4, 20, 40), np.uint8)
    branches[:, 2:9, 2:30] = branches[:, 12:19, 2:9] = 1
    write(tmp_path / "truth.zarr", branches * 7)
    write(tmp_path / "found.zarr", branches)
    assert evaluate(capsys, tmp_path / "found.zarr", tmp_path / "truth.zarr")["object_fp"] == 1
    set_attributes(tmp_path / "found.zarr", objects=1)
    assert evaluate(capsys, tmp_path / "found.zarr", tmp_path / "truth.zarr")["object_fp"] == 0


def test_one_object_in_a_box_is_no_mask(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    neurons = np.zeros((4, 20, 40), np.uint16)
    neurons[:, 2:9, 2:30] = neurons[:, 12:19, 2:9] = 7  # in two pieces
    neurons[:, 12:19, 30:38] = 9
    write(tmp_path / "neurons.zarr", neurons)
    for box in ((), ("--box", "0:4,0:20,0:29")):
        found = evaluate(capsys, tmp_path / "neurons.zarr", tmp_path / "neurons.zarr", *box)
        assert (found["object_fp"], found["object_fn"]) == (0, 0)
        assert found["vi"] is not None


def test_labels_of_bigdataviewer_are_no_points(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.xml").write_text("<?xml version='1.0'?><SpimData version='0.2'></SpimData>")
    assert "names no HDF5 file" in refused(capsys, tmp_path / "a.xml", tmp_path / "a.xml")


def test_what_is_ignored_of_a_shift_is_told(made, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    for part, told in ((0.5, False), (0.9, True)):
        path = write(tmp_path / f"moved{part}.zarr", made["truth"], translation=(40.0 * part, 0.0, 0.0))
        found = evaluate(capsys, path, tmp_path / "truth.zarr")
        assert found["f1"] == 1
        assert any("shifted against each other by 0.9 voxels" in text for text in found["warnings"]) is told


@pytest.mark.parametrize("axis", range(3))
def test_a_line_of_voxels_is_scored(tmp_path, capsys, axis: int) -> None:  # type: ignore[no-untyped-def]
    shape = [1, 1, 1]
    shape[axis] = 64
    np.save(tmp_path / "mask.npy", (np.arange(64) % 2).astype(np.uint8).reshape(shape))
    np.save(tmp_path / "found.npy", np.repeat(np.arange(32), 2).astype(np.uint8).reshape(shape))
    found = evaluate(capsys, tmp_path / "found.npy", tmp_path / "mask.npy")
    assert found["object_tp"] == 31


def test_a_coarser_result_is_interpolated_on_the_truths_grid(made, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    coarse = made["truth"].reshape(6, 20, 2, 24, 2).max((2, 4))
    root = write(
        tmp_path / "coarse.zarr",
        (255 * coarse).astype(np.uint8)[None],
        (40.0, 8.0, 8.0),
        (0.0, 2.0, 2.0),
        ("synapses",),
    )
    set_attributes(root, outputs=[{"name": "synapses", "instances": True, "threshold": 128}])
    write(root / "labels" / "synapses", coarse, (40.0, 8.0, 8.0), (0.0, 2.0, 2.0))
    found = evaluate(capsys, root, tmp_path / "truth.zarr")
    # half-voxel translation: coarse voxel k covers fine voxels 2k and 2k + 1, exactly
    nearest = coarse.repeat(2, 1).repeat(2, 2) > 0
    truth = made["truth"] > 0
    assert found["precision"] == pytest.approx((nearest & truth).sum() / nearest.sum())
    assert found["recall"] == 1.0
    assert found["best_f1"] > 0.9  # type: ignore[operator]
    shifted = write(tmp_path / "shifted.zarr", made["labels"], translation=(80.0, 0.0, 0.0))
    found = evaluate(capsys, shifted, tmp_path / "truth.zarr")
    assert found["box"] == "2:6,0:40,0:48"


def test_instances(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    truth = np.repeat(np.repeat(np.arange(1, 25, dtype=np.uint16).reshape(1, 4, 6), 12, 1), 12, 2).repeat(
        4, 0
    )
    result = truth.copy()
    result[result == 3] = 4
    result[:, :6, :12] = 99
    noise = rng.random(truth.shape) < 0.02
    result[noise] = 7
    write(tmp_path / "truth.zarr", truth)
    write(tmp_path / "result.zarr", result)
    found = evaluate(capsys, tmp_path / "result.zarr", tmp_path / "truth.zarr")
    split, merge = variation_of_information(truth, result)
    assert (found["vi_split"], found["vi_merge"]) == pytest.approx((split, merge), abs=1e-9)
    assert found["arand"] == pytest.approx(adapted_rand_error(truth, result, ignore_labels=())[0], abs=1e-9)
    assert found["average_precision"] is None
    strict = evaluate(capsys, tmp_path / "result.zarr", tmp_path / "truth.zarr", "--matching", "iou0.3")
    assert strict["object_tp"] <= found["object_tp"]  # type: ignore[operator]


def test_what_cannot_be_scored(made, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    result, truth = tmp_path / "result.zarr", tmp_path / "truth.zarr"
    assert "say which one with --target" in refused(capsys, result, truth)
    assert "has no target 'cells'; it has synapses" in refused(capsys, result, truth, "--target", "cells")
    assert "outside" in refused(capsys, result, truth, "--target", "synapses", "--box", "0:9,0:9,0:9")
    assert "does not exist" in refused(capsys, result, tmp_path / "gone.zarr", "--target", "synapses")
    far = write(tmp_path / "far.zarr", made["truth"], translation=(0.0, 9000.0, 0.0))
    assert "do not overlap" in refused(capsys, result, far, "--target", "synapses")
    bare = write(tmp_path / "bare.zarr", made["truth"][:3], (1.0, 1.0, 1.0), unit=None)
    assert "--voxel-size" in refused(capsys, result, bare, "--target", "synapses")
    image = write(tmp_path / "float.zarr", made["score"].astype(np.float32))
    assert "float32" in refused(capsys, image, truth)
    for value in (np.nan, np.inf, 0.5):
        holed = write(tmp_path / f"{value}.zarr", np.full((6, 40, 48), value, np.float32))
        assert "not whole numbers" in refused(capsys, result, holed, "--target", "synapses")
    image = write(tmp_path / "image.zarr", made["score"])
    assert "looks like an image" in refused(capsys, image, truth)
    assert "looks like an image" in refused(capsys, result, image, "--target", "synapses")
    assert f"{result}/labels/synapses" in refused(capsys, truth, result)
    assert evaluate(capsys, result, result / "labels" / "synapses", "--target", "synapses")["object_f1"] == 1
    set_attributes(result, finished=False)
    assert "unfinished" in refused(capsys, result, truth, "--target", "synapses")


def test_membranes_are_not_scored_against_neurons(made, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "neurons.zarr", label(made["truth"]).astype(np.uint16))
    says = refused(capsys, tmp_path / "result.zarr", tmp_path / "neurons.zarr", "--target", "membranes")
    assert "give a mask as truth, or another --target" in says
    scored = evaluate(capsys, tmp_path / "result.zarr", tmp_path / "neurons.zarr", "--target", "synapses")
    assert scored["average_precision"] is not None


def test_a_result_on_a_server_is_scored_as_the_local_one(made, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    words = (tmp_path / "truth.zarr", "--target", "synapses")
    expected = evaluate(capsys, tmp_path / "result.zarr", *words)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        found = evaluate(capsys, f"http://127.0.0.1:{server.server_port}/result.zarr", *words)
        server.shutdown()
    measured = {"seconds", "peak_memory_mb"}
    assert {k: v for k, v in found.items() if k not in measured} == {
        k: v for k, v in expected.items() if k not in measured
    }


def test_what_was_assumed_of_the_volumes_is_said(made, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    two = write(tmp_path / "two.zarr", np.stack((made["labels"],) * 2), channels=("first", "second"))
    found = evaluate(capsys, two, tmp_path / "truth.zarr")
    assert found["warnings"][0].endswith("'first' is taken")  # type: ignore[index]


@pytest.mark.parametrize(("kind", "nothing"), [("u8", 2**64 - 1), ("u8", 2**64 - 3), ("i4", -1)])
def test_values_that_say_nothing_here_are_background(made, tmp_path, capsys, kind, nothing) -> None:  # type: ignore[no-untyped-def]
    own = label(made["truth"] > 0).astype(kind)
    cremi = np.where(own == 0, np.array(nothing, kind), own)
    with h5py.File(tmp_path / "cremi.h5", "w") as file:
        file["plain"], file["clefts"] = own, cremi
        for name in ("plain", "clefts"):
            file[name].attrs["resolution"] = (40.0, 4.0, 4.0)
    scores = [
        evaluate(capsys, tmp_path / "result.zarr", f"{tmp_path}/cremi.h5::/{name}", "--target", "synapses")
        for name in ("plain", "clefts")
    ]
    warned = [" ".join(score.pop("warnings")) for score in scores]
    assert ["CREMI" in text for text in warned] == [False, True]
    same = [{k: v for k, v in score.items() if k not in ("seconds", "peak_memory_mb")} for score in scores]
    assert same[0] == same[1]
    assert same[0]["object_tp"] == 2


CELLS = "id,z,y,x,unit,radius,score\n1,10,20,30,micrometer,7,4\n2,50,20,30,micrometer,7,4\n3,50,90,90,micrometer,7,4\n"
XML = """<CellCounter_Marker_File><Marker_Data>
<Marker_Type><Type>1</Type><Marker><MarkerX>0</MarkerX><MarkerY>0</MarkerY><MarkerZ>0</MarkerZ></Marker></Marker_Type>
<Marker_Type><Type>2</Type><Marker><MarkerX>15</MarkerX><MarkerY>10</MarkerY><MarkerZ>2</MarkerZ></Marker>
<Marker><MarkerX>15</MarkerX><MarkerY>10</MarkerY><MarkerZ>20</MarkerZ></Marker></Marker_Type>
</Marker_Data></CellCounter_Marker_File>"""


@pytest.mark.parametrize(
    ("name", "truth", "words", "counts", "matching"),
    [
        ("t.csv", "z,y,x,unit\n10000,20000,36000,nm\n62000,20000,30000,nm\n", [], (1, 2, 1), "within 7 µm"),
        ("t.csv", "z,y,x,unit\n10,20,36,um\n62,20,30,um\n", ["--within", "12um"], (2, 1, 0), "within 12 µm"),
        ("t.csv", "\ufeffz, y, x\n2,10,15\n", ["--voxel-size", "5,2,2um"], (1, 2, 0), "within 7 µm"),
        ("t.csv", "z,y,x,unit\n2,10,15,pixel\n", ["--voxel-size", "5,2,2um"], (1, 2, 0), "within 7 µm"),
        ("t.xml", XML, ["--voxel-size", "5,2,2um"], (1, 2, 1), "within 7 µm"),
        ("t.csv", "z,y,x,unit\n10,20,30,um\n", ["--voxel-size", "5,2,2um", "--box", "2:3,0:99,0:99"],
         (1, 0, 0), "within 7 µm"),
        ("t.csv", "z,y,x,unit\n", [], (0, 3, 0), "within 7 µm"),
        ("t.csv", "z,y,x,unit\n17,20,30,um\n50,20,37,um\n", [], (2, 1, 0), "within 7 µm"),  # just so far away
    ],
)  # fmt: skip
def test_points_are_scored_one_to_one(tmp_path, capsys, name, truth, words, counts, matching):
    (tmp_path / "found.csv").write_text(CELLS)
    (tmp_path / name).write_text(truth)
    got = evaluate(capsys, tmp_path / "found.csv", tmp_path / name, *words)
    tp, fp, fn = counts
    assert (got["object_tp"], got["object_fp"], got["object_fn"]) == counts
    assert (got["object_f1"], got["matching"]) == (pytest.approx(2 * tp / (2 * tp + fp + fn)), matching)
    assert (got["precision"], got["recall"]) == (
        tp / (tp + fp) if tp + fp else None,
        tp / (tp + fn) if tp + fn else None,
    )
    assert got["average_precision"] is None
    assert ("voxel indices" in str(got["warnings"])) == ("unit" not in truth or "pixel" in truth)


def test_where_no_cell_was_found_all_are_missed(tmp_path, capsys):
    (tmp_path / "found.csv").write_text(CELLS.splitlines()[0] + "\n")
    (tmp_path / "truth.csv").write_text(CELLS)
    got = evaluate(capsys, tmp_path / "found.csv", tmp_path / "truth.csv")
    assert (got["recall"], got["object_fn"], got["matching"]) == (0, 3, "within 0 nm")


@pytest.mark.parametrize(
    ("found", "truth", "words", "says"),
    [
        (CELLS, "z,y,x\n1,2,3\n", [], "give the voxel size, for example --voxel-size"),
        (
            CELLS,
            "z,y,x,unit\n1,2,3,um\n",
            ["--box", "0:1,0:1,0:1"],
            "give the voxel size, for example --voxel-size",
        ),
        ("z,y,x,unit\n1,2,3,um\n", CELLS, [], "for example --within 10um"),
        (CELLS, CELLS, ["--within", "10"], "'10' is not a length with a unit"),
        (CELLS, CELLS, ["--within", "1,2,3um"], "more than one length"),
        (CELLS, CELLS, ["--target", "synapses"], "are for volumes"),
        (CELLS, "z,y,x,unit\n1,2,3,furlong\n", [], "'furlong', which is not a known unit of length"),
        (CELLS, "z,y,x,unit\n1,2\n", [], "a row is too short"),
        (CELLS, "z,y,x,unit\n1,2,nan,um\n", [], "a position is not a number"),
        (CELLS, "z,y,x,unit\n1e306,2,3,um\n", [], "absurdly large"),
        (CELLS, "index,axis-0\n1,2\n", [], "a column is missing"),
    ],
)
def test_points_that_cannot_be_scored_say_why(tmp_path, capsys, found, truth, words, says):
    (tmp_path / "found.csv").write_text(found)
    (tmp_path / "truth.csv").write_text(truth)
    assert says in refused(capsys, tmp_path / "found.csv", tmp_path / "truth.csv", *words)


def test_points_and_volumes_are_not_mixed(made, tmp_path, capsys):
    (tmp_path / "found.csv").write_text(CELLS)
    (tmp_path / "bad.xml").write_text("<a")
    (tmp_path / "none.xml").write_text("<a/>")
    (tmp_path / "code.xml").write_text('<?xml version="1.0" encoding="foo"?><a/>')
    (tmp_path / "huge.xml").write_text(XML.replace("20", "9" * 400))
    for words, says in (
        ((tmp_path / "found.csv", tmp_path / "truth.zarr"), "points are scored against points"),
        ((tmp_path / "result.zarr", tmp_path / "truth.zarr", "--within", "1um"), "--within is for points"),
        ((tmp_path / "found.csv", tmp_path / "bad.xml"), "not a file of markers"),
        ((tmp_path / "found.csv", tmp_path / "code.xml"), "unknown encoding"),
        ((tmp_path / "found.csv", tmp_path / "huge.xml"), "not a file of markers"),
        ((tmp_path / "found.csv", tmp_path / "none.xml"), "holds no markers of type 2"),
        ((tmp_path / "found.csv", tmp_path / "absent.csv"), "absent.csv"),
    ):
        assert says in refused(capsys, *words)
