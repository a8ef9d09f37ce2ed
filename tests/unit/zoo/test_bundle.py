"""Bundles: found by path and name, checked on loading, never half-written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnxruntime
import platformdirs
import pytest
import torch

from connectoscope import cli
from connectoscope.errors import UserError
from connectoscope.jobs.request import JobRequest
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.tasks.base import load_task
from connectoscope.zoo import Bundle, find_model, list_models
from connectoscope.zoo.card import CARD, GATE, WEIGHTS, Card, Companion
from connectoscope.zoo.writing import check_new, write_bundle, write_companion

ARGUMENTS = UNet3dArguments(1, (2, 4), (((1, 3, 3),), ((3, 3, 3),)), ((1, 2, 2),))


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(tmp_path / "models"))
    torch.manual_seed(0)
    card = Card.model_validate(
        {
            "schema": 1, "name": "small", "version": "1", "description": "A test.",
            "architecture": {"name": "unet3d", "arguments": ARGUMENTS.to_json()},
            "inputs": {"voxel_size": (40, 8, 8)},
            "outputs": [{"name": "synapses", "meaning": "none", "instances": True}],
            "receptive_field": ARGUMENTS.receptive_field(), "stride": ARGUMENTS.total_stride,
            "halo": {"exact": ARGUMENTS.halo(), "practical": ARGUMENTS.halo()},
            "licence": "CC0-1.0", "files": (), "from_the_future": {"kept": True},
        }
    )  # fmt: skip
    return write_bundle(tmp_path / "models" / "small", card, UNet3d(ARGUMENTS).state_dict())


def test_round_trip_keeps_unknown_keys_and_weights(bundle: Bundle) -> None:
    again = find_model("small")
    assert again.card.model_dump_json() == bundle.card.model_dump_json()
    assert again.hash == bundle.hash
    assert json.loads((bundle.path / CARD).read_text())["from_the_future"] == {"kept": True}
    torch.manual_seed(0)
    expected = UNet3d(ARGUMENTS).state_dict()
    for name, value in again.load_network().state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-3, rtol=1e-3)
    assert "small" in [b.card.name for b in list_models()]


def test_unknown_model_lists_the_known_ones(bundle: Bundle) -> None:
    with pytest.raises(UserError, match=r"no model 'synapse-xyz'; known: .*small"):
        find_model("synapse-xyz")


def test_a_bare_name_is_a_model_and_never_what_lies_here(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("small", "other"):
        shutil.copytree(bundle.path, tmp_path / name)
    assert find_model("small").path == bundle.path
    request = JobRequest.make(
        load_task("segment"), {"source": "a", "destination": "b.zarr", "model": "small"}
    )
    assert request.parameters["model"] == "small"
    assert find_model("./small").path == Path("small")
    assert find_model("./small").reference == "./small"
    assert find_model("other").path == Path("other")  # there is no model of that name
    assert cli.run(["models", "remove", "small"]) == 0
    assert not bundle.path.exists()
    for name in ("small", "other"):
        capsys.readouterr()
        assert cli.run(["models", "remove", name]) == 2
        assert f"name it ./{name}" in capsys.readouterr().err
        assert (tmp_path / name / CARD).exists()
        assert cli.run(["models", "remove", f"./{name}"]) == 0
        assert not (tmp_path / name).exists()


def test_no_model_hides_a_bundled_one(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="'synapse-vnc' comes with connectoscope; choose another name"):
        check_new(bundle.path.with_name("synapse-vnc"), replace=True)
    check_new(bundle.path.parent / "sub" / "synapse-vnc", replace=False)  # not among those found by name


def test_damaged_weights(bundle: Bundle) -> None:
    data = bytearray((bundle.path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (bundle.path / WEIGHTS).write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        find_model("small").load_network()
    (bundle.path / WEIGHTS).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        find_model("small").load_network()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"schema": 2}', "schema 2"),
        ('{"schema": 1}', "damaged"),
    ],
)
def test_damaged_cards(bundle: Bundle, text: str, message: str) -> None:
    (bundle.path / CARD).write_text(text)
    with pytest.raises(UserError, match=message):
        find_model("small")
    assert "small" not in [b.path.name for b in list_models()]  # one damaged model hides no other


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("stride", [0, 2, 2], "stride.0"),
        ("stride", [1, 64, 64], "not a multiple of the stride"),
        ("halo", {"exact": [-1, 0, 0], "practical": [0, 0, 0]}, "halo.exact.0"),
        (
            "halo",
            {"exact": [1, 4, 4], "practical": [0, 1, 0]},
            "halo.practical .* not a multiple of the stride",
        ),
        ("inputs", {"voxel_size": [40, 0, 8]}, "voxel_size.1"),
        ("inputs", {"voxel_size": [40, 8, 8], "normalisation": {"low": 99, "high": 1}}, "not below"),
        ("files", [{"name": "../../weights.safetensors", "sha256": ""}], "files.0.name"),
    ],
)
def test_cards_that_no_tile_fits(bundle: Bundle, part: str, values: object, message: str) -> None:
    card = json.loads((bundle.path / CARD).read_text())
    (bundle.path / CARD).write_text(json.dumps({**card, part: values}))
    with pytest.raises(UserError, match=f"is damaged: .*{message}"):
        find_model("small")


def test_weights_of_another_architecture(bundle: Bundle) -> None:
    values = json.loads((bundle.path / CARD).read_text())
    values["architecture"]["arguments"]["features"] = [3, 4]
    (bundle.path / CARD).write_text(json.dumps(values))
    with pytest.raises(UserError, match="do not fit"):
        find_model("small").load_network()


def companion(**changes: object) -> Companion:
    values = {
        "architecture": {"name": "unet3d", "arguments": ARGUMENTS.to_json()}, "factor": (1, 2, 2),
        "voxel_size": (40, 16, 16), "outputs": ("synapses",), "halo": (0, 2, 2),
    }  # fmt: skip
    return Companion.model_validate(values | changes)


def test_a_companion_joins_and_leaves_the_model_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    torch.manual_seed(1)
    gate = UNet3d(ARGUMENTS)
    made = write_companion(tmp_path / "gated", bundle, companion(), gate.state_dict())
    again = find_model(tmp_path / "gated")
    assert again.card.model_dump_json() == made.card.model_dump_json()
    assert again.hash == bundle.hash
    assert again.gate_hash == made.gate_hash
    assert again.card.companion is not None
    assert again.card.companion.model_dump_json() == companion().model_dump_json()
    assert (again.path / WEIGHTS).read_bytes() == (bundle.path / WEIGHTS).read_bytes()
    for name, value in again.load_gate().state_dict().items():
        torch.testing.assert_close(value, gate.state_dict()[name], atol=1e-3, rtol=1e-3)
    # Another halo gives other scores: another gate, the same model; also in place of the parent itself.
    other = write_companion(again.path, again, companion(halo=(0, 4, 4)), gate.state_dict())
    assert [f.name for f in other.card.files] == [WEIGHTS, GATE]
    assert other.hash == bundle.hash
    assert other.gate_hash not in (None, again.gate_hash)


def test_a_gate_of_another_architecture(bundle: Bundle, tmp_path: Path) -> None:
    arguments = UNet3dArguments(1, (3,), (((1, 3, 3),),), ())
    write_companion(tmp_path / "gated", bundle, companion(), UNet3d(arguments).state_dict())
    with pytest.raises(UserError, match=r"gate of .* do not fit"):
        find_model(tmp_path / "gated").load_gate()
    assert not any(p.suffix == ".part" for p in tmp_path.iterdir())


def test_a_parent_that_was_replaced_or_lost_has_no_children(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / WEIGHTS).write_bytes(b"of another version")
    with pytest.raises(UserError, match="damaged"):
        write_companion(tmp_path / "gated", bundle, companion(), {})
    (bundle.path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"weights of .* cannot be read"):
        write_companion(tmp_path / "gated", bundle, companion(), {})
    assert not (tmp_path / "gated").exists()


def test_nothing_foreign_is_overwritten(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not a model"):
        write_bundle(tmp_path / "thesis", bundle.card, {})
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["my model", "-dash", "_a", "münchen"])
def test_a_name_that_no_card_allows_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not a valid model name"):
        check_new(tmp_path / name, replace=False)


def test_a_model_is_not_replaced_with_what_else_lies_there(bundle: Bundle, tmp_path: Path) -> None:
    check_new(bundle.path, replace=True)
    (bundle.path / "labels.txt").write_text("mine")
    with pytest.raises(UserError, match=r"also holds labels\.txt, which would be lost"):
        check_new(bundle.path, replace=True)


def test_a_link_to_a_model_is_followed(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle.path)
    torch.manual_seed(1)
    write_bundle(link, bundle.card, UNet3d(ARGUMENTS).state_dict())
    assert link.is_symlink()
    assert find_model("small").hash != bundle.hash
    assert run_models("remove", str(link), capsys=capsys)[0] == 0
    assert not bundle.path.exists()
    assert not link.is_symlink()


def run_models(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.run(["models", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_model_stands_below_the_one_it_was_made_of(bundle: Bundle) -> None:
    for name, parent in (("a-grandchild", "z-child"), ("z-child", "small"), ("a-orphan", "gone")):
        card = bundle.card.model_copy(update={"name": name, "lineage": ({"parent": {"name": parent}},)})
        write_bundle(bundle.path.with_name(name), card, bundle.load_network().state_dict())
    names = [b.card.name for b in list_models() if b.path.parent == bundle.path.parent]
    assert names == ["a-orphan", "small", "z-child", "a-grandchild"]
    for name, fact in (("b-joined", {"parts": []}), ("c-odd", {"parent": "small"})):
        card = bundle.card.model_copy(update={"name": name, "lineage": (fact,)})
        assert (
            write_bundle(bundle.path.with_name(name), card, bundle.load_network().state_dict()).parent is None
        )


@pytest.mark.parametrize("smooth", [(), (1.5,)])
def test_exported_the_network_gives_the_same_elsewhere(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], smooth: tuple[float, ...]
) -> None:
    arguments = replace(ARGUMENTS, smooth=smooth).to_json()
    architecture = bundle.card.architecture.model_copy(update={"arguments": arguments})
    card = bundle.card.model_copy(update={"architecture": architecture})
    bundle = write_bundle(bundle.path, card, bundle.load_network().state_dict())
    out = tmp_path / "small.onnx"
    assert run_models("export", "small", str(out), capsys=capsys)[::2] == (0, "")
    session = onnxruntime.InferenceSession(str(out))
    torch.manual_seed(1)
    for shape in ((1, 1, 4, 16, 24), (1, 1, 3, 32, 8)):  # any multiple of the stride
        image = torch.randn(shape)
        (found,) = session.run(None, {"image": image.numpy()})
        with torch.inference_mode():
            expected = bundle.load_network()(image).sigmoid()
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)
    code, _, message = run_models("export", "small", str(out), capsys=capsys)
    assert (code, message.count("\n")) == (2, 1)
    assert "exists" in message


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("export", "small"), "use: connectoscope models export NAME FILE.onnx"),
        (("export", "small", "a.pt"), "ends in .onnx"),
        (("list", "small"), "use: connectoscope models list"),
        (("remove", "synapse-vnc"), "came with connectoscope and stays"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: tuple[str, ...], text: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, message = run_models(*words, capsys=capsys)
    assert (code, message.count("\n")) == (2, 1)
    assert text in message


def test_a_removed_model_leaves_what_is_not_its_own(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    note = bundle.path / "note.txt"
    note.write_text("mine")
    assert run_models("remove", "small", capsys=capsys)[0] == 0
    assert [p.name for p in bundle.path.iterdir()] == ["note.txt"]
    with pytest.raises(UserError, match="no model"):
        find_model("small")


def test_a_user_without_a_home_has_the_bundled_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*_: object) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CONNECTOSCOPE_MODELS", raising=False)
    monkeypatch.setattr(platformdirs, "user_data_dir", homeless)
    assert "synapse-vnc" in [bundle.card.name for bundle in list_models()]
