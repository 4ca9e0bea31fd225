"""Faults put into a running fleet, and what becomes of it: `python -m benchmarks.faults`."""
