"""Measurements on one accelerator: the project's ops and steps beside what users would take instead. `runner` starts, `child` measures."""
