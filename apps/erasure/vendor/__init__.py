"""The third party: a service of its own that deletes people's data, asynchronously, and can be told to misbehave."""
