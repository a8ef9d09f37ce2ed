"""The nearest model is that of the same texture, for every draw of patches; what cannot be ranked is said in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from made_domains import random_bundle, save, tissue

from connectoscope import cli
from connectoscope.adaptation.features import intensity_of, sample_patches, sees
from connectoscope.adaptation.ranking import domain_map
from connectoscope.adaptation.signature import Part, write_signature
from connectoscope.jobs.context import Context
from connectoscope.networks.normalise import intensity_range
from connectoscope.tasks.adapt.rank import AdaptRank, run
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.zoo import find_model
from connectoscope.zoo.card import SIGNATURE, WIDE, Imported


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A model for each look, signed, beside a volume that it saw and one that no model saw."""
    folder = tmp_path_factory.mktemp("domains")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONNECTOSCOPE_MODELS", str(folder / "models"))
        random_bundle(folder / "models" / "features-em", seed=7)
        for number, look in enumerate(("cells", "grainy", "fine")):
            bundle = random_bundle(folder / "models" / look, seed=number)
            seen = open_volume(save(folder / f"{look}1.ome.tif", tissue(10 + number, look)[0]))
            write_signature(bundle, [Part(seen)], count=64)
            save(folder / f"{look}2.ome.tif", tissue(20 + number, look)[0])
    return folder


@pytest.fixture
def domains(made, models):
    """The path of a volume of each look; the models are the test's own copies."""
    shutil.rmtree(models)
    shutil.copytree(made / "models", models)
    return {look: made / f"{look}2.ome.tif" for look in ("cells", "grainy", "fine")}


def rank(folder, source, **more):
    context = Context.local(folder, threads=1)
    return run(AdaptRank(source=str(source), vectors=64, **more), context)


@pytest.mark.parametrize("space", ["common", "own"])
@pytest.mark.parametrize("look", ["cells", "grainy", "fine"])
def test_the_nearest_model_is_that_of_the_same_texture(domains, tmp_path, look, space):
    orders = []
    for seed in range(5):
        found = rank(tmp_path / f"{seed}.job", domains[look], model=tuple(domains), space=space, seed=seed)
        orders.append([m["model"] for m in found["models"]])
    assert orders[0][0] == look
    assert orders == [orders[0]] * 5
    nearest, other = found["models"][0], found["models"][-1]
    assert nearest["interval"][1] < other["interval"][0]
    assert other["p"] < 0.01
    json.dumps(found)
    assert set(found["map"]) == (
        {"cells", "grainy", "fine", f"{look}2 (this volume)"} if space == "common" else set()
    )


def test_a_signature_changes_no_hash_and_needs_no_image(domains, models):
    bundle = find_model("cells")
    plain = random_bundle(models / "plain", seed=0)
    assert bundle.hash == plain.hash
    vectors = bundle.load_signature()
    assert {name: v.dtype for name, v in vectors.items()} == {"own": np.float16, "common": np.float16}
    assert bundle.card.signature.own.hash == bundle.hash
    assert bundle.card.signature.common.hash == find_model("features-em").hash
    assert SIGNATURE in {f.name for f in bundle.card.files}


def test_patches_come_from_the_part_and_show_tissue(models, tmp_path):
    image, _ = tissue(3, "cells")
    image = np.pad(image, ((0, 0), (0, 200), (0, 0)))  # nothing there
    volume = open_volume(save(tmp_path / "v.ome.tif", image))
    card = find_model("features-em").card
    grid = sees(card, volume)
    patches = sample_patches(grid, card, 60, 0)
    assert patches.shape[1:] == (1, 128, 128)
    assert all((np.abs(p - np.median(p)) > 1e-6).mean() > 0.5 for p in patches)
    part = Box((2, 0, 0), (3, 160, 160))
    inside = sample_patches(grid, card, 60, 0, part)
    plane = sample_patches(grid, card, 60, 1, part)
    assert len(inside) == 60
    assert not np.array_equal(inside, plane)
    np.testing.assert_array_equal(sample_patches(grid, card, 60, 0), patches)


