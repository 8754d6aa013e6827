"""TFRecord files of tf.train.Example, as far as a labelled picture needs it: where each record's fields lie.

A record is its length (8 bytes, little-endian), a checksum of the length, the content, and a checksum of that. The
content is a protocol buffer: Example.features.feature, a map from a name to a list of bytes, floats or integers.
Nothing is copied while a file is listed: fields that are not asked for are stepped over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_RECORDS = 1_000_000
_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_BYTES_LIST, _INT64_LIST = 1, 3  # fields of Feature


@dataclass(frozen=True)
class Span:
    """A part of a file, in bytes."""

    start: int
    end: int


def records(data: memoryview) -> Iterator[Span]:
    """The contents of the records of a file.

    Raises:
        ValueError: the file is cut off or is no TFRecord file.
    """
    position = count = 0
    while position < len(data):
        start = position + _LENGTH_BYTES + _CHECKSUM_BYTES
        header = bytes(data[position : position + _LENGTH_BYTES])
        checksum = int.from_bytes(data[position + _LENGTH_BYTES : start], "little")
        end = start + int.from_bytes(header, "little")
        if len(data) < start or masked_checksum(header) != checksum:
            raise ValueError(f"no TFRecord at byte {position:,}: the checksum of its length is another")
        if end + _CHECKSUM_BYTES > len(data):
            raise ValueError(f"the record at byte {position:,} is cut off")
        count += 1
        if count > MAX_RECORDS:
            raise ValueError(f"more than {MAX_RECORDS:,} records")
        yield Span(start, end)
        position = end + _CHECKSUM_BYTES


def feature_of(data: memoryview, record: Span, name: str) -> Span | int:
    """The one value of a feature: an integer, or where its bytes lie.

    Raises:
        ValueError: the record is no Example, or does not have one such value.
    """
    for features in _parts(data, record, 1):
        for entry in _parts(data, features, 1):
            keys = [bytes(data[key.start : key.end]) for key in _parts(data, entry, 1)]
            if keys == [name.encode()]:
                values = [value for feature in _parts(data, entry, 2) for value in _values(data, feature)]
                if len(values) == 1:
                    return values[0]
                raise ValueError(f"the feature '{name}' has {len(values)} values, not one")
    raise ValueError(f"an example has no feature '{name}'")


def _values(data: memoryview, feature: Span) -> Iterator[Span | int]:
    for part in _parts(data, feature, _BYTES_LIST):
        yield from _parts(data, part, 1)
    for part in _parts(data, feature, _INT64_LIST):
        for _, value in _fields(data, part):
            if isinstance(value, int):
                yield value
            else:  # packed
                position = value.start
                while position < value.end:
                    number, position = _varint(data, position, value.end)
                    yield number


def _parts(data: memoryview, message: Span, field: int) -> Iterator[Span]:
    """The values of a field that are messages, texts or bytes."""
    for number, value in _fields(data, message):
        if number == field and isinstance(value, Span):
            yield value


def _fields(data: memoryview, message: Span) -> Iterator[tuple[int, Span | int]]:
    position = message.start
    while position < message.end:
        tag, position = _varint(data, position, message.end)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position, message.end)
            yield tag >> 3, value
            continue
        if kind not in (_FIXED64, _BYTES, _FIXED32):
            raise ValueError(f"no protocol buffer: wire type {kind} at byte {position:,}")
        size = 8 if kind == _FIXED64 else 4
        if kind == _BYTES:
            size, position = _varint(data, position, message.end)
        if position + size > message.end:
            raise ValueError(f"no protocol buffer: a field of {size:,} bytes at byte {position:,} leads outside")
        yield tag >> 3, Span(position, position + size)
        position += size


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"no protocol buffer: a number without an end before byte {position:,}")


def _checksum_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # CRC-32C, Castagnoli 1993
        table.append(value)
    return table


_TABLE = _checksum_table()


def masked_checksum(data: bytes) -> int:
    """CRC-32C, turned by 15 bits and shifted by a constant, as TFRecord files store it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
