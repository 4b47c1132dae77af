"""The applications built on Headwater; each is a package of its own that knows the others by name only."""
