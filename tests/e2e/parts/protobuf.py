"""The few protobuf fields the CRI image service needs, by hand: length-delimited ones only."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(fields: dict[int, bytes | str]) -> bytes:
    """A message of strings and nested messages."""
    out = b""
    for number, value in fields.items():
        content = value.encode() if isinstance(value, str) else value
        out += _varint(number << 3 | 2) + _varint(len(content)) + content
    return out


def fields(content: bytes) -> list[tuple[int, bytes]]:
    """Number and content of each length-delimited field; fields of other wire types are passed over."""
    found, at = [], 0
    while at < len(content):
        key, at = _read_varint(content, at)
        wire_type = key & 7
        if wire_type == 2:
            length, at = _read_varint(content, at)
            found.append((key >> 3, content[at : at + length]))
            at += length
        elif wire_type == 0:
            _, at = _read_varint(content, at)
        else:
            at += {1: 8, 5: 4}[wire_type]
    return found


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def first(content: bytes, number: int) -> bytes:
    return next((value for found, value in fields(content) if found == number), b"")


def texts(content: bytes, number: int) -> list[str]:
    return [value.decode() for found, value in fields(content) if found == number]
