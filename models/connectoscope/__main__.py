"""``python -m connectoscope`` is the command ``connectoscope``."""

from connectoscope.cli import main

if __name__ == "__main__":
    main()
