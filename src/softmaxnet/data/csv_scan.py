"""Where the records of delimited text begin and end: exact lines and cell counts, before any value is parsed.

The rules are those of RFC 4180 as Arrow reads them: a quote opens a cell only as its first byte; inside, two
quotes are one; a quote elsewhere is a character like any other; LF, CR LF and CR end a record outside quotes.

The text is scanned with NumPy in blocks that end after a line feed, so that no multi-byte character and no
CR LF is cut, and the state between blocks is only ``_Carry``: a reader of streams can feed its own blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Records", "line_of", "scan_records"]

BLOCK_BYTES = 1 << 23
_LF, _CR, _QUOTE = 10, 13, 34


@dataclass(frozen=True)
class Records:
    """The records of a text, one entry each.

    Parameters
    ----------
    start, stop : numpy.ndarray of int64
        Byte offsets of the record in the text; ``stop`` is before its line ending.
    line : numpy.ndarray of int64
        1-based physical line on which it starts.
    n_lines : numpy.ndarray of int64
        Physical lines that it covers: more than 1 with quoted line breaks.
    n_cells : numpy.ndarray of int64
    unclosed : int or None
        Byte offset of the quote that never closes; the last record then reaches to the end of the text.
    """

    start: np.ndarray
    stop: np.ndarray
    line: np.ndarray
    n_lines: np.ndarray
    n_cells: np.ndarray
    unclosed: int | None = None

    def __len__(self) -> int:
        return len(self.start)


@dataclass
class _Carry:
    """What one block hands to the next."""

    start: int  # of the record that is under way
    line: int  # on which that record starts
    next_line: int  # of the next byte
    n_delimiters: int = 0
    inside: int = 0  # 1 within quotes
    opened: int = 0  # offset of the last quote that opened a cell


def line_of(data: bytes, offset: int, first_line: int = 1, begin: int = 0) -> int:
    r"""Return the physical line of a byte, counting LF, CR LF and lone CR.

    Examples
    --------
    >>> line_of(b"a\r\nb\rc", 5)
    3
    """
    endings = data.count(b"\n", begin, offset) + data.count(b"\r", begin, offset)
    return first_line + endings - data.count(b"\r\n", begin, offset)


def scan_records(
    data: bytes, delimiter: int, *, begin: int = 0, line: int = 1, quote: bool = True
) -> Records:
    r"""Return where the records of ``data[begin:]`` are.

    Parameters
    ----------
    data : bytes
    delimiter : int
        The byte between cells.
    begin, line : int
        Offset of the first record, and its 1-based physical line.
    quote : bool
        False: a double quote has no meaning.

    Examples
    --------
    >>> records = scan_records(b'a,b\n"1\n2",x\n', 44)
    >>> records.line.tolist(), records.n_cells.tolist(), records.n_lines.tolist()
    ([1, 2], [2, 2], [1, 2])
    """
    carry = _Carry(start=begin, line=line, next_line=line)
    found = [
        _scan_block(data, low, high, delimiter, quote, carry, begin) for low, high in _blocks(data, begin)
    ]
    if carry.start < len(data):  # the last record has no line ending, or a quote is open
        last = (carry.start, len(data), carry.line, carry.next_line - carry.line + 1, carry.n_delimiters + 1)
        found.append(np.array(last, dtype=np.int64).reshape(5, 1))
    table = np.concatenate(found, axis=1) if found else np.zeros((5, 0), dtype=np.int64)
    start, stop, lines, n_lines, n_cells = table
    return Records(start, stop, lines, n_lines, n_cells, carry.opened if carry.inside else None)


def _blocks(data: bytes, begin: int) -> Iterator[tuple[int, int]]:
    low = begin
    while low < len(data):
        high = len(data)
        if high - low > BLOCK_BYTES:
            cut = data.rfind(b"\n", low, low + BLOCK_BYTES)
            if cut < 0:
                cut = data.find(b"\n", low + BLOCK_BYTES)
            high = cut + 1 if cut >= 0 else len(data)
        yield low, high
        low = high


def _scan_block(
    data: bytes, low: int, high: int, delimiter: int, quote: bool, carry: _Carry, begin: int
) -> np.ndarray:
    """Return (start, stop, line, n_lines, n_cells) of the records that end in one block."""
    block = np.frombuffer(data, np.uint8, high - low, low)
    ends = _line_ends(data, block, low, high)
    delimiters = np.flatnonzero(block == delimiter)
    line_ends = ends
    if carry.inside or (quote and data.find(b'"', low, high) >= 0):
        outside = _outside_quotes(data, block, low, delimiter, carry, begin)
        ends = ends[outside[ends]]
        delimiters = delimiters[outside[delimiters]]
    table = np.empty((5, len(ends)), dtype=np.int64)
    start, stop, line, n_lines, n_cells = table
    # each record starts after the end of the one before; the first goes on from the block before
    start[1:] = ends[:-1] + 1 + low
    start[:1] = carry.start
    stop[:] = ends + low
    crlf = (block[ends] == _LF) & (ends > 0) & (block[ends - 1] == _CR) if len(ends) else ends.astype(bool)
    stop[crlf] -= 1
    lines_before = np.searchsorted(line_ends, ends)  # physical lines that end before this one does
    line[1:] = carry.next_line + lines_before[:-1] + 1
    line[:1] = carry.line
    n_lines[:] = carry.next_line + lines_before - line + 1
    delimiters_before = np.searchsorted(delimiters, ends)
    n_cells[:] = np.diff(delimiters_before, prepend=0) + 1
    n_cells[:1] += carry.n_delimiters
    if len(ends):
        carry.start = int(ends[-1]) + 1 + low
        carry.line = carry.next_line + int(lines_before[-1]) + 1
        carry.n_delimiters = len(delimiters) - int(delimiters_before[-1])
    else:
        carry.n_delimiters += len(delimiters)
    carry.next_line += len(line_ends)
    return table


def _line_ends(data: bytes, block: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return the offset in the block of the last byte of each line ending."""
    if data.find(b"\r", low, high) < 0:
        return np.flatnonzero(block == _LF)
    feed = block == _LF
    lone = block == _CR
    lone[:-1] &= ~feed[1:]
    return np.flatnonzero(feed | lone)


