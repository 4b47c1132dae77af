"""Intake: readings are accepted into a queue, persisted in batches, and served to the user who sent them."""
