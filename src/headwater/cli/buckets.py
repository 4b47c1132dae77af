"""`headwater bucket`: objects in and out, listed, removed, and URLs for others to do so."""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from headwater.cli.exits import UsageError
from headwater.cli.options import AsJson, Env, Limit, Store, Yes, confirm
from headwater.cli.output import note, print_json, print_removed, print_table, shown
from headwater.cli.session import Session
from headwater.errors import HeadwaterError

app = typer.Typer(no_args_is_help=True, help="Objects of buckets: put, get, list and remove them, presign URLs.")
Bucket = Annotated[str, typer.Argument(metavar="BUCKET", help="A bucket, as app/bucket.", show_default=False)]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The object's key.", show_default=False)]
ContentType = Annotated[str, typer.Option("--content-type", metavar="TYPE", help="The content type.")]
Sha256 = Annotated[str, typer.Option("--sha256", metavar="HEX", help="The SHA-256 that the content must have.")]
_CHUNK = 256 * 1024
_UNNAMED = ("", ".", "..")


@app.command()
def put(
    bucket: Bucket,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file; - reads standard input.")],
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="By default the file's name.", show_default=False)] = "",
    *,
    content_type: ContentType = "",
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="NAME=VALUE", help="Metadata; may be repeated.")
    ] = None,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only if there is no object of this key.")] = False,
    if_match: Annotated[
        str | None, typer.Option("--if-match", metavar="ETAG", help="Only if the object has this etag.")
    ] = None,
    sha256: Sha256 = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Store a file as an object; prints its etag."""
    if not key and file == "-":
        raise UsageError("standard input has no name: give a KEY")
    parameters = {
        "bucket": bucket,
        "key": key or Path(file).name,
        "content_type": content_type or mimetypes.guess_type(key or file)[0] or "application/octet-stream",
        "metadata": _pairs(meta or []),
        "if_absent": if_absent,
        "if_match": if_match,
        "sha256": sha256,
    }
    from headwater.cli.transfers import put_object

    with _source(file) as (opened, size), _progress(size) as count:
        answer = put_object(Session(store, env), parameters, _chunks(opened, count), size)
    if as_json:
        print_json(answer)
    else:
        print(answer["etag"])


@app.command()
def get(
    bucket: Bucket,
    key: Key,
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="Where to; - writes to standard output.", show_default=False)
    ] = "",
    *,
    version: Annotated[str, typer.Option("--version", metavar="VERSION", help="This version of it.")] = "",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that exists.")] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Read an object into a file, by default one with the end of its key as name. The file appears when it is whole."""
    from headwater.cli.transfers import get_object

    parameters = {"bucket": bucket, "key": key} | ({"version": version} if version else {})
    session = Session(store, env)
    if file == "-":
        if as_json:
            raise UsageError("--json and - both use standard output")
        get_object(session, parameters, lambda _: sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return
    target = Path(file) if file else _named(key)
    if target.is_dir():
        target = target / _named(key)
    if target.exists() and not force:
        raise UsageError(f"{target} exists", "--force replaces it")
    answer = _download(session, parameters, target)
    if as_json:
        print_json(answer)
    else:
        note(f"{shown(target)}: {answer['size']} bytes")


def _download(session: Session, parameters: dict[str, Any], target: Path) -> dict[str, Any]:
    """Through a file beside the target, which is renamed when all has come and has the right checksum."""
    from headwater.cli.transfers import get_object

    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(_created(draft))

        def begin(info: dict[str, Any]) -> Callable[[bytes], None]:
            count = stack.enter_context(_progress(info["size"]))

            def take(chunk: bytes) -> None:
                opened.write(chunk)
                digest.update(chunk)
                count(len(chunk))

            return take

        answer = get_object(session, parameters, begin)
        if digest.hexdigest() != answer["sha256"]:
            raise HeadwaterError("the bytes that came are not the object's", operation="get", resource=answer["key"])
        opened.flush()
        os.replace(draft, target)
    return answer


@app.command("ls")
def list_objects(
    bucket: Bucket,
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin so.", show_default=False)
    ] = "",
    *,
    delimiter: Annotated[
        str, typer.Option("--delimiter", "-d", metavar="TEXT", help="Show what is below it as one prefix, as with /.")
    ] = "",
    versions: Annotated[
        str, typer.Option("--versions", metavar="KEY", help="The older versions of this object, newest first.")
    ] = "",
    limit: Limit = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where a page ended.")] = None,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """List objects in the order of their keys, or the older versions of one."""
    session = Session(store, env)
    if versions:
        if prefix or delimiter:
            raise UsageError("--versions lists one object: it takes no prefix and no delimiter")
        answer = session.call("bucket-versions", bucket=bucket, key=versions, limit=limit, cursor=cursor)
    else:
        answer = session.call(
            "bucket-list", bucket=bucket, prefix=prefix, delimiter=delimiter, limit=limit, cursor=cursor
        )
    if as_json:
        print_json(answer)
        return
    if versions:
        _print_versions(answer["items"])
    else:
        _print_objects(answer)
    if answer["cursor"]:
        note(f"more: --cursor {answer['cursor']}")


def _print_objects(answer: dict[str, Any]) -> None:
    rows = [("", "", "", below) for below in answer["prefixes"]]
    rows += [(o["size"], o["modified"], o["content_type"], o["key"]) for o in answer["items"]]
    rows.sort(key=lambda row: str(row[3]).encode("utf-8", "surrogatepass"))
    print_table(("size", "modified", "content type", "key"), rows, "" if rows else "objects")


def _print_versions(items: list[dict[str, Any]]) -> None:
    rows = [(o["size"], o["modified"], o["content_type"], o["version"]) for o in items]
    print_table(("size", "modified", "content type", "version"), rows, "" if rows else "older versions")


@app.command("rm")
def remove(
    bucket: Bucket,
    key: Key,
    *,
    if_match: Annotated[
        str | None, typer.Option("--if-match", metavar="ETAG", help="Only if the object has this etag.")
    ] = None,
    version: Annotated[str, typer.Option("--version", metavar="VERSION", help="Only this version of it.")] = "",
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Remove an object; with --version one version of it, for good."""
    answer = Session(store, env).call("bucket-delete", bucket=bucket, key=key, if_match=if_match, version=version)
    if as_json:
        print_json(answer)
    else:
        print(f"{bucket} {shown(answer['key'])}: removed")


@app.command()
def clear(
    bucket: Bucket,
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin so.", show_default=False)
    ] = "",
    *,
    yes: Yes = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Remove all objects, or those whose keys begin with the prefix. Asks first."""
    confirm(f"Remove all objects of {bucket}{f' below {shown(prefix)}' if prefix else ''}?", yes=yes)
    session, removed = Session(store, env), 0
    while slice := session.call("bucket-clear", bucket=bucket, prefix=prefix)["removed"]:
        removed += slice
    print_removed(bucket, removed, "objects", as_json=as_json)


@app.command()
def presign(
    bucket: Bucket,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="GET, PUT or POST (a browser's upload form).")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The object's key; for POST also a prefix that ends in /.")],
    *,
    expires: Annotated[str, typer.Option("--expires", metavar="DURATION", help="How long it is good.")] = "15m",
    size: Annotated[int, typer.Option("--size", min=0, help="Bytes at the most; 0 leaves it to the bucket.")] = 0,
    sha256: Sha256 = "",
    content_type: ContentType = "",
    once: Annotated[bool, typer.Option("--once", help="Good for one use.")] = False,
    as_json: AsJson = False,
    store: Store = "",
    env: Env = "",
) -> None:
    """Print a URL that does one thing without credentials. A server must run."""
    answer = Session(store, env).call(
        "bucket-presign",
        bucket=bucket,
        method=method.upper(),
        key=key,
        expires=expires,
        size=size,
        sha256=sha256,
        content_type=content_type,
        once=once,
    )
    if as_json:
        print_json(answer)
    else:
        print(answer["url"])


def _pairs(options: list[str]) -> dict[str, str]:
    found = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not name or not equals:
            raise UsageError(f"--meta {option!r} is not NAME=VALUE")
        found[name] = value
    return found


def _named(key: str) -> Path:
    """A file of the working folder named like the end of a key, which is nothing but data."""
    name = key.rpartition("/")[2]
    if name in _UNNAMED or "\0" in name:
        raise UsageError(f"no file can be named after {key!r}", "give a FILE")
    return Path(name)


@contextlib.contextmanager
def _source(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """What is read, and its size where that is known and will not change."""
    if file == "-":
        yield sys.stdin.buffer, None
        return
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise UsageError(f"cannot read {file}: {error.strerror}") from error
        yield opened, os.fstat(opened.fileno()).st_size if Path(file).is_file() else None


@contextlib.contextmanager
def _created(draft: Path) -> Iterator[BinaryIO]:
    try:
        opened = draft.open("xb")
    except OSError as error:
        raise UsageError(f"cannot write {draft}: {error.strerror}") from error
    try:
        with opened:
            yield opened
    finally:
        draft.unlink(missing_ok=True)


def _chunks(opened: BinaryIO, count: Callable[[int], object]) -> Iterator[bytes]:
    while chunk := opened.read(_CHUNK):
        yield chunk
        count(len(chunk))


@contextlib.contextmanager
def _progress(size: int | None) -> Iterator[Callable[[int], object]]:
    """A bar on standard error, if that is a terminal; what counts the bytes that have passed."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=size)
        yield lambda count: bar.advance(task, count)
