"""tf.train.Example through the protobuf runtime, its message types built here, not generated.

An Example is a map of features; a feature is a list of byte strings, of float32 or of int64
(tensorflow/core/example/example.proto, feature.proto). The map's largest entry is an encoded image:
`split_example` sets it apart without reading it, so that annotations cost no more than they weigh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

Values = list[bytes] | list[float] | list[int]

_FieldProto = descriptor_pb2.FieldDescriptorProto
_STRING, _BYTES, _MESSAGE = (
    _FieldProto.TYPE_STRING,
    _FieldProto.TYPE_BYTES,
    _FieldProto.TYPE_MESSAGE,
)
_LENGTH_DELIMITED: Final = 2
_FIRST: Final = 1 << 3 | _LENGTH_DELIMITED  # the tag of field 1
_SECOND: Final = 2 << 3 | _LENGTH_DELIMITED


class BadExample(Exception):
    """A record's data cannot be used: the value, rule and remedy of the `Problem` that this is."""

    def __init__(
        self,
        value: str,
        *,
        rule: str = "invalid_record",
        remedy: str = "correct or remove the record",
    ) -> None:
        super().__init__(value)
        self.value = value
        self.rule = rule
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class SplitExample:
    """A serialised Example in two parts.

    Attributes:
        features: a serialised Example of all features but the one set apart.
        offset, length: where the value of that one lies, in bytes from the start of the file;
            length 0: there is none.
    """

    features: bytes
    offset: int
    length: int


def split_example(file: BinaryIO, length: int, *, key: bytes) -> SplitExample:
    """Set a feature of a single byte string apart; its value is skipped, not read.

    Args:
        file: at the start of a serialised Example.
        length: of the Example in bytes; nothing beyond it is read.
        key: of the feature.

    Raises:
        BadExample: the bytes are not an Example.
    """
    end = file.tell() + length
    entries: list[bytes] = []
    found = (0, 0)
    while file.tell() < end:  # usually once: parts of a message may be split up
        features_end = _enter(file, end, _FIRST)
        while (start := file.tell()) < features_end:
            entry_end = _enter(file, features_end, _FIRST)
            found_here = _find_value(file, entry_end, key)
            if found_here is None:
                file.seek(start)
                entries.append(file.read(entry_end - start))
            else:
                found = found_here
            file.seek(entry_end)
    features = b"".join(entries)
    whole = bytes([_FIRST]) + _encode_varint(len(features)) + features
    return SplitExample(whole, *found)


def parse_features(serialised: bytes) -> dict[str, Values]:
    """Return the features of an Example, those without a list left out.

    Raises:
        BadExample: the bytes are not an Example.
    """
    try:
        example = _EXAMPLE.FromString(serialised)
    except message.DecodeError as error:
        raise BadExample("not a tf.train.Example") from error
    features: dict[str, Values] = {}
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind is not None:
            features[key] = list(getattr(feature, kind).value)
    return features


def build_example(features: Mapping[str, Values], kinds: Mapping[str, str]) -> bytes:
    """Return a serialised Example, features ordered by key.

    Args:
        features: values by key.
        kinds: key -> "bytes", "float" or "int64".
    """
    example = _EXAMPLE()
    for key, values in features.items():
        getattr(example.features.feature[key], f"{kinds[key]}_list").value.extend(values)
    serialised: bytes = example.SerializeToString(deterministic=True)
    return serialised


def _find_value(file: BinaryIO, entry_end: int, key: bytes) -> tuple[int, int] | None:
    """Return where the byte string of a map entry lies; None: another key, or another layout."""
    try:
        key_end = _enter(file, entry_end, _FIRST)
        if key_end - file.tell() != len(key) or file.read(len(key)) != key:
            return None
        for tag in (_SECOND, _FIRST, _FIRST):  # the Feature, its BytesList, the one value
            value_end = _enter(file, entry_end, tag)
            if value_end != entry_end:
                return None
    except BadExample:
        return None
    start = file.tell()
    return start, entry_end - start


def _enter(file: BinaryIO, end: int, tag: int) -> int:
    """Read a tag and a length and return where that field ends."""
    if file.read(1) != bytes([tag]):
        raise BadExample("not a tf.train.Example")
    length = _read_varint(file)
    field_end = file.tell() + length
    if field_end > end:
        raise BadExample("not a tf.train.Example: a field is longer than what holds it")
    return field_end


def _read_varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 35, 7):  # lengths have at most 32 bits
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise BadExample("not a tf.train.Example: a length is cut short")


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _build_example_type() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="suite_example.proto", package="tensorflow", syntax="proto3"
    )
    for kind, number_type in (
        ("Bytes", _BYTES),
        ("Float", _FieldProto.TYPE_FLOAT),
        ("Int64", _FieldProto.TYPE_INT64),
    ):
        _add_field(
            file.message_type.add(name=f"{kind}List"), "value", 1, number_type, repeated=True
        )
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, kind in enumerate(("Bytes", "Float", "Int64"), start=1):
        field = _add_field(feature, f"{kind.lower()}_list", number, _MESSAGE, of=f"{kind}List")
        field.oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, _STRING)
    _add_field(entry, "value", 2, _MESSAGE, of="Feature")
    _add_field(features, "feature", 1, _MESSAGE, of="Features.FeatureEntry", repeated=True)
    _add_field(file.message_type.add(name="Example"), "features", 1, _MESSAGE, of="Features")
    pool = descriptor_pool.DescriptorPool()  # not the common one: TensorFlow's own may be there
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def _add_field(
    owner: Any, name: str, number: int, field_type: int, *, of: str = "", repeated: bool = False
) -> Any:
    label = _FieldProto.LABEL_REPEATED if repeated else _FieldProto.LABEL_OPTIONAL
    field = owner.field.add(name=name, number=number, type=field_type, label=label)
    if of:
        field.type_name = f".tensorflow.{of}"
    return field


_EXAMPLE: Final = _build_example_type()