def _outside_quotes(
    data: bytes, block: np.ndarray, low: int, delimiter: int, carry: _Carry, begin: int
) -> np.ndarray:
    """Return for each byte of the block whether it is outside quotes, after it; moves the carried state."""
    events = block == _QUOTE
    inside = np.bitwise_xor.accumulate(events.view(np.uint8)) ^ np.uint8(carry.inside)
    quotes = np.flatnonzero(events)
    before = block[quotes - 1] if len(quotes) else block[:0]  # wraps for a quote at 0: set right below
    boundary = (before == delimiter) | (before == _LF) | (before == _CR)
    if len(quotes) and quotes[0] == 0:
        boundary[0] = low == begin or data[low - 1] in (_LF, _CR)
    opens = inside[quotes] == 1
    if not np.all(boundary | (before == _QUOTE) | ~opens):
        # a quote within an unquoted cell is only a character: parity alone would be wrong
        events[_plain_quotes(quotes, boundary, carry.inside)] = False
        inside = np.bitwise_xor.accumulate(events.view(np.uint8)) ^ np.uint8(carry.inside)
        opens = (inside[quotes] == 1) & events[quotes]
    starts = quotes[opens & boundary]
    if len(starts):
        carry.opened = int(starts[-1]) + low
    carry.inside = int(inside[-1])
    return np.asarray(inside == 0)


def _plain_quotes(quotes: np.ndarray, boundary: np.ndarray, inside: int) -> list[int]:
    """Return the quotes that neither open nor close a cell nor stand for one within quotes."""
    plain = []
    positions, opens_cell = quotes.tolist(), boundary.tolist()
    i = 0
    while i < len(positions):
        if not inside:
            if opens_cell[i]:
                inside = 1
            else:
                plain.append(positions[i])
        elif i + 1 < len(positions) and positions[i + 1] == positions[i] + 1:
            i += 1  # a pair is one quote
        else:
            inside = 0
        i += 1
    return plain
