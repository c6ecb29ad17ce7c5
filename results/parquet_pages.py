"""What the pages of a Parquet file say of themselves, before anything is decoded.

The footer of a file may say anything; what is unpacked is what the headers of its pages say. So these are read here,
by themselves: sizes that a page would unpack to, and whether its values stand in a dictionary, from which a few bytes
become many.
"""

from __future__ import annotations

from typing import NamedTuple

_STOP, _BINARY, _STRUCT = 0, 8, 12
_INTEGERS = (4, 5, 6)
# Truth values stand in the type itself.
_OF_FIXED_SIZE = {1: 0, 2: 0, 3: 1, 7: 8}
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_HEADER_OF = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
_ENCODING_FIELD = {_DATA: 2, _DICTIONARY: 2, _DATA_V2: 4}
_PLAIN, _OLD_DICTIONARY, _INDICES = 0, 2, 8
_DEEPEST = 8

Fields = dict[int, "int | Fields"]


class Pages(NamedTuple):
    """Of one column in one row group: what its pages unpack to in bytes, their values, and whether in a dictionary."""

    unpacked: int
    values: int
    dictionary: bool


def pages_of(chunk: bytes) -> Pages:
    """
    Raises:
        ValueError: they do not fill the chunk, or are encoded in a way that no part of ours is.
    """
    view = memoryview(chunk)
    unpacked = values = place = 0
    dictionary = False
    while place < len(view):
        header, place = _struct(view, place, 0)
        kind, size, packed = (header.get(field) for field in (1, 2, 3))
        inner = header.get(_HEADER_OF.get(kind if isinstance(kind, int) else -1, -1))
        if not isinstance(kind, int) or not isinstance(size, int) or not isinstance(packed, int):
            raise ValueError("a page without its sizes")
        if size < 0 or packed < 0 or place + packed > len(view) or not isinstance(inner, dict):
            raise ValueError("a page that does not fit its column")
        count, encoding = inner.get(1), inner.get(_ENCODING_FIELD[kind])
        if not isinstance(count, int) or count < 0 or encoding not in (_PLAIN, _OLD_DICTIONARY, _INDICES):
            raise ValueError("a page of an encoding that is none of ours")
        unpacked += size
        dictionary |= kind == _DICTIONARY or encoding != _PLAIN
        values += 0 if kind == _DICTIONARY else count
        place += packed
    return Pages(unpacked, values, dictionary)


def _struct(view: memoryview, place: int, depth: int) -> tuple[Fields, int]:
    """The integers and structs of a struct in Thrift's compact protocol, by field number; and where it ends.

    Written out, for this is done for every page.
    """
    fields: Fields = {}
    number = 0
    if depth > _DEEPEST:
        raise ValueError("a page header nested too deep")
    try:
        while True:
            byte = view[place]
            place += 1
            kind = byte & 15
            if kind == _STOP:
                return fields, place
            if byte >> 4:
                number += byte >> 4
            else:
                number, place = _integer(view, place)
            if kind in _INTEGERS:
                byte = view[place]
                place += 1
                if byte < 128:
                    fields[number] = (byte >> 1) ^ -(byte & 1)
                else:
                    fields[number], place = _integer(view, place - 1)
            elif kind == _STRUCT:
                fields[number], place = _struct(view, place, depth + 1)
            elif kind == _BINARY:
                length, place = _varint(view, place)
                place += length
            elif kind in _OF_FIXED_SIZE:
                place += _OF_FIXED_SIZE[kind]
            else:
                raise ValueError("a page header with a list")
    except IndexError:
        raise ValueError("a page header that is cut short") from None


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = view[place]
        place += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, place
        if shift > 63:
            raise ValueError("a page header with too long a number")


def _integer(view: memoryview, place: int) -> tuple[int, int]:
    number, place = _varint(view, place)
    return (number >> 1) ^ -(number & 1), place