def test_finer_volumes_are_seen_at_the_voxel_size_of_the_network(models, tmp_path):
    image, _ = tissue(3, "cells")
    fine = np.repeat(np.repeat(image, 2, 1), 2, 2)
    volume = open_volume(save(tmp_path / "v.ome.tif", fine, pixel=4))
    grid = sees(find_model("features-em").card, volume)
    assert grid.shape == image.shape
    np.testing.assert_array_equal(grid.read(Box.of(grid.shape)), image)


def test_intensities_are_those_that_the_card_asks_for(models, tmp_path):
    volume = open_volume(save(tmp_path / "v.ome.tif", tissue(3, "cells")[0]))
    card = find_model("features-em").card
    grid = sees(card, volume)
    assert intensity_of(card, grid) == intensity_range(grid.read, grid.shape, 1, 99)
    fixed = card.inputs.model_copy(update={"normalisation": Imported(method="fixed", low=50, high=60)})
    low, high = intensity_of(card.model_copy(update={"inputs": fixed}), grid)
    assert (low, high) == (50 - 10 * WIDE, 50 + 10 * WIDE)


def test_the_map_is_a_rotation_of_the_features():
    rng = np.random.default_rng(0)
    flat = rng.normal(0, 1, (50, 2)) * (5, 1)
    turn, _ = np.linalg.qr(rng.normal(0, 1, (6, 6)))
    points = domain_map({"a": (flat @ turn[:2])[:20], "b": (flat @ turn[:2])[20:]})
    together = np.concatenate([points["a"], points["b"]])
    distances = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.testing.assert_allclose(
        np.linalg.norm(together[:, None] - together[None], axis=2), distances, atol=1e-9
    )
    assert together[:, 0].std() > together[:, 1].std()


def one_line(capsys, *arguments):
    code = cli.run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    return lines[0]


def test_what_cannot_be_ranked_is_one_line(domains, models, tmp_path, capsys):
    source = domains["cells"]
    random_bundle(models / "bare")
    said = one_line(capsys, "adapt", "rank", source, "--model", "bare")
    assert "has no signature of its training data; make one: connectoscope adapt sign bare" in said
    random_bundle(models / "blobs", output="mitochondria")
    said = one_line(capsys, "adapt", "rank", source, "--model", "cells", "--model", "blobs")
    assert "no output in common" in said
    small = save(tmp_path / "small.ome.tif", tissue(3, "cells")[0][:, :50, :50])
    assert "is too small" in one_line(capsys, "adapt", "rank", small)
    few = save(tmp_path / "few.ome.tif", tissue(3, "cells")[0][:4, :128, :129])
    assert "few is too small for 16 different patches of 1 × 128 × 128 voxels: 4 × 128 × 129 on" in one_line(
        capsys, "adapt", "rank", few
    )
    blank = tissue(3, "cells")[0]
    blank[:, :150] = 0
    blank = save(tmp_path / "blank.ome.tif", blank)
    assert "hardly any tissue" in one_line(capsys, "adapt", "rank", blank)
    random_bundle(models / "features-em", seed=8)  # another version
    assert "no signature by this version of the common network" in one_line(
        capsys, "adapt", "rank", source, "--model", "cells"
    )


def test_from_the_command_line_and_a_signature_made_there(made, domains, models, capsys):
    random_bundle(models / "bare", seed=4)
    assert (
        cli.run(["adapt", "sign", "bare", "signed", "--on", str(made / "grainy1.ome.tif"), "--vectors", "64"])
        == 0
    )
    capsys.readouterr()
    arguments = ["adapt", "rank", str(domains["grainy"]), "--vectors", "64", "--json"]
    arguments += [w for m in ("cells", "signed") for w in ("--model", m)]
    assert cli.run(arguments) == 0
    out, _ = capsys.readouterr()
    assert [m["model"] for m in json.loads(out)["models"]] == ["signed", "cells"]
    assert cli.run(arguments[:5]) == 0
    assert "MMD²" in capsys.readouterr().out
