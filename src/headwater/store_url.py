"""URLs of stores, as they may be shown: a password stands in some."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode


def is_file_store(url: str) -> bool:
    """Whether the store is a folder of this machine, owned by one process at a time."""
    return url.partition(":")[0] == "sqlite"


def shown_store(url: str) -> str:
    """The URL without user, password and parameters, but for the schema: what tells one store from another.

    Passwords have all kinds of characters, also where they should be written with `%`.
    """
    if is_file_store(url) or url.startswith("aws:"):
        return url
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url.partition(":")[0]
    login, _, place = rest.partition("?")[0].rpartition("@")
    query = rest.partition("?")[2]
    if not login and "@" in rest:
        place, _, query = rest.rpartition("@")[2].partition("?")
    schema = dict(parse_qsl(query)).get("schema", "")
    return f"{scheme}://{place}" + (f"?schema={schema}" if schema else "")


def with_schema(url: str, schema: str) -> str:
    """The URL of the store in another schema of the same database."""
    place, _, query = url.partition("?")
    given = {**dict(parse_qsl(query, keep_blank_values=True)), "schema": schema}
    return f"{place}?{urlencode(given)}"
