"""A few labelled patches make a model better on another domain; never worse without saying so; resumed exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from made_domains import membranes, random_bundle, save, tissue

from connectoscope import cli
from connectoscope.adaptation.labels import read_labels
from connectoscope.adaptation.patches import Patch, read_patches
from connectoscope.adaptation.run import as_suggested
from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks.adapt.suggest import AdaptSuggest
from connectoscope.tasks.adapt.suggest import run as suggest
from connectoscope.tasks.adapt.train import AdaptTrain, run
from connectoscope.training.labels import boundaries
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.zoo import find_model


@pytest.fixture
def patches(target):
    """Makes a file of n patches."""

    def make(n=4):
        out = target / f"patches{n}.json"
        asked = AdaptSuggest(
            source=str(target / "raw.ome.tif"), destination=str(out), model="cells", n=n, patch="4,40,40",
            rule="random",
        )  # fmt: skip
        suggest(asked, Context.local(target / f"suggest{n}.job", threads=1))
        return out

    return make


def asked(target, name, patches=None, **more):
    labels = {} if patches is None else {"patches": str(patches), "labels": str(target / "labels.ome.tif")}
    values = {
        "model": "cells",
        "destination": str(target / name),
        "on": str(target / "raw.ome.tif"),
        "steps": 40,
    }
    return AdaptTrain(**(values | labels | {"learning_rate": 5e-3} | more))


def adapt(target, name, patches=None, context=Context, **more):
    return run(asked(target, name, patches, **more), context.local(target / f"{name}.job", threads=1))


def test_four_patches_help_and_the_bundle_says_where_it_is_from(target, patches):
    summary = adapt(target, "new", patches())
    source, parent, made = summary["scores"]["source"], find_model("cells"), find_model(target / "new")
    assert (summary["kept"], summary["held_out"]) == ("trained", True)
    assert summary["scores"]["trained"]["f1"] > source["f1"] + 0.2
    lineage = made.card.lineage[-1]
    assert lineage["parent"]["hash"] == parent.hash
    assert (lineage["made_by"], lineage["patches"], lineage["on"]) == ("adapt train", 4, "raw")
    assert made.hash != parent.hash
    assert made.card.signature.data == ("raw",)
    assert made.card.signature.own.hash == made.hash
    assert made.card.outputs[0].threshold == summary["scores"]["trained"]["threshold"]
    assert made.parent == "cells"
    json.dumps(summary)
    # It holds on cells that were not labelled, too.
    image, cells = tissue(5, "inverted")
    truth = membranes(cells) > 0
    scores = [f1(find_model(name), image, truth) for name in ("cells", target / "new")]
    assert scores[1] > scores[0] + 0.2


def f1(bundle, image, truth):
    from connectoscope.evaluation.voxels import histograms, precision_recall
    from connectoscope.networks.normalise import intensity_range, normalise
    from connectoscope.training.trainer import predict_planes

    low, high = intensity_range(lambda box: image[box.slices], image.shape, 1, 99)
    p = predict_planes(bundle.load_network(), normalise(image, low, high), "cpu")[0]
    return precision_recall(*histograms(p, truth)).best()[0]


def test_labels_are_of_what_the_patches_were_suggested_for(target, patches):
    file = read_patches(patches(2))
    plain = asked(target, "new")
    for outputs, instances, target_ in (
        (("synapses",), False, ("synapses",)),
        (("boundary",), True, ("membranes",)),
    ):
        suggested = file.model_copy(update={"outputs": outputs, "instances": instances})
        found = as_suggested(plain, suggested)
        assert (found.target, found.instances) == (target_, instances)
    named = plain.model_copy(update={"target": ("mitochondria",)})
    assert as_suggested(named, suggested).target == ("mitochondria",)
    several = file.model_copy(update={"outputs": ("synapses", "boundary")})
    with pytest.raises(UserError, match="labels of synapses, membranes for these patches: name one"):
        as_suggested(plain, several)
    path = target / "synapses.patches.json"
    path.write_text(file.model_copy(update={"outputs": ("synapses",)}).model_dump_json(by_alias=True))
    with pytest.raises(UserError, match="makes membranes, not synapses"):
        adapt(target, "new", path)


def test_interrupted_and_resumed_gives_the_same_bytes(target, patches):
    file = patches()
    adapt(target, "whole", file, steps=10)

    class Stopped(Exception):
        pass

    for number, at in enumerate((13, 45)):  # in the second fold; in the last stage

        class Stopping(Context):
            def progress(self, done, total, phase, **extra):
                if done == at:  # noqa: B023
                    raise Stopped

        name = f"half{number}"
        with pytest.raises(Stopped):
            adapt(target, name, file, Stopping, steps=10)
        assert not (target / name).exists()
        adapt(target, name, file, steps=10)
        for data in ("weights.safetensors", "signature.safetensors"):
            assert (target / name / data).read_bytes() == (target / "whole" / data).read_bytes()
    shutil.rmtree(target / "half1")
    with pytest.raises(UserError, match="an option changed since checkpoint"):
        adapt(target, "half1", file, steps=10, seed=3)


def test_without_labels_only_statistics_change(target):
    summary = adapt(target, "new")
    assert (summary["kept"], summary["scores"]) == ("statistics", {})
    assert "without labels it is not known" in summary["verdict"]
    before, after = (find_model(m).load_network().state_dict() for m in ("cells", target / "new"))
    changed = {name.rpartition(".")[2] for name in before if not np.array_equal(before[name], after[name])}
    assert changed <= {"running_mean", "running_var", "num_batches_tracked"}
    assert "running_mean" in changed


def test_what_is_worse_is_not_kept_and_that_is_said(target, patches):
    image, cells = tissue(4, "cells")  # what the source knows already, and updates that spoil everything
    save(target / "raw.ome.tif", image)
    save(target / "labels.ome.tif", membranes(cells))
    summary = adapt(target, "new", patches(2), learning_rate=1.0, steps=5)
    assert summary["kept"] in ("source", "statistics")
    assert summary["held_out"] is False
    assert any("kept" in text for text in summary["warnings"])
    kept = summary["scores"][summary["kept"]]
    assert kept["average_precision"] >= summary["scores"]["source"]["average_precision"]
    if summary["kept"] == "source":
        assert (target / "new" / "weights.safetensors").read_bytes() == (
            find_model("cells").path / "weights.safetensors"
        ).read_bytes()


def test_labels_as_a_file_for_each_patch_as_instances_and_as_a_part(target, patches):
    chosen = read_patches(patches(2)).patches
    volume = open_volume(target / "raw.ome.tif")
    whole = open_volume(target / "labels.ome.tif")
    wanted = [whole.read(p.voxels) > 0 for p in chosen]
    folder = target / "labels"
    folder.mkdir()
    for patch in chosen:
        save(folder / f"{patch.id}.tif", whole.read(patch.voxels))
    part = Box((0, 0, 0), (8, 160, 160))
    spec = ImageSpec(
        shape=part.shape, dtype=np.dtype(np.uint8), scale=(40, 8, 8), translation=(0, 0, 0), unit="nanometer",
        chunks=part.shape,
    )  # fmt: skip
    create_image(target / "part.ome.zarr", spec)[0][...].write(whole.read(part)).result()
    for path in (target / "labels.ome.tif", folder, target / "part.ome.zarr"):
        for mask, right in zip(read_labels(path, chosen, volume, instances=False), wanted, strict=True):
            np.testing.assert_array_equal(mask, right)
    derived = read_labels(target / "cells.ome.tif", chosen, volume, instances=True)
    assert all(0.05 < mask.mean() < 0.6 for mask in derived)


def test_0_is_the_membrane_of_instances_and_cells_that_touch_have_one():
    cells = np.ones((1, 9, 24), np.int32)
    cells[..., 5:10] = 0  # a thick membrane
    cells[..., 10:] = 2
    wanted = cells == 0
    np.testing.assert_array_equal(instances(cells), wanted)
    cells[..., 16:] = 3  # touches 2
    wanted[..., 14:18] = True
    np.testing.assert_array_equal(instances(cells), wanted)
    full = np.maximum(cells, 1)
    np.testing.assert_array_equal(instances(full), boundaries(full))
    unknown = np.where(cells == 0, -1, cells)  # "nothing here": no membrane, but its edges are
    np.testing.assert_array_equal(instances(unknown), boundaries(unknown))
    with pytest.raises(UserError, match="are all membrane, without cells in the 1 patches"):
        instances(cells * 0)


def instances(cells):
    """Membranes of whole labels, as of a patch."""
    with TemporaryDirectory() as folder:
        np.save(Path(folder, "labels.npy"), cells)
        patch = Patch(id="patch1", box=str(Box.of(cells.shape)))
        volume = open_volume(np.zeros(cells.shape, np.uint8))
        return read_labels(Path(folder, "labels.npy"), [patch], volume, instances=True)[0]


def test_what_suggest_writes_as_instances_is_the_membranes_that_it_found(target):
    masks = []
    for name in ("plain", "cells"):
        out = target / f"{name}.patches.json"
        wanted = AdaptSuggest(
            source=str(target / "raw.ome.tif"), destination=str(out), model="cells", n=2, patch="4,40,40",
            instances=name == "cells",
        )  # fmt: skip
        suggest(wanted, Context.local(target / f"{name}.job", threads=1))
        file, volume = read_patches(out), open_volume(target / "raw.ome.tif")
        masks.append(read_labels(target / f"{name}.labels", file.patches, volume, instances=file.instances))
    np.testing.assert_array_equal(*masks)


def test_a_volume_with_room_for_one_patch_will_do(target):
    values = open_volume(target / "raw.ome.tif").read(Box.of((8, 160, 160)))
    save(target / "raw.ome.tif", values[:1, :128, :128])
    save(target / "labels.ome.tif", open_volume(target / "labels.ome.tif").read(Box.of((1, 128, 128))))
    chosen = AdaptSuggest(
        source=str(target / "raw.ome.tif"), destination=str(target / "p.json"), model="cells", n=2, patch="1,64,64"
    )  # fmt: skip
    suggest(chosen, Context.local(target / "suggest.job", threads=1))
    summary = adapt(target, "new", target / "p.json", steps=2)
    assert summary["patches"] == 2
    text = "too small for 16 different patches of 1 × 128 × 128 voxels"
    assert any("no signature" in w and text in w for w in summary["warnings"])


def bad_labels(target):
    """Labels that will not do, by what is said of them."""
    good = open_volume(target / "labels.ome.tif")
    values = good.read(Box.of(good.shape))
    empty = target / "empty"
    empty.mkdir()
    moved = target / "moved.ome.zarr"
    spec = ImageSpec(
        shape=(8, 32, 32), dtype=np.dtype(np.uint8), scale=(40, 8, 8), translation=(4e3, 8e4, 8e4),
        unit="nanometer", chunks=(8, 32, 32),
    )  # fmt: skip
    create_image(moved, spec)[0][...].write(values[:, :32, :32]).result()
    between = target / "between.ome.zarr"
    spec = ImageSpec(
        shape=good.shape, dtype=np.dtype(np.uint8), scale=(40, 8, 8), translation=(0, 3, 0), unit="nanometer",
        chunks=good.shape,
    )  # fmt: skip
    create_image(between, spec)[0][...].write(values).result()
    np.save(target / "unsized.npy", values[:4])
    return {
        "do not exist": target / "nothing",
        "do not overlap": moved,
        "lie between the voxels": between,
        "have voxels of 40 × 4 × 4": save(target / "fine.ome.tif", values, pixel=4),
        "state no voxel size": target / "unsized.npy",
        "all background": save(target / "zeros.ome.tif", values * 0),
        "all of one class": save(target / "ones.ome.tif", values * 0 + 1),
        "float32 values": save(target / "float.ome.tif", values.astype(np.float32)),
        "has labels for 0 of 2 patches": empty,
        "cover 0 of 2 patches": save(target / "short.ome.tif", values[:3]),
    }


def test_labels_that_cannot_be_meant_are_one_line(target, patches, capsys):
    file = patches(2)
    for text, labels in bad_labels(target).items():
        with pytest.raises(UserError, match=text):
            adapt(target, "new", file, labels=str(labels))
        assert not (target / "new").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (["--labels", "zeros.ome.tif"], "there is nothing to learn from them"),
        (["--labels", ""], "--patches and --labels go together"),
        (["--on", "other.ome.tif"], "name the volume they were chosen in"),
        (["--target", "synapses"], "makes membranes, not synapses"),
        (["--model", "blobs", "--target", "membranes"], "makes mitochondria, not membranes"),
        (["--on", "small.ome.tif", "--patches", "", "--labels", ""], "is too small"),
    ],
)
def test_from_the_command_line_bad_input_is_2_and_nothing_is_made(
    target, patches, capsys, monkeypatch, change, text
):
    monkeypatch.chdir(target)
    values = open_volume(target / "labels.ome.tif").read(Box.of((8, 160, 160)))
    save(target / "zeros.ome.tif", values * 0)
    save(target / "other.ome.tif", values[:7])
    save(target / "small.ome.tif", values[:, :50, :50])
    random_bundle(target / "blobs", output="mitochondria")
    given = {
        "--on": "raw.ome.tif",
        "--patches": str(patches(2)),
        "--labels": "labels.ome.tif",
        "--model": "cells",
    }
    given |= dict(zip(change[::2], change[1::2], strict=True))
    model = given.pop("--model")
    words = [word for option, value in given.items() if value for word in (option, value)]
    assert (
        cli.run(["adapt", "train", str(target / model) if model == "blobs" else model, "./new", *words]) == 2
    )
    said = capsys.readouterr().err
    assert text in said
    assert said.count("connectoscope:") == 1
    assert "Traceback" not in said
    assert not list(target.glob("new*"))
