"""CSV, TSV and their kin -> a table of strings, with the exact line of every row and of every fault.

The structure (records, cell counts, lines) comes from ``csv_scan``; the values come from Arrow, which is
given only records that are whole. A cell that is a missing token is null; nothing is parsed as a number here.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from softmaxnet.data.csv_scan import Records, line_of, scan_records
from softmaxnet.data.dataset import BadRow, BadRowLog, reader_settings
from softmaxnet.data.opening import is_utf8
from softmaxnet.data.table import TableRows
from softmaxnet.errors import DataError, ResourceError, UsageError

__all__ = ["MISSING_TOKENS", "CsvFormat", "read_delimited"]

MISSING_TOKENS = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?")
DELIMITERS = (",", "\t", ";", "|")
MAX_RECORD_BYTES = 64 << 20
_MAX_REPAIRS = 100  # rows with a quote that never closes, before the file is given up
_DECIMAL_COMMA = r"^([+-]?[0-9]*),([0-9]+(?:[eE][+-]?[0-9]+)?)$"
_SNIFFED_ROWS = 1000


@dataclass(frozen=True)
class CsvFormat:
    """How a delimited file is written; plain data, kept with a model.

    Parameters
    ----------
    delimiter : str
        One ASCII character.
    quote : str
        ``'"'``, or ``""`` where quotes mean nothing.
    encoding : str
        A codec that Python knows.
    decimal : str
        ``"."`` or ``","``; with a comma, cells such as ``1,5`` become ``1.5``.
    missing : tuple of str
        Cells that mean "no value", quoted or not.
    """

    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    decimal: str = "."
    missing: tuple[str, ...] = MISSING_TOKENS

    def to_reader(self) -> dict[str, object]:
        """Return the settings as plain JSON data."""
        return {
            "format": "csv",
            "delimiter": self.delimiter,
            "quote": self.quote,
            "encoding": self.encoding,
            "decimal": self.decimal,
            "missing": list(self.missing),
        }


def read_delimited(
    data: bytes,
    source: str,
    log: BadRowLog,
    *,
    reader: Mapping[str, object] | None = None,
    tabs: bool = False,
) -> TableRows:
    """Return the rows of a delimited text with a header.

    Parameters
    ----------
    data : bytes
        The whole text, decompressed.
    source : str
        Its path, for messages.
    log : BadRowLog
        Decides at bad rows: wrong number of cells, NUL, not the encoding, too long, a quote never closed.
    reader : mapping, optional
        Settings that are known: any of delimiter, quote, encoding, decimal, missing. Others are found.
    tabs : bool
        The file's name says that cells are separated by tabs.

    Raises
    ------
    DataError
        With file, line and column.
    """
    told = _told(reader)
    data, encoding = _as_utf8(data, source, told.get("encoding"))
    if not data or (data[:1].isspace() and not data.strip()):
        raise DataError("the file is empty; a header line with the column names is expected", file=source)
    quote = told.get("quote", '"')
    delimiter = _delimiter(data, told.get("delimiter"), tabs, quote)
    form = CsvFormat(delimiter, quote, encoding, missing=tuple(told.get("missing", MISSING_TOKENS)))
    records = _scan(data, form, source)
    names = _header(data, records, form, source)
    records = _body(data, records, len(names))
    bad = _faults(data, records, form, names, source, log)
    if not len(records):
        raise DataError("there is a header and no row below it", file=source, line=1)
    if len(records) == len(bad) and not log.keeps:
        raise DataError(f"none of the {len(bad)} rows below the header can be read", file=source, line=1)
    rows = np.arange(len(records))
    text: bytes | memoryview = memoryview(data)[records.start[0] :]
    if bad:
        text, rows = _without(data, records, bad, len(names), form, log.keeps)
    longest = int((records.stop - records.start).max())
    table = _parse(text, names, form, longest, bool((records.n_lines > 1).any()), source)
    if table.num_rows != len(rows):
        raise DataError(
            f"the rows cannot be told apart: {len(rows)} were found and {table.num_rows} parsed",
            file=source,
            hint="Quotes inside cells must be doubled.",
        )
    form = replace(form, decimal=told.get("decimal") or _found_decimal(table, form))
    if form.decimal == ",":
        table = _with_points(table)
    lines = records.line[rows]
    return TableRows(table, rows, lines, len(records), form.to_reader(), ((source, table.num_rows),))


# Settings, encoding, delimiter


def _told(reader: Mapping[str, object] | None) -> dict[str, Any]:
    kinds = {"delimiter": str, "quote": str, "encoding": str, "decimal": str, "missing": list}
    told = reader_settings(reader, kinds)
    names = {"comma": ",", "tab": "\t", "\\t": "\t", "semicolon": ";", "pipe": "|"}
    if "delimiter" in told:
        told["delimiter"] = names.get(told["delimiter"], told["delimiter"])
        if len(told["delimiter"]) != 1 or ord(told["delimiter"]) > 127 or told["delimiter"] in '"\r\n\0':
            raise UsageError(f"the delimiter must be one ASCII character. Got {told['delimiter']!r}.")
    if told.get("quote", '"') not in ('"', ""):
        raise UsageError(f"quote must be '\"' or '' (quotes mean nothing). Got {told['quote']!r}.")
    if told.get("decimal", ".") not in (".", ","):
        raise UsageError(f"decimal must be '.' or ','. Got {told['decimal']!r}.")
    if not all(isinstance(token, str) for token in told.get("missing", ())):
        raise UsageError(f"missing must be a list of strings. Got {told['missing']!r}.")
    return told


def _as_utf8(data: bytes, source: str, encoding: str | None) -> tuple[bytes, str]:
    """Return the text as UTF-8 without a byte order mark, and the encoding that it had."""
    if data.startswith(codecs.BOM_UTF8):
        return data[3:], "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _decoded(data, source, "utf-16"), "utf-8"  # the mark says it again for the next file
    if encoding is None:
        return data, "utf-8"
    try:
        plain = codecs.lookup(encoding).name in ("utf-8", "ascii")
    except LookupError:
        raise UsageError(
            f"the encoding {encoding!r} is not known. Examples: utf-8, latin-1, cp1252."
        ) from None
    return (data, "utf-8") if plain else (_decoded(data, source, encoding), encoding)


def _decoded(data: bytes, source: str, encoding: str) -> bytes:
    """Return text in another encoding as UTF-8."""
    try:
        return data.decode(encoding).encode("utf-8")
    except UnicodeError as error:
        line = line_of(data, error.start) if isinstance(error, UnicodeDecodeError) else None
        raise DataError(f"not {encoding} text: {error}", file=source, line=line) from None
    except MemoryError:
        raise ResourceError(f"not enough memory to decode {len(data):,} bytes", file=source) from None


def _delimiter(data: bytes, told: str | None, tabs: bool, quote: str) -> str:
    """Return the delimiter: the one told where the header has it, else the one that the header shows.

    Where several occur in the header, those with which the first rows have as many cells as the header are
    preferred, and among them the one with most cells.
    """
    if told is None and tabs:
        return "\t"
    head = data[: 1 << 16]
    whole = len(head) == len(data)
    scores: dict[str, tuple[bool, int]] = {}
    for candidate in dict.fromkeys((told or ",", *DELIMITERS)):
        records = scan_records(head, ord(candidate), quote=bool(quote))
        n_cells = records.n_cells[: (None if whole else -1)][:20]
        full = n_cells[1:][records.start[1 : len(n_cells)] < records.stop[1 : len(n_cells)]]
        if records.n_cells[0] > 1:
            fits = bool(np.all(full == records.n_cells[0]))
            scores[candidate] = (fits, int(records.n_cells[0]))
    if told in scores or not scores:
        return told or ","
    return max(scores, key=lambda candidate: scores[candidate])


# Records


def _scan(data: bytes, form: CsvFormat, source: str) -> Records:
    """Scan the text; a row whose quote never closes ends with its line, and the next line is a new row."""
    delimiter, quote = ord(form.delimiter), bool(form.quote)
    records = scan_records(data, delimiter, quote=quote)
    unclosed: list[int] = []
    parts: list[Records] = []
    while records.unclosed is not None and len(unclosed) < _MAX_REPAIRS:
        unclosed.append(records.unclosed)
        line_end = re.compile(rb"\r\n|\n|\r").search(data, records.unclosed)
        begin = line_end.end() if line_end else len(data)
        line = int(records.line[-1])
        next_line = line_of(data, begin, line, int(records.start[-1]))
        records.stop[-1] = line_end.start() if line_end else len(data)
        records.n_lines[-1] = next_line - line
        records.n_cells[-1] = -1  # marks the fault; see _cell_faults
        parts.append(records)
        records = scan_records(data, delimiter, begin=begin, line=next_line, quote=quote)
    if records.unclosed is not None:
        raise DataError(
            "a quote that opens here is never closed",
            file=source,
            line=line_of(data, records.unclosed),
        )
    parts.append(records)
    return Records(
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.stop for part in parts]),
        np.concatenate([part.line for part in parts]),
        np.concatenate([part.n_lines for part in parts]),
        np.concatenate([part.n_cells for part in parts]),
    )


def _header(data: bytes, records: Records, form: CsvFormat, source: str) -> list[str]:
    """Return the column names."""
    start, stop = int(records.start[0]), int(records.stop[0])
    if records.n_cells[0] < 0:
        raise DataError("a quote that opens in the header is never closed", file=source, line=1)
    if b"\0" in data[start:stop]:
        raise DataError(
            "the header has a NUL byte: this is no text file, or it is UTF-16", file=source, line=1
        )
    try:
        text = data[start:stop].decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the header is not UTF-8: byte 0x{data[start + error.start]:02X} at position {error.start + 1}",
            file=source,
            line=1,
            hint=_ENCODING_HINT,
        ) from None
    names = _header_cells(text, form)
    for i, name in enumerate(names):
        if not name.strip():
            raise DataError(
                f"column {i + 1} of {len(names)} has no name in the header",
                file=source,
                line=1,
                hint="Give it a name, or leave the column out (pandas: to_csv(index=False)).",
            )
    if len(set(names)) < len(names):
        name = next(name for i, name in enumerate(names) if name in names[:i])
        places = [str(i + 1) for i, other in enumerate(names) if other == name]
        raise DataError(
            f"columns {' and '.join(places)} are both named {name!r}; names must differ",
            file=source,
            line=1,
            column=name,
        )
    return names


_ENCODING_HINT = 'Convert it (iconv -f latin1 -t utf-8), or give the reader setting encoding="latin-1".'


def _header_cells(text: str, form: CsvFormat) -> list[str]:
    if not form.quote or '"' not in text:
        return text.split(form.delimiter)
    mark = re.escape(form.delimiter)
    cells = re.findall(f'(?:^|{mark})(?:"((?:[^"]|"")*)"([^{mark}]*)|([^{mark}]*))', text)
    return [quoted.replace('""', '"') + rest + plain for quoted, rest, plain in cells]


def _body(data: bytes, records: Records, n_columns: int) -> Records:
    """Return the records below the header, without blank lines at the end of a file of several columns."""
    last = len(records)
    if n_columns > 1:
        while last > 1 and records.start[last - 1] == records.stop[last - 1]:
            last -= 1
    return _records_at(records, slice(1, last))


def _records_at(records: Records, rows: slice) -> Records:
    return Records(
        records.start[rows],
        records.stop[rows],
        records.line[rows],
        records.n_lines[rows],
        records.n_cells[rows],
    )


# Faults


def _faults(
    data: bytes, records: Records, form: CsvFormat, names: Sequence[str], source: str, log: BadRowLog
) -> list[int]:
    """Report every record that cannot be used, in order, and return their positions."""
    found: dict[int, tuple[str, str | None]] = {}
    for position, message, hint in (
        *_text_faults(data, records),
        *_cell_faults(data, records, form, len(names)),
    ):
        found.setdefault(position, (message, hint))
    for position in sorted(found):
        message, hint = found[position]
        line = int(records.line[position])
        if records.n_cells[position] < 0:
            line += int(records.n_lines[position]) - 1  # the quote opens on the last line of the record
        log.add(BadRow(position, line, None, message, source), hint=hint)
    return sorted(found)


def _cell_faults(
    data: bytes, records: Records, form: CsvFormat, n_columns: int
) -> Iterable[tuple[int, str, str | None]]:
    for position in np.flatnonzero(records.n_cells != n_columns).tolist():
        n_cells, n_lines = int(records.n_cells[position]), int(records.n_lines[position])
        if n_cells < 0:
            remedy = 'Close it, or set the reader setting quote="" where quotes mean nothing.'
            yield position, "a quote that opens here is never closed", remedy
            continue
        hint: str | None = None
        found = f"{n_cells} cells" if n_cells > 1 else "1 cell"
        if records.start[position] == records.stop[position]:
            found = "a blank line"
        message = f"expected {n_columns} cell{'s' * (n_columns > 1)}, found {found}"
        if n_lines > 1:
            message += f" in a row that reaches to line {int(records.line[position]) + n_lines - 1}"
            hint = "A quote that opens in it may not be closed."
        elif n_cells > n_columns:
            hint = f"A cell with a {_spelled(form.delimiter)} in it must be in double quotes."
        yield position, message, hint


def _spelled(delimiter: str) -> str:
    return {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe"}.get(delimiter, repr(delimiter))


def _text_faults(data: bytes, records: Records) -> Iterable[tuple[int, str, str | None]]:
    for position in np.flatnonzero(records.stop - records.start > MAX_RECORD_BYTES).tolist():
        size = int(records.stop[position] - records.start[position])
        yield (
            position,
            f"the row has {size:,} bytes; at most {MAX_RECORD_BYTES:,} are accepted",
            "A quote may not be closed.",
        )
    if not len(records):
        return
    first = int(records.start[0])
    if data.find(b"\0", first) >= 0:
        zeros = np.flatnonzero(np.frombuffer(data, np.uint8, offset=first) == 0) + first
        for position in _owners(records, zeros):
            yield position, "the row has a NUL byte, which no text has", None
    if not is_utf8(data):
        for position in range(len(records)):
            cells = data[records.start[position] : records.stop[position]]
            try:
                cells.decode("utf-8")
            except UnicodeDecodeError as error:
                value = cells[error.start]
                message = f"not UTF-8: byte 0x{value:02X} at byte {error.start + 1} of the row"
                yield position, message, _ENCODING_HINT


def _owners(records: Records, offsets: np.ndarray) -> list[int]:
    """Return the records that hold these bytes."""
    positions = np.unique(np.searchsorted(records.start, offsets, side="right") - 1)
    return [int(p) for p in positions if p >= 0]


def _without(
    data: bytes, records: Records, bad: Sequence[int], n_columns: int, form: CsvFormat, keep: bool
) -> tuple[bytes, np.ndarray]:
    """Return the text below the header with the bad records left out or made empty, and the rows it has."""
    view = memoryview(data)
    empty = form.delimiter.encode() * (n_columns - 1) + b"\r\n"
    pieces: list[bytes | memoryview] = []
    begin = 0
    for position in [*bad, len(records)]:
        if position > begin:
            pieces.append(view[int(records.start[begin]) : int(records.stop[position - 1])])
            pieces.append(b"\r\n")  # after a lone CR a lone LF would be taken for its other half
        if keep and position < len(records):
            pieces.append(empty)
        begin = position + 1
    rows = np.arange(len(records))
    return b"".join(pieces), rows if keep else np.delete(rows, np.asarray(bad))


# Values


def _parse(
    text: bytes | memoryview,
    names: Sequence[str],
    form: CsvFormat,
    longest: int,
    line_breaks: bool,
    source: str,
) -> Any:
    """Return whole records as an Arrow table of strings, nulls where a cell is a missing token."""
    import pyarrow as pa
    import pyarrow.csv

    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(text),
            read_options=pyarrow.csv.ReadOptions(
                column_names=list(names), block_size=min(max(4 << 20, 2 * longest + 1024), 2**31 - 1)
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=form.delimiter,
                quote_char=form.quote or False,
                newlines_in_values=line_breaks,
                ignore_empty_lines=len(names) > 1,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=list(form.missing),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                check_utf8=False,  # _text_faults has, and knows the line
            ),
        )
    except pa.ArrowMemoryError as error:
        raise ResourceError(f"not enough memory: {error}", file=source) from None
    except pa.ArrowInvalid as error:
        raise DataError(f"cannot be parsed: {str(error).splitlines()[0]}", file=source) from None


def _found_decimal(table: Any, form: CsvFormat) -> str:
    """Return a comma where the delimiter is a semicolon and some column's cells are numbers such as 1,5."""
    import pyarrow.compute as pc

    if form.delimiter != ";":
        return "."
    for column in table.slice(0, _SNIFFED_ROWS).columns:
        cells = column.drop_null()
        number = pc.match_substring_regex(cells, r"^[+-]?[0-9]*,?[0-9]+(?:[eE][+-]?[0-9]+)?$")
        if len(cells) and pc.all(number).as_py() and pc.any(pc.match_substring(cells, ",")).as_py():
            return ","
    return "."


def _with_points(table: Any) -> Any:
    """Return the table with each cell such as 1,5 written 1.5; other cells are as they were."""
    import pyarrow.compute as pc

    columns = []
    for column in table.columns:
        has_comma = pc.any(pc.match_substring(column, ",")).as_py()
        columns.append(pc.replace_substring_regex(column, _DECIMAL_COMMA, r"\1.\2") if has_comma else column)
    return table.from_arrays(columns, names=table.column_names)
