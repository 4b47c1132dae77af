"""How a CSV file is written: its encoding and its delimiter, found by looking."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from headwater.errors import DeclarationError, InvalidValue

DELIMITERS = ",;\t|"
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_HEADER_ROOM = 1 << 20


@dataclass
class Dialect:
    """What was found (or given): empty until reading has begun. `encoding` is Python's name of it."""

    delimiter: str = ""
    encoding: str = ""
    header: tuple[str, ...] = ()


class Transcoder:
    """The bytes of a file, in pieces, as UTF-8 without a byte order mark.

    Without a given encoding, a byte order mark tells UTF-8 or UTF-16. Else the file is UTF-8, up to the first byte that
    is not: if all before it was ASCII, the file is Windows-1252 (a superset of what Latin-1 files hold).
    """

    def __init__(self, encoding: str = "") -> None:
        self.encoding = ""
        self._given = encoding
        self._held = b""
        self._offset = 0
        self._ascii = True
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, piece: bytes, *, final: bool = False) -> bytes:
        """The next bytes; raises `InvalidValue` for bytes that the encoding does not have."""
        if self._decoder is None:
            self._held += piece
            if len(self._held) < 4 and not final:
                return b""
            piece, self._held = self._held, b""
            piece = self._begin(piece)
        elif self.encoding == "utf-8" and self._ascii and piece.isascii() and not self._pending():
            self._offset += len(piece)
            return piece
        return self._decode(piece, final)

    def _begin(self, sample: bytes) -> bytes:
        mark, encoding = next((b for b in _BOMS if sample.startswith(b[0])), (b"", ""))
        chosen = self._given or encoding or "utf-8"
        try:
            self.encoding = codecs.lookup(chosen).name
            self._decoder = codecs.getincrementaldecoder(chosen)()
        except LookupError as error:
            raise DeclarationError(f"{chosen!r} is no encoding that Python knows", operation="read rows") from error
        if not (self._given or mark) and sample[:4096].count(0) * 4 > len(sample[:4096]):
            raise InvalidValue(
                "every other byte is NUL: this looks like UTF-16 without a byte order mark",
                operation="read rows",
                hint='give encoding="utf-16-le" or "utf-16-be"',
            )
        if self._given and not self._fits(encoding):
            return sample
        self._offset += len(mark)
        return sample[len(mark) :]

    def _fits(self, marked: str) -> bool:
        return bool(marked) and codecs.lookup(marked).name == self.encoding

    def _pending(self) -> bytes:
        assert self._decoder is not None
        return self._decoder.getstate()[0]

    def _decode(self, piece: bytes, final: bool) -> bytes:
        assert self._decoder is not None
        held = self._pending()
        try:
            text = self._decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            text = self._decode_otherwise(held + piece, len(held), error)
        self._offset += len(piece)
        self._ascii = self._ascii and text.isascii()
        return text.encode()

    def _decode_otherwise(self, data: bytes, held: int, error: UnicodeDecodeError) -> str:
        if self._given or self.encoding != "utf-8" or not self._ascii or not data[: error.start].isascii():
            place = self._offset - held + error.start
            raise InvalidValue(
                f"byte 0x{data[error.start]:02x} near offset {place} is not {self.encoding}: {error.reason}",
                operation="read rows",
                hint="name the file's encoding with encoding=, unless the file is damaged or cut off",
            ) from error
        self.encoding = "cp1252"
        self._decoder = codecs.getincrementaldecoder("cp1252")("headwater.c1")
        return self._decoder.decode(data)


def _c1_control(error: UnicodeError) -> tuple[str, int]:
    """The five bytes that Windows-1252 leaves open are control characters, as in the WHATWG's encoding standard."""
    assert isinstance(error, UnicodeDecodeError)
    return chr(error.object[error.start]), error.start + 1


codecs.register_error("headwater.c1", _c1_control)


@dataclass
class Header:
    """`names` as written, without white space around; `size` is how many bytes and `lines` how many lines it takes."""

    names: tuple[str, ...]
    size: int
    lines: int


def read_header(data: bytes, delimiter: str, wanted: Collection[str]) -> tuple[Header, str]:
    """The first record that is not blank, and the delimiter: if not given, the one that yields most wanted names."""
    lines = list(io.StringIO(data[:_HEADER_ROOM].decode(errors="ignore"), newline=""))
    headers = [(_first_record(lines, choice), choice) for choice in delimiter or DELIMITERS]
    return max(headers, key=lambda h: (len({*wanted} & {*h[0].names}), len(h[0].names)))


def _first_record(lines: Sequence[str], delimiter: str) -> Header:
    reader = csv.reader(iter(lines), delimiter=delimiter)
    try:
        row = next((row for row in reader if any(cell.strip() for cell in row)), None)
    except csv.Error as error:
        raise InvalidValue(f"line {reader.line_num}: the header: {error}", operation="read rows") from error
    if row is None:
        return Header((), sum(len(line.encode()) for line in lines), len(lines))
    size = sum(len(line.encode()) for line in lines[: reader.line_num])
    return Header(tuple(cell.strip() for cell in row), size, reader.line_num)
