"""A row of a sealed table as a frozen dataclass, and the Arrow schema that follows from its fields."""

import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any, ClassVar

import pyarrow as pa


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A row of a sealed table. Fields are text, numbers, booleans, bytes, or tuples of text. stem: name of the
    table's file."""

    stem: ClassVar[str]
    _schemas: ClassVar[dict[type, pa.Schema]] = {}
    _fields: ClassVar[dict[type, tuple[str, ...]]] = {}

    @classmethod
    def schema(cls) -> pa.Schema:
        """The Arrow schema of a table of this record, in field order."""
        if cls not in Record._schemas:
            hints = typing.get_type_hints(cls)
            Record._schemas[cls] = pa.schema([_arrow_field(f.name, hints[f.name]) for f in dataclasses.fields(cls)])
        return Record._schemas[cls]

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        """The fields, in order; kept, since every row asks for them."""
        if cls not in Record._fields:
            Record._fields[cls] = tuple(field.name for field in dataclasses.fields(cls))
        return Record._fields[cls]

    @classmethod
    def table(cls, records: Iterable[typing.Self]) -> pa.Table:
        """An Arrow table of these records, columns in field order."""
        records = list(records)
        columns = {name: [getattr(record, name) for record in records] for name in cls._names()}
        return pa.Table.from_pydict(columns, schema=cls.schema())

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> typing.Self:
        """The record that a table's row holds; raises KeyError when a column is missing."""
        values = {name: row[name] for name in cls._names()}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def as_dict(self) -> dict[str, Any]:
        """The row of this record: plain Python values, tuples as lists."""
        values = {name: getattr(self, name) for name in self._names()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    tuple[str, ...]: pa.list_(pa.string()),
}


def _arrow_field(name: str, hint: Any) -> pa.Field:
    nullable = isinstance(hint, types.UnionType)
    if nullable:
        (hint,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
    return pa.field(name, _ARROW_TYPES[hint], nullable=nullable)
