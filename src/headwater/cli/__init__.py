"""The command line: every command but `run`, `init` and `tour` is a call of the admin API (`session.py`)."""
