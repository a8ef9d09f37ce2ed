"""Running tasks: a job is a folder; a supervisor watches the engine that works in it."""
