"""Answering `headwater sql`: the part that is the same on every engine, with SQLite as the language on all of them.

`answering.answer` makes the views of `views` on a connection whose tables are the store's, or stand for them, and runs
one statement that may read nothing else. `asking.Asking` has the questions of an engine run in threads.
"""
