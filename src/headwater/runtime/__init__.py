"""The runtime: what makes declared apps run on an engine (`supervisor.py` is the way in)."""
