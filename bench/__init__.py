"""Benchmarks: each prints one JSON line, its figure beside a floor measured in the same run.

`python -m bench` runs all, `python -m bench NAME --json` one. A floor is what the same machine does at that moment
for the same rows without any feature: the figures of a noisy machine mean something only beside it.
"""
