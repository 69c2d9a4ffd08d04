"""Encoded models that would grow when protobuf reads them are refused before it does."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from suite.errors import InputError
from suite.graph_encoding import MAX_PARTS, MAX_TEXT_BYTES, check_encoding
from suite.graph_file import load_graph, read_model
from tests.fuzz import tiny


def enclose(field: bytes, content: bytes) -> bytes:
    """Return a field of a message: its tag, the length of what is in it, that itself."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return field + length + bytes([size]) + content


def test_a_million_empty_nodes_are_refused_before_there_are_objects_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "many.onnx"
    nodes = enclose(b"\x0a", b"") * (2 * MAX_PARTS)
    path.write_bytes(tiny.build_graph().SerializeToString() + enclose(b"\x3a", nodes))
    monkeypatch.setattr(onnx, "load_model_from_string", lambda *_: pytest.fail("was parsed"))
    with pytest.raises(InputError, match=f"more than {MAX_PARTS:,} nodes"):
        load_graph(path)


def test_numbers_that_grow_when_they_are_parsed_are_refused() -> None:
    numbers = enclose(b"\x3a", bytes(64 * 2**20))  # int64_data, packed: eight times that
    content = enclose(b"\x3a", enclose(b"\x2a", numbers))
    with pytest.raises(InputError, match="more than 500,000 nodes, names and numbers"):
        check_encoding(content, source="here")


def test_a_long_text_is_refused_before_it_is_decoded() -> None:
    class Bytes(bytes):
        def __getitem__(self, place: object) -> object:  # type: ignore[override]  # watches
            assert not isinstance(place, slice)
            return super().__getitem__(place)  # type: ignore[call-overload]  # as it came

    content = Bytes(enclose(b"\x12", b"x" * (MAX_TEXT_BYTES + 1)))  # the producer's name
    with pytest.raises(InputError, match=r"here: a text of 1,048,577 bytes; no detector has"):
        check_encoding(content, source="here")
    check_encoding(enclose(b"\x12", b"x" * MAX_TEXT_BYTES), source="here")


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\x7f",  # a graph of 127 bytes that are not there
        b"\x3a\x02\x0a\x01",  # a node that ends after its graph
        b"\x08\xff",  # a number without an end
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number of more than 64 bits
        b"\x3b\x3c",  # a group, which ONNX has none of
        b"\x09\x00",  # eight bytes, of which one is there
        b"\x12\x01\xff",  # a producer that is not UTF-8
        b"\x00\x00",  # no field has the number 0
    ],
)
def test_what_is_not_the_encoding_of_a_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not an ONNX file, or cut short"):
        read_model(path)


def test_messages_nested_deeper_than_protobuf_reads_are_refused() -> None:
    content = b""
    for _ in range(40):
        for field in (b"\x32", b"\x2a", b"\x0a"):  # a graph of an attribute of a node
            content = enclose(field, content)
    with pytest.raises(InputError, match="not an ONNX file, or cut short"):
        check_encoding(enclose(b"\x3a", content), source="here")
