"""A bundle is made in a folder of its own beside its place: nothing of the user's is in the way, nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectoscope.zoo import Bundle
from connectoscope.zoo.card import WEIGHTS
from connectoscope.zoo.writing import write_files


def files(bundle: Bundle) -> dict[str, bytes]:
    return {file.name: bundle.read_file(file.name) for file in bundle.card.files}


def test_a_folder_that_ends_in_part_is_the_users(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "new.part").mkdir()
    (tmp_path / "new.part" / "thesis.txt").write_text("work")
    write_files(tmp_path / "new", bundle.card, files(bundle))
    write_files(tmp_path / "new", bundle.card, files(bundle))  # in place of the first
    assert (tmp_path / "new.part" / "thesis.txt").read_text() == "work"
    assert not list(tmp_path.glob(".new*"))
    assert (tmp_path / "new").stat().st_mode == bundle.path.parent.stat().st_mode  # not the user's alone


@pytest.mark.parametrize("step", ["write_card", "rename"])
def test_the_old_model_is_there_until_the_new_one_is_whole(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = {path.name: path.read_bytes() for path in bundle.path.iterdir()}
    replace = Path.replace

    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    def replaced(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return replace(path, target)

    if step == "rename":
        monkeypatch.setattr(Path, "replace", replaced)
    else:
        monkeypatch.setattr(f"connectoscope.zoo.writing.{step}", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_files(bundle.path, bundle.card, files(bundle) | {WEIGHTS: b"new"})
    assert {path.name: path.read_bytes() for path in bundle.path.iterdir()} == before
    assert not list(bundle.path.parent.glob(".*"))
