"""Ways to damage an input: of bytes, of JSON, and of what archives and tensor files hold inside.

Each takes a random generator and valid inputs, and returns another input; the same generator gives the same one.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

DTYPES = (
    *("BOOL", "F4", "F6_E2M3", "F8_E4M3", "F8_E5M2", "F8_E8M0", "BF16", "F16", "F32", "F64", "C64"),
    *("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "X", ""),
)
_RAW = "\ue000raw:"  # marks a string of the document whose text is to stand in the JSON as it is


def bytes_of(rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Flip, overwrite, cut, insert, remove, repeat or splice bytes, once or a few times."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + rng.choice((1, 4, 8, 64, 1024)))
        match rng.randrange(9):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.choice((0x00, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                del data[at:]
            case 3:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 8, 64)))
            case 4:
                del data[at:to]
            case 5:
                data[at:at] = data[at:to] * rng.choice((1, 2, 64))
            case 6:
                other = rng.choice(corpus)
                data[at:] = other[rng.randrange(len(other) + 1) :]
            case 7:
                data[at:to] = struct.pack(rng.choice("<>") + "Q", rng.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1)))
            case _:
                data[at:to] = bytes(to - at)
    return bytes(data)


def json_of(rng: Random, corpus: Sequence[bytes], words: Sequence[str] = ()) -> bytes:
    """Change members of a document: other values, absurd numbers, depths and lengths; now and then its bytes.

    Args:
        words: strings that the format gives a meaning.
    """
    if rng.random() < 0.25:
        return bytes_of(rng, corpus)
    document = json.loads(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        document = _changed(rng, document, words)
    return text_of(document).encode("utf-8", "surrogatepass")


def text_of(document: Any) -> str:
    """Return a document as JSON, with the parts that no JSON library would write."""
    pieces = json.dumps(document, ensure_ascii=False).split(f'"{_RAW}')
    return pieces[0] + "".join(_raw(*piece.split('"', 1)) for piece in pieces[1:])


def _raw(what: str, rest: str) -> str:
    kind, _, number = what.partition(" ")
    depth = int(number)
    match kind:
        case "list":
            text = "[" * depth + "]" * depth
        case "object":
            text = '{"a":' * depth + "1" + "}" * depth
        case "digits":
            text = "9" * depth
        case "exponent":
            text = f"1e{depth}"
        case "twice":
            text = '{"a":1,"a":2}'
        case _:
            text = "{" + ",".join(f'"{i}":0' for i in range(depth)) + ',"0":1}'
    return text + rest


def _absurd(rng: Random, words: Sequence[str]) -> Any:
    return rng.choice(
        (
            *(None, True, False, 0, 1, -1, 2, 2**31, 2**63, 2**64, -(2**64), 10**400),
            *(0.5, -0.0, 5e-324, 1e308, float("nan"), float("inf"), float("-inf")),
            *("", "x" * 10_000, "\0", "\ud800", "é" * 100, "2025-01-31T12:00:00+00:00"),
            *([], {}, [[]], [0] * 1000, {"": None}),
            f"{_RAW}{rng.choice(('list', 'object'))} {rng.choice((10, 100, rng.randrange(200, 1100), 5000, 100_000))}",
            f"{_RAW}digits {rng.choice((100, 4299, 4300, 5000, 100_000))}",
            f"{_RAW}exponent {rng.choice((308, 309, 400, 10**9))}",
            f"{_RAW}twice 0",
            f"{_RAW}names {rng.choice((10, 1000, 30_000))}",
            *words,
        )
    )


def _changed(rng: Random, value: Any, words: Sequence[str]) -> Any:
    """Return ``value`` with one place in it changed; the deeper, the likelier."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {key: member for key, member in value.items() if key != name}
            case 1:
                return {**value, rng.choice(("", "extra", "__proto__", "é", "\ud800", name + " ")): value[name]}
            case 2:
                return {**value, name: value[rng.choice(list(value))]}
            case _:
                return {**value, name: _changed(rng, value[name], words)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value[:at], *[value[at]] * rng.choice((2, 100)), *value[at:]]
            case 2:
                return [value]
            case _:
                return [*value[:at], _changed(rng, value[at], words), *value[at + 1 :]]
    return _absurd(rng, words)


def safetensors_of(rng: Random, corpus: Sequence[bytes], metadata: str, words: Sequence[str]) -> bytes:
    """Change the header of a safetensors file, or the JSON that an entry of its metadata holds, or its bytes.

    Args:
        metadata: name of that entry.
    """
    whole = rng.choice(corpus)
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + length]), bytearray(whole[8 + length :])
    match rng.randrange(4):
        case 0:
            return bytes_of(rng, corpus)
        case 1:
            entry = json_of(rng, [header["__metadata__"][metadata].encode()], words)
            header["__metadata__"][metadata] = entry.decode("utf-8", "replace")
        case 2:
            header = _changed(rng, header, [*DTYPES, *words])
        case _:
            for _ in range(rng.choice((1, 4))):
                at = rng.randrange(len(data) // 4) * 4
                strange = (b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\0\0\x80\xbf", b"\x01\0\0\0", rng.randbytes(4))
                data[at : at + 4] = rng.choice(strange)
    if rng.random() < 0.1:
        data = bytearray(bytes_of(rng, [bytes(data)]))
    text = text_of(header).encode("utf-8", "replace")
    return struct.pack("<Q", len(text)) + text + bytes(data)


def gzip_of(rng: Random, corpus: Sequence[bytes], unpacked: Sequence[bytes]) -> bytes:
    """Change the bytes of a gzip file, or what it holds."""
    if rng.random() < 0.5:
        return bytes_of(rng, corpus)
    return gzip.compress(bytes_of(rng, unpacked), 1, mtime=0)


def zip_of(rng: Random, corpus: Sequence[bytes], content: Callable[[Random], bytes]) -> bytes:
    """Change the bytes of an archive of torch.save, or a part of it with its checksum made right, or what it holds.

    Args:
        content: returns an archive that was saved whole, of other content.
    """
    match rng.randrange(4):
        case 0:
            return bytes_of(rng, corpus)
        case 1:
            return content(rng)
    parts = _parts(rng.choice(corpus))
    name = rng.choice(list(parts)) if rng.random() < 0.3 else next(each for each in parts if each.endswith("data.pkl"))
    match rng.randrange(8):
        case 0:
            del parts[name]
        case 1:
            parts[f"{name}{rng.choice(('x', '/', '../x'))}"] = parts[name]
        case _:
            parts[name] = bytes_of(rng, [parts[name]])
    return archive(parts, zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED)


def _parts(whole: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(whole)) as found:
        return {info.filename: found.read(info) for info in found.infolist()}


def archive(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive with these parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in parts.items():
            made.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()
