"""The things that a user can ask for, one module each; see :mod:`connectoscope.tasks.base`."""
