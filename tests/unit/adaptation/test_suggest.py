"""Chosen patches do not overlap, follow their rule, and depend on the seed alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from made_domains import save, tissue

from connectoscope import cli
from connectoscope.adaptation.labelling import Labelling
from connectoscope.adaptation.patches import ENTROPY, candidates, choose, read_patches
from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks.adapt.suggest import AdaptSuggest, run
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box, parse_box

RULES = ["median-mean", "top-median", "random", "highest", "k-centre"]


def suggest(target, name="out.json", **more):
    asked = {"model": "cells", "n": 4, "patch": "4,40,40"} | more
    parameters = AdaptSuggest(source=str(target / "raw.ome.tif"), destination=str(target / name), **asked)
    context = Context.local(target / f"{name}.job", threads=1)
    run(parameters, context)
    context.flush_progress()  # as the end of a real run does
    return read_patches(target / name)


@pytest.mark.parametrize("rule", RULES)
def test_patches_are_apart_and_the_same_again(target, rule):
    found = suggest(target, rule=rule)
    boxes = [p.voxels for p in found.patches]
    assert len(boxes) == 4
    for index, box in enumerate(boxes):
        assert box.shape == (4, 40, 40)
        assert Box.of((8, 160, 160)).contains(box)
        assert not any(box.intersection(other).size for other in boxes[:index])
    assert suggest(target, "again.json", rule=rule).patches == found.patches
    world = found.patches[0].world
    assert world["start"][1] == (boxes[0].start[1] - 0.5) * 8
    assert world["stop"][0] == (boxes[0].stop[0] - 0.5) * 40
    assert found.rule == rule


def test_both_readings_of_median_uncertainty():
    mean = np.array([0.1, 0.9, 0.5, 0.52, 0.3, 0.7])
    median = np.array([0.6, 0.0, 0.1, 0.9, 0.2, 0.3])
    features = np.array([[0.0], [10.0], [1.0], [2.0], [5.0], [5.1]])
    assert sorted(choose("median-mean", 2, mean, median, features, 0)) == [
        2,
        3,
    ]  # the median of the means is 0.51
    assert choose("top-median", 2, mean, median, features, 0) == [3, 0]
    assert choose("highest", 2, mean, median, features, 0) == [1, 5]
    assert choose("k-centre", 3, mean, median, features, 0) == [4, 0, 1]
    draws = {tuple(choose("random", 3, mean, median, features, seed)) for seed in range(5)}
    assert len(draws) > 1
    assert ENTROPY[[0, 255]].tolist() == [0, 0]
    assert ENTROPY[127] == pytest.approx(1, abs=1e-4)


def test_patches_suit_the_data():
    whole = Box.of
    assert candidates(whole((15, 1024, 1024)), (47.5, 4.6, 4.6), 4)[0].shape == (8, 128, 128)
    assert candidates(whole((170, 250, 250)), (10, 10, 10), 4)[0].shape == (48, 48, 48)
    assert candidates(whole((50, 100, 200)), (10, 10, 10), 4)[0].shape == (24, 48, 48)
    assert candidates(Box((10, 0, 0), (20, 64, 64)), (10, 1, 1), 1, (10, 32, 64)) == [
        Box((10, 0, 0), (20, 32, 64)), Box((10, 32, 0), (20, 64, 64)),
    ]  # fmt: skip
    with pytest.raises(UserError, match="4 patches of 24 × 24 × 24 voxels do not fit into 20 × 200 × 200"):
        candidates(whole((20, 200, 200)), (10, 10, 10), 4)


def test_starting_labels_are_the_models_own(target):
    found = suggest(target, n=2, starts=str(target / "starts"), turned=True)
    for patch in found.patches:
        labels = open_volume(target / "starts" / f"{patch.id}.tif")
        assert labels.shape == (4, 40, 40)
        assert labels.voxel_size_nm() == (40, 8, 8)
        assert set(np.unique(labels.read(Box.of(labels.shape)))) <= {0, 1}


def test_labels_lie_beside_the_file_and_are_never_written_over(target):
    found = suggest(target, "raw.patches.json", n=2)
    labelling = Labelling(target / "raw.patches.json")
    assert (found.outputs, labelling.folder) == (("boundary",), target / "raw.labels")
    labels = labelling.read("boundary", found.patches[0])
    labelling.save("boundary", "patch1", 1 - labels)
    (target / "raw.patches.json").unlink()
    suggest(target, "raw.patches.json", n=2)  # the same job again: resumed
    np.testing.assert_array_equal(labelling.read("boundary", found.patches[0]), 1 - labels)
    (target / "raw.patches.json").unlink()
    shutil.rmtree(target / "raw.patches.json.job")
    with pytest.raises(UserError, match="already holds files, perhaps labels"):
        suggest(target, "raw.patches.json", n=2)
    np.testing.assert_array_equal(labelling.read("boundary", found.patches[0]), 1 - labels)


def test_instances_begin_as_what_lies_between_the_membranes(target):
    found = suggest(target, "cells.patches.json", n=2, instances=True)
    labelling = Labelling(target / "cells.patches.json")
    suggest(target, "membranes.patches.json", n=2)
    membranes = Labelling(target / "membranes.patches.json").read("boundary", found.patches[0])
    cells = labelling.read("boundary", found.patches[0])
    assert cells.dtype == np.uint16
    np.testing.assert_array_equal(cells == 0, membranes == 1)
    assert labelling.training("boundary")["instances"] is True


def test_a_box_is_kept_to_and_blank_places_are_not_chosen(target):
    image, _ = tissue(2, "cells")
    image[:, 80:] = 0
    save(target / "raw.ome.tif", image)
    found = suggest(target, n=8)
    assert all(p.voxels.stop[1] <= 80 for p in found.patches)
    found = suggest(target, "boxed.json", n=2, box="0:8,0:80,80:160")
    assert all(p.voxels.start[2] >= 80 for p in found.patches)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--n", "40", "--patch", "8,128,128"], "do not fit"),
        (["--patch", "8,128"], "is not z,y,x"),
        (["--model", "nothing"], "there is no model 'nothing'"),
        (["--target", "synapses"], "makes membranes, not synapses"),
        (["--box", "0:9,0:10,0:10"], "outside"),
    ],
)
def test_what_cannot_be_suggested_is_one_line(target, capsys, more, text):
    out = target / "out.json"
    model = [] if "--model" in more else ["--model", "cells"]
    assert cli.run(["adapt", "suggest", str(target / "raw.ome.tif"), str(out), *model, *more]) == 2
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_file_in_the_place_of_the_labels_is_one_line(target):
    (target / "raw.labels").write_text("a file")
    with pytest.raises(UserError, match="is a file, and the labels need a folder"):
        suggest(target, "raw.patches.json", n=2)


def test_a_file_that_is_no_patches_or_overlaps_is_named(tmp_path):
    file = tmp_path / "p.json"
    file.write_text("{}")
    with pytest.raises(UserError, match="does not hold patches"):
        read_patches(file)
    source = {"name": "v", "shape": [8, 8, 8]}
    boxes = ["0:4,0:4,0:4", "3:8,0:4,0:4"]
    patches = [{"id": f"p{i}", "box": box} for i, box in enumerate(boxes)]
    file.write_text(json.dumps({"schema": 1, "source": source, "patches": patches}))
    with pytest.raises(UserError, match=r"p0 and p1 of .* overlap"):
        read_patches(file)
    assert parse_box(boxes[0]).size == 64
