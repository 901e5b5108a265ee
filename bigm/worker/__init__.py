"""A worker's process: the launcher that imports the user's program, and the supervisor that serves it."""
