"""Delimited text of any length in blocks: the rows, lines and faults that ``read_delimited`` gives for the whole.

A block ends with a record. What is read ahead of that, and blank lines that may be the last of the file, wait for
the next one. One thing differs from reading the whole: a quote that is not closed within 64 MiB counts as one that
never is, so that its line is a bad row and the lines after it are rows again.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from softmaxnet.data.csv_scan import Records, line_of, scan_records
from softmaxnet.data.dataset import BadRow, BadRowLog
from softmaxnet.data.delimited import (
    _SNIFFED_ROWS,
    MAX_RECORD_BYTES,
    MISSING_TOKENS,
    CsvFormat,
    _delimiter,
    _faults,
    _found_decimal,
    _header,
    _parse,
    _records_at,
    _scan,
    _told,
    _with_points,
    _without,
)
from softmaxnet.data.table import TableRows
from softmaxnet.errors import DataError, ResourceError, UsageError

__all__ = ["BLOCK_BYTES", "delimited_blocks"]

BLOCK_BYTES = 8 << 20
_HEAD_BYTES = 1 << 17
_LINE_END = re.compile(rb"\r\n|\n|\r")

OnBytes = Callable[[int], None]


def delimited_blocks(
    path: Path,
    log: BadRowLog,
    *,
    reader: Mapping[str, object] | None = None,
    tabs: bool = False,
    block_bytes: int = BLOCK_BYTES,
    on_bytes: OnBytes | None = None,
) -> Iterator[TableRows]:
    r"""Yield the rows of a delimited file, plain or compressed by gzip or Zstandard, block by block.

    Parameters
    ----------
    path : Path
    log : BadRowLog
        Decides at bad rows; its ``offset`` is moved on by the rows found.
    reader, tabs
        As for ``read_delimited``.
    block_bytes : int
        Text that is held at a time, about; a longer row makes it longer, up to 64 MiB.
    on_bytes : callable, optional
        Told how many bytes of the file were read so far, before decompression.

    Yields
    ------
    TableRows
        ``rows`` count from the first row of the file, ``n_found`` those of the block, which may all be bad.

    Raises
    ------
    DataError, ResourceError
        As ``read_delimited``, with the same lines.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.csv"
    ...     _ = path.write_text("a,b\n1,x\n2,y\n3,z\n")
    ...     for block in delimited_blocks(path, BadRowLog(), block_bytes=8):
    ...         print(block.table.to_pydict(), block.rows, block.lines)
    {'a': ['1', '2'], 'b': ['x', 'y']} [0 1] [2 3]
    {'a': ['3'], 'b': ['z']} [2] [4]
    """
    told = _told(reader)
    source = str(path)
    with path.open("rb") as file:
        text = _Text(file, source, told.get("encoding"), on_bytes)
        form, names, line = _opening(text, told, source, tabs=tabs)
        state = _State(form, names, line, source, log, log.offset)
        held: list[TableRows] = []  # until the decimal mark is known
        n_held, settled = 0, form.delimiter != ";" or "decimal" in told
        for block in _blocks(text, state, block_bytes):
            held.append(block)
            n_held += block.table.num_rows
            if not settled and n_held < _SNIFFED_ROWS:
                continue
            state.settle_decimal(held, known=settled)
            settled = True
            yield from (state.finished(block) for block in held)
            held = []
        if not settled:
            state.settle_decimal(held, known=False)
        yield from (state.finished(block) for block in held)
        state.check_end()


# Bytes


class _Text:
    """A file's text as UTF-8 without a byte order mark, decompressed, a piece at a time."""

    def __init__(self, file: Any, source: str, encoding: str | None, on_bytes: OnBytes | None) -> None:
        self.source, self.on_bytes, self.file = source, on_bytes, file
        head = file.read(4)
        file.seek(0)
        self.raw: Any = file
        if head.startswith(b"\x1f\x8b"):
            self.raw = gzip.GzipFile(fileobj=file, mode="rb")
        elif head.startswith(b"\x28\xb5\x2f\xfd"):
            import pyarrow as pa

            self.raw = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
        self.pushed, self.ended, self.n_read = b"", False, 0
        self.decoder: codecs.IncrementalDecoder | None = None
        self.encoding, self.name = "utf-8", encoding or "utf-8"
        self._begin(encoding)

    def _begin(self, encoding: str | None) -> None:
        """Look for a byte order mark."""
        start = self._raw(4)
        if start.startswith(codecs.BOM_UTF8):
            start = start[3:]
        elif start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            self.decoder, self.name = codecs.getincrementaldecoder("utf-16")(), "utf-16"
        elif encoding is not None:
            try:
                plain = codecs.lookup(encoding).name in ("utf-8", "ascii")
            except LookupError:
                message = f"the encoding {encoding!r} is not known. Examples: utf-8, latin-1, cp1252."
                raise UsageError(message) from None
            if not plain:
                self.decoder, self.encoding = codecs.getincrementaldecoder(encoding)(), encoding
        self.line = 1
        self.pushed = self._decoded(start, final=self.ended) if self.decoder else start

    def _raw(self, n: int) -> bytes:
        try:
            data = bytes(self.raw.read(n))
        except EOFError:
            raise DataError("the gzip data end early: the file is truncated", file=self.source) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"damaged gzip data: {error}", file=self.source) from None
        except OSError as error:
            if self.raw is self.file or isinstance(self.raw, gzip.GzipFile):
                raise ResourceError(f"cannot be read: {error.strerror or error}", file=self.source) from error
            raise DataError(f"damaged or truncated Zstandard data: {error}", file=self.source) from None
        self.ended = len(data) < n if self.raw is self.file else not data
        if self.on_bytes is not None:
            self.on_bytes(self.file.tell())
        return data

    def _decoded(self, data: bytes, *, final: bool) -> bytes:
        assert self.decoder is not None
        waiting = len(self.decoder.getstate()[0])
        try:
            text = self.decoder.decode(data, final)
            out = text.encode("utf-8")
        except UnicodeError as error:
            where = error.start - waiting if isinstance(error, UnicodeDecodeError) else 0
            line = line_of(data, max(0, where), self.line)
            message = f"not {self.name} text: {getattr(error, 'reason', error)}"
            raise DataError(
                f"{message} at byte {self.n_read + max(0, where) + 1}", file=self.source, line=line
            ) from None
        self.n_read += len(data)
        self.line = line_of(out, len(out), self.line)
        return out

    def read(self, n: int) -> bytes:
        """Return about n more bytes; fewer, or none, only at the end."""
        pieces, size = [self.pushed], len(self.pushed)
        self.pushed = b""
        while size < n and not self.ended:
            data = self._raw(n - size)
            pieces.append(self._decoded(data, final=self.ended) if self.decoder else data)
            size += len(pieces[-1])
        whole = b"".join(pieces)
        whole, self.pushed = whole[:n], whole[n:]
        return whole

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing more."""
        if not self.pushed and not self.ended:
            self.pushed = self.read(1) + self.pushed  # read may leave the rest of a character there
        return not self.pushed and self.ended


def _opening(text: _Text, told: Mapping[str, Any], source: str, *, tabs: bool) -> tuple[CsvFormat, list[str], int]:
    """Return format and column names; the text then goes on with the row on the line that is returned."""
    data = text.read(_HEAD_BYTES)
    if not data or (data[:1].isspace() and not data.strip()):
        raise DataError("the file is empty; a header line with the column names is expected", file=source)
    quote = told.get("quote", '"')
    delimiter = _delimiter(data, told.get("delimiter"), tabs, quote)
    missing = tuple(told.get("missing", MISSING_TOKENS))
    form = CsvFormat(delimiter, quote, text.encoding, told.get("decimal", "."), missing)
    while True:
        final = text.exhausted
        if data.endswith(b"\r") and not final:
            data += text.read(1)  # a line feed may follow
        records = _scan(data, form, source) if final else scan_records(data, ord(delimiter), quote=bool(quote))
        if final or len(records) > 1:
            break
        if len(data) > MAX_RECORD_BYTES:
            raise DataError(f"the header has more than {MAX_RECORD_BYTES:,} bytes", file=source, line=1)
        data += text.read(len(data))
    names = _header(data, records, form, source)
    if len(records) == 1:
        raise DataError("there is a header and no row below it", file=source, line=1)
    text.pushed = data[int(records.start[1]) :] + text.pushed
    return form, names, int(records.line[1])


# Blocks of records


class _Piece(NamedTuple):
    """Text that ends with a record."""

    data: bytes
    records: Records


@dataclass
class _State:
    """What goes from one block to the next."""

    form: CsvFormat
    names: list[str]
    line: int  # of the text that comes next
    source: str
    log: BadRowLog
    offset: int  # rows of the files before this one
    n_found: int = 0
    n_good: int = 0

    def settle_decimal(self, held: list[TableRows], *, known: bool) -> None:
        """Find the decimal mark in the first rows, as in a file that is read whole."""
        if not known:
            import pyarrow as pa

            first = pa.concat_tables([block.table for block in held]) if held else None
            decimal = "." if first is None else _found_decimal(first, self.form)
            self.form = replace(self.form, decimal=decimal)

    def finished(self, block: TableRows) -> TableRows:
        """Return a block with the decimal mark made a point, and the settings that were found."""
        table = _with_points(block.table) if self.form.decimal == "," else block.table
        return replace(block, table=table, reader=self.form.to_reader())

    def check_end(self) -> None:
        """Raise where the file had no row, or none that can be read."""
        if not self.n_found:
            raise DataError("there is a header and no row below it", file=self.source, line=1)
        if not self.n_good:
            raise DataError(f"none of the {self.n_found} rows below the header can be read", file=self.source, line=1)


def _blocks(text: _Text, state: _State, block_bytes: int) -> Iterator[TableRows]:
    data = b""
    while True:
        data += text.read(max(block_bytes - len(data), 1) if len(data) < block_bytes else len(data))
        final = text.exhausted
        piece = _cut(data, state, final=final)
        if piece is None and len(data) > MAX_RECORD_BYTES:
            piece = _overflow(data, text, state)
        if piece is not None:
            data = data[len(piece.data) :]
            block = _rows(piece, state)
            if block is not None:
                yield block
        if final and not data:
            return


def _cut(data: bytes, state: _State, *, final: bool) -> _Piece | None:
    """Return the records of the text that are whole, or None where more text is needed for one."""
    form = state.form
    if final:
        try:
            records = _moved(_scan(data, form, state.source), state.line) if data else None
        except DataError as error:
            line = None if error.line is None else error.line + state.line - 1
            raise DataError(error.message, file=error.file, line=line, hint=error.hint) from None
        n = len(records) if records is not None else 0
        if records is not None and len(state.names) > 1:
            while n and records.start[n - 1] == records.stop[n - 1]:
                n -= 1
        empty = Records(*np.zeros((5, 0), dtype=np.int64))
        return _Piece(data, _records_at(records, slice(0, n)) if records is not None else empty)
    whole = len(data) - data.endswith(b"\r")  # a line feed may follow
    records = scan_records(data[:whole], ord(form.delimiter), line=state.line, quote=bool(form.quote))
    n = len(records)
    if n and records.stop[n - 1] == whole:  # it goes on
        n -= 1
    if len(state.names) > 1:
        while n and records.start[n - 1] == records.stop[n - 1]:  # the file may end with blank lines
            n -= 1
    if not n:
        return None
    end = int(records.start[n]) if n < len(records) else whole
    return _Piece(data[:end], _records_at(records, slice(0, n)))


def _overflow(data: bytes, text: _Text, state: _State) -> _Piece | None:
    """Return as bad rows what is longer than a row may be: a quote never closed, a long line, blank lines."""
    form = state.form
    records = scan_records(data, ord(form.delimiter), line=state.line, quote=bool(form.quote))
    if records.unclosed is not None:
        line_end = _LINE_END.search(data, records.unclosed)
        if line_end is not None and line_end.end() < len(data):
            head = data[: line_end.end()]
            return _Piece(head, _moved(_scan(head, form, state.source), state.line))
    elif len(records) > 1:
        return _Piece(data[: int(records.start[-1])], _records_at(records, slice(0, len(records) - 1)))
    # the rest of the line is passed over, a piece at a time
    size = len(data)
    while True:
        more = text.read(BLOCK_BYTES)
        line_end = _LINE_END.search(more)
        if line_end is not None or not more:
            break
        size += len(more)
    end = len(more) if line_end is None else line_end.end()
    size += end if line_end is None else line_end.start()
    text.pushed = more[end:] + text.pushed
    message = f"the row has {size:,} bytes; at most {MAX_RECORD_BYTES:,} are accepted"
    _add(state, BadRow(0, state.line, None, message, state.source), "A quote may not be closed.")
    state.line = line_of(data, len(data), state.line) + 1
    state.n_found += 1
    return _Piece(data, Records(*np.zeros((5, 0), dtype=np.int64)))


def _add(state: _State, bad: BadRow, hint: str | None) -> None:
    state.log.offset = state.offset + state.n_found
    state.log.add(bad, hint=hint)


def _moved(records: Records, line: int) -> Records:
    return Records(records.start, records.stop, records.line + (line - 1), records.n_lines, records.n_cells)


def _rows(piece: _Piece, state: _State) -> TableRows | None:
    """Return the rows of a piece of text, None where it has no record; bad ones are reported."""
    import pyarrow as pa

    data, records = piece
    n = len(records)
    if not n:
        return None
    state.log.offset = state.offset + state.n_found
    bad = _faults(data, records, state.form, state.names, state.source, state.log)
    state.line = int(records.line[-1] + records.n_lines[-1])
    first, state.n_found = state.n_found, state.n_found + n
    state.log.offset = state.offset + state.n_found
    text: bytes | memoryview = memoryview(data)[int(records.start[0]) :]
    rows = np.arange(n)
    if bad:
        text, rows = _without(data, records, bad, len(state.names), state.form, state.log.keeps)
    longest = int((records.stop - records.start).max())
    breaks = bool((records.n_lines > 1).any())
    if len(rows):
        table = _parse(text, state.names, state.form, longest, breaks, state.source)
    else:
        table = pa.table({name: pa.array([], pa.string()) for name in state.names})
    if table.num_rows != len(rows):
        raise DataError(
            f"the rows cannot be told apart: {len(rows)} were found and {table.num_rows} parsed",
            file=state.source,
            line=int(records.line[0]),
            hint="Quotes inside cells must be doubled.",
        )
    state.n_good += len(rows) if state.log.keeps else n - len(bad)
    return TableRows(table, rows + first, records.line[rows], n, {}, ((state.source, table.num_rows),))
