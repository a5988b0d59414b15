"""The Arrow schema of each row type, derived from ``telemetry.rows``."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa

from telemetry.rows import ROW_TYPES, Column, columns

ARROW_TYPES: dict[str, pa.DataType] = {
    "int64": pa.int64(),
    "int32": pa.int32(),
    "int8": pa.int8(),
    "float64": pa.float64(),
    "float32": pa.float32(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "list<int32>": pa.list_(pa.int32()),
    "list<float32>": pa.list_(pa.float32()),
}

NUMPY_TYPES: dict[str, np.dtype] = {
    name: np.dtype(name) for name in ("int64", "int32", "int8", "float64", "float32", "bool")
}

LIST_TYPES: dict[str, np.dtype] = {"list<int32>": np.dtype("int32"), "list<float32>": np.dtype("float32")}


def arrow_type(column: Column) -> pa.DataType:
    """The type a column has in the spool; an enumerated column is a dictionary of its choices."""
    if column.choices:
        return pa.dictionary(pa.int8(), pa.string())
    return ARROW_TYPES[column.arrow_type]


@cache
def schema(row: str) -> pa.Schema:
    """Arrow schema of a row type's spool file; units travel in the fields' metadata."""
    fields = [
        pa.field(name, arrow_type(c), nullable=c.nullable, metadata={"unit": c.unit, "provenance": c.provenance})
        for name, c in columns(ROW_TYPES[row]).items()
    ]
    return pa.schema(fields, metadata={"row": row})


@cache
def choice_array(choices: tuple[str, ...]) -> pa.Array:
    """The dictionary of an enumerated column; one object per column, so a stream holds it once."""
    return pa.array(choices, pa.string())


def of_today(batch: pa.RecordBatch, row: str) -> pa.RecordBatch:
    """A batch as this version writes them: its columns, in its order.

    Columns that came after the batch was recorded are null, or zero where null is not allowed: what was not counted then did not
    happen then. Columns that this version does not know are left out.

    Raises:
        pa.ArrowException, KeyError: a column of another type, or without one that has always been there.
    """
    wanted = schema(row)
    if batch.schema.equals(wanted):
        return batch
    arrays = []
    for field in wanted:
        if (at := batch.schema.get_field_index(field.name)) >= 0:
            array = batch.column(at)
            arrays.append(array if array.type == field.type else array.cast(field.type))
        elif field.nullable:
            arrays.append(pa.nulls(batch.num_rows, field.type))
        elif pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            arrays.append(pa.array(np.zeros(batch.num_rows), field.type))
        else:
            raise KeyError(f"{row} rows without {field.name}")
    return pa.RecordBatch.from_arrays(arrays, schema=wanted)
