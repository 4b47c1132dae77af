"""The pytest plugin of Headwater."""
