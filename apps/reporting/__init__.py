"""Reporting: totals per category, from a cache that follows the catalog by its events and HTTP API."""
