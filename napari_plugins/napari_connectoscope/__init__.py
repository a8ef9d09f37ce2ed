"""Connectoscope in any napari: layers, readers, writer, forms from task declarations, watching of jobs."""
