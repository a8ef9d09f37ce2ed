"""The desktop window: arranges viewers, forms and jobs, and never computes.

Kept empty of imports on purpose: :mod:`connectoscope_app.start` sets the environment before napari is imported.
"""
