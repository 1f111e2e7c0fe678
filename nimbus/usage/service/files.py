# SPDX-License-Identifier: Apache-2.0
"""Files of logged calls: CSV, JSON lines and Parquet, with the same columns and the same texts.

A file grows by sets of rows; none keeps more than one set in memory.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Protocol

COLUMNS: dict[str, type] = {
    "id": str,
    "at": str,
    "environment": str,
    "product": str,
    "method": str,
    "path": str,
    "status": int,
    "refused_as": str,
    "billable": bool,
    "billed_because": str,
    "units": int,
    "meters": str,
    "amount": str,
    "currency": str,
    "duration_us": int,
    "upstream_us": int,
    "bytes_in": int,
    "bytes_out": int,
    "key_id": str,
    "subscription_id": str,
    "request_id": str,
    "ip": str,
    "source": str,
}
"""Each column and what it holds; docs/guides/consumer.md says what it means. `amount` is an exact
decimal text in whole currency units, `meters` is JSON, `at` is RFC 3339 in UTC.
"""

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""

Row = Mapping[str, Any]


class File(Protocol):
    """A file that grows."""

    def write(self, rows: Sequence[Row]) -> None:
        """Put rows behind those that are there."""

    def close(self) -> None:
        """Finish the file."""


def open_file(format_name: str, path: Path) -> File:
    """A new file of a format (csv, jsonl, parquet), in the place of what was there."""
    if format_name == "parquet":
        return ParquetFile(path)
    return CsvFile(path) if format_name == "csv" else JsonLinesFile(path)


def harmless(value: object) -> object:
    """A cell that no spreadsheet computes: '=1+1 instead of =1+1."""
    if isinstance(value, str) and value.startswith(FORMULAS):
        return f"'{value}"
    return value


class CsvFile:
    """RFC 4180 with a line of names, in UTF-8; a yes is true, nothing is an empty cell."""

    def __init__(self, path: Path) -> None:
        self._file = _create(path)
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)

    def write(self, rows: Sequence[Row]) -> None:
        """Put rows behind those that are there."""
        self._writer.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class JsonLinesFile:
    """One JSON object a line, in UTF-8; nothing is null."""

    def __init__(self, path: Path) -> None:
        self._file = _create(path)

    def write(self, rows: Sequence[Row]) -> None:
        """Put rows behind those that are there."""
        self._file.writelines(f"{_line(row)}\n" for row in rows)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class ParquetFile:
    """Apache Parquet; each set of rows is a row group, compressed by Snappy."""

    def __init__(self, path: Path) -> None:
        # A large library that only the worker needs, and only for this.
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
        fields = [pa.field(name, kinds[kind]) for name, kind in COLUMNS.items()]
        self._batch = pa.RecordBatch
        self._schema = pa.schema(fields)
        self._writer = parquet.ParquetWriter(path, self._schema)
        path.chmod(0o600)

    def write(self, rows: Sequence[Row]) -> None:
        """Put rows behind those that are there."""
        if rows:
            batch = self._batch.from_pylist([dict(row) for row in rows], self._schema)
            self._writer.write_batch(batch)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def _create(path: Path) -> TextIOWrapper:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    return path.open("w", encoding="utf-8", newline="")


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return harmless(value)


def _line(row: Row) -> str:
    names: Iterable[str] = COLUMNS
    return json.dumps({name: row[name] for name in names}, ensure_ascii=False)
