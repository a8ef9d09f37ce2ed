from window_fixtures import fresh_configuration, make_window, volume_file, window

__all__ = ["fresh_configuration", "make_window", "volume_file", "window"]
