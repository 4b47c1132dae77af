"""The HTTP edge: requests as units of work, idempotency keys, and errors as JSON."""
