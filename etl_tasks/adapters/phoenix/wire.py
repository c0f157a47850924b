"""Avatica's answers, parsed only as far as the rows: each value of a row stays a piece of bytes for ``decode``."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE: Final = "etl_tasks.avatica"
_ONE: Final = _Field.LABEL_OPTIONAL
_MANY: Final = _Field.LABEL_REPEATED

# Message → fields (name, number, type or name of a message, label). Numbers are those of Avatica's responses.proto and
# common.proto; what is not named here is skipped by the parser.
_MESSAGES: Final[dict[str, tuple[tuple[str, int, int | str, int], ...]]] = {
    "Row": (("value", 1, _Field.TYPE_BYTES, _MANY),),
    "Frame": (
        ("offset", 1, _Field.TYPE_UINT64, _ONE),
        ("done", 2, _Field.TYPE_BOOL, _ONE),
        ("rows", 3, "Row", _MANY),
    ),
    "FetchResponse": (
        ("frame", 1, "Frame", _ONE),
        ("missing_statement", 2, _Field.TYPE_BOOL, _ONE),
        ("missing_results", 3, _Field.TYPE_BOOL, _ONE),
    ),
    "ResultSetResponse": (
        ("statement_id", 2, _Field.TYPE_UINT32, _ONE),
        ("signature", 4, _Field.TYPE_BYTES, _ONE),
        ("first_frame", 5, "Frame", _ONE),
    ),
    "ExecuteResponse": (
        ("results", 1, "ResultSetResponse", _MANY),
        ("missing_statement", 2, _Field.TYPE_BOOL, _ONE),
    ),
}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="etl_tasks/avatica.proto", package=_PACKAGE, syntax="proto3")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind, label in fields:
            if isinstance(kind, str):
                message.field.add(
                    name=name, number=number, type=_Field.TYPE_MESSAGE, type_name=f".{_PACKAGE}.{kind}", label=label
                )
            else:
                message.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()  # of our own: another copy of this package in the process does not collide
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES: Final = _build()
FetchResponse: Final[Any] = _CLASSES["FetchResponse"]
ResultSetResponse: Final[Any] = _CLASSES["ResultSetResponse"]
ExecuteResponse: Final[Any] = _CLASSES["ExecuteResponse"]
