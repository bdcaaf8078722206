"""Benchmarks: both sides in one run, printed as a table. `python -m bench` runs all, `python -m bench NAME` one."""
