"""What ``adapt train`` and ``sample_patches`` read: files of one name, not-a-numbers, changed images, blank regions."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from made_domains import membranes, random_bundle, save, tissue

from connectoscope.adaptation.examples import make_examples
from connectoscope.adaptation.features import sample_patches, sees
from connectoscope.adaptation.labelling import Labelling
from connectoscope.adaptation.labels import read_labels
from connectoscope.adaptation.patches import Patch
from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks.adapt.sign import AdaptSign
from connectoscope.tasks.adapt.sign import run as sign
from connectoscope.tasks.adapt.suggest import AdaptSuggest
from connectoscope.tasks.adapt.suggest import run as suggest
from connectoscope.tasks.adapt.train import AdaptTrain, run
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box


def test_two_files_of_one_patch_are_refused_by_name(tmp_path):
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[:, :4] = 1
    volume = open_volume(np.zeros(labels.shape, np.uint8), voxel_size="40,8,8nm")
    patches = [Patch(id="patch1", box=str(Box.of(labels.shape)))]
    folder = tmp_path / "labels"
    folder.mkdir()
    save(folder / "patch1.tif", labels)
    save(folder / "patch10.tif", labels)  # of no patch
    (folder / "patch1.tif.part").touch()
    np.testing.assert_array_equal(read_labels(folder, patches, volume, instances=False)[0], labels > 0)
    save(folder / "patch1.old.tif", labels)
    with pytest.raises(
        UserError, match=r"two files for patch patch1, patch1\.old\.tif and patch1\.tif: move one"
    ):
        read_labels(folder, patches, volume, instances=False)


def test_what_is_no_number_around_a_patch_is_0_and_counted(tmp_path, monkeypatch):
    card = random_bundle(tmp_path / "model").card
    monkeypatch.setattr("connectoscope.adaptation.examples.intensity_of", lambda *_: (0.0, 255.0))
    image = tissue(1, "cells")[0].astype(np.float32)
    image[0, 60, 60] = np.nan
    volume = open_volume(image, voxel_size="40,8,8nm")
    box = Box((0, 61, 61), (4, 101, 101))
    (example,) = make_examples(sees(card, volume), card, [box], [np.ones(box.shape, bool)])
    assert np.isfinite(example.image).all()
    assert example.not_finite >= 1
    assert (example.image == -0.5).sum() >= example.not_finite


def test_an_image_that_changes_before_a_resume_is_named(target):
    image = target / "raw.ome.tif"
    chosen = AdaptSuggest(
        source=str(image), destination=str(target / "p.json"), model="cells", n=2, patch="4,40,40", rule="random"
    )  # fmt: skip
    suggest(chosen, Context.local(target / "suggest.job", threads=1))
    asked = AdaptTrain(
        model="cells", destination=str(target / "new"), on=str(image), patches=str(target / "p.json"),
        labels=str(target / "labels.ome.tif"), steps=10,
    )  # fmt: skip

    class Stopped(Exception):
        pass

    class Stopping(Context):
        def progress(self, done, total, phase, **extra):
            if done == 3:
                raise Stopped

    with pytest.raises(Stopped):
        run(asked, Stopping.local(target / "new.job", threads=1))
    pixels = tissue(2, "inverted")[0]
    save(image, 255 - pixels)
    with pytest.raises(UserError, match=r"^the image changed since checkpoint"):
        run(asked, Context.local(target / "new.job", threads=1))
    save(image, pixels)
    cells = tissue(2, "inverted")[1]
    save(target / "labels.ome.tif", membranes(cells)[:, ::-1])
    with pytest.raises(UserError, match=r"^the labels changed since checkpoint"):
        run(asked, Context.local(target / "new.job", threads=1))


def test_what_was_assumed_of_the_volume_is_said_when_signing(target):
    image = tissue(2, "inverted")[0]
    tifffile.imwrite(target / "two.ome.tif", np.stack([image, image]), metadata={"axes": "CZYX"})
    asked = AdaptSign(
        model="cells", destination=str(target / "signed"), on=str(target / "two.ome.tif"), vectors=16,
        voxel_size="40,8,8nm",
    )  # fmt: skip
    (told,) = sign(asked, Context.local(target / "sign.job", threads=1))["warnings"]
    assert "has channels" in told


def test_places_are_even_where_half_of_the_volume_is_blank(tmp_path):
    card = random_bundle(tmp_path / "model").card
    image = np.random.default_rng(0).integers(0, 128, (60, 160, 416), np.uint8)
    image += 2 * np.arange(60, dtype=np.uint8)[:, None, None]  # the brightest voxel tells the section
    image[..., 208:] = 0
    patches = sample_patches(sees(card, open_volume(image, voxel_size="40,8,8nm")), card, 400, 0)
    assert patches.shape == (400, 1, 128, 128)
    brightest = patches.max((1, 2, 3))
    middle = (brightest.min() + brightest.max()) / 2
    assert (brightest < middle).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("instances", [False, True])
def test_labels_that_nobody_changed_are_told(target, instances):
    image, file = str(target / "raw.ome.tif"), target / "p.json"
    chosen = AdaptSuggest(
        source=image, destination=str(file), model="cells", n=2, patch="4,40,40", instances=instances
    )
    suggest(chosen, Context.local(target / "suggest.job", threads=1))
    labelling = Labelling(file)

    def told(name):
        asked = AdaptTrain(
            model="cells", destination=str(target / name), on=image, patches=str(file), steps=1,
            labels=str(labelling.folder), instances=instances,
        )  # fmt: skip
        warnings = run(asked, Context.local(target / f"{name}.job", threads=1))["warnings"]
        return [text for text in warnings if "still those of 'adapt suggest'" in text]

    (line,) = told("one")
    assert line.startswith("the labels of all patches are still")
    labels = labelling.read("boundary", labelling.file.patches[0])
    labels[:, 10:20] = 1 - (labels[:, 10:20] > 0)
    labelling.save("boundary", labelling.file.patches[0].id, labels)
    (line,) = told("two")
    assert line.startswith(f"the labels of {labelling.file.patches[1].id} (1 of 2) are still")
