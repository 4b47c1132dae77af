"""The SQLite engine: one process owns the store, one thread writes it.

Layout of a store's folder:

- `store.db` (with its WAL): everything durable.
- `board`: which deliveries run now and the number of the last flushed commit, memory-mapped (`board.py`).
- `lock`: held by the owning process.

A commit travels: caller → `writer.Writer` (a thread that takes all that waits, one transaction a batch) →
`batch.Batch` (checks and applies the commits one after the other in memory, then writes the sum in a few
statements) → COMMIT with a flush → back on the event loop, where results are handed out and new messages join
the ready windows (`windows.py`).

Leases live in memory: a message exists durably until the commit that acknowledges it, so after a crash all that
was not acknowledged is ready at once. What each failure does: a refused commit changes nothing and fails alone; a
full disk fails the batch and the store goes on; any other I/O error leaves the outcome unknown, fails the batch
and stops the store until it is opened anew.
"""
