"""Applying commits: the part of a commit that is the same on every engine that keeps records, events and messages.

`state.State` is what a process knows of the store: names, specs, routes, its leases. `batch.Batch` is given an image of
what some commits name, checks and adopts them one after the other in memory, and is left with what is to be written.
The engine reads the image and writes the result. Nothing here does I/O or reads a clock.
"""
