"""Settings survive; what cannot be read is dropped key by key."""

from __future__ import annotations

import json

from connectoscope_app.settings import MOST_RECENT, Settings, load_settings, save_settings, settings_path


def test_settings_come_back():
    settings = Settings(theme="light")
    settings.remember_volume("/data/a.ome.zarr")
    settings.remember_volume("/data/b.ome.zarr")
    settings.remember_volume("/data/a.ome.zarr")
    assert save_settings(settings) is None
    again, warnings = load_settings()
    assert warnings == []
    assert again == settings
    assert again.recent == ("/data/a.ome.zarr", "/data/b.ome.zarr")


def test_bad_keys_are_dropped_one_by_one():
    settings_path().parent.mkdir(parents=True)
    stored = {"version": 1, "theme": "purple", "recent": ["/x"], "jobs": 7, "unheard_of": True}
    settings_path().write_text(json.dumps(stored))
    settings, warnings = load_settings()
    assert settings.theme == "dark"
    assert settings.recent == ("/x",)
    assert settings.jobs == ()
    assert [w.split("'")[1] for w in warnings] == ["theme", "jobs", "unheard_of"]


def test_damaged_or_newer_files_give_defaults():
    assert load_settings() == (Settings(), [])
    settings_path().parent.mkdir(parents=True)
    for text in ("{", "[]", json.dumps({"version": 99, "theme": "light"})):
        settings_path().write_text(text)
        settings, warnings = load_settings()
        assert settings == Settings()
        assert len(warnings) == 1


def test_recent_is_bounded_and_an_unwritable_place_is_one_line(tmp_path):
    settings = Settings()
    for n in range(3 * MOST_RECENT):
        settings.remember_volume(str(n))
    assert len(settings.recent) == MOST_RECENT
    (tmp_path / "file").write_text("")
    line = save_settings(settings, tmp_path / "file" / "window.json")
    assert line is not None
    assert "could not be saved" in line
