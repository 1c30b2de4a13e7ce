"""Benchmarks: time, memory and storage, measured for all systems in one run."""
