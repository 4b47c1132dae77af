"""Files of rows (CSV, JSONL, Parquet) as typed rows and canonical documents.

A file passes through in chunks of a few MiB. Whatever the format, a chunk becomes a frame: a column for each attribute
of the row model, whose cells are canonical JSON *text*, beside the line where the row starts. So a document is its
cells joined with commas, and a group of rows is joined documents: no Python objects are made for rows.

- The words of a cell are judged by the model's own library. `columns.py` knows for which plain texts the answer is
  sure (such as digits for an int), and asks the library once for each distinct text of the rest.
- A model that does more than its fields say (validators, serializers, computed fields, special configuration) is
  asked row by row, or document by document: slower, and by definition right.
- Rows that do not fit are rejected with line, column and reason. Too many of them refuse the file.

This package imports polars only when a file is read: it is the extra `headwater[csv]`.
"""

from . import csv, jsonl, parquet

__all__ = ["csv", "jsonl", "parquet"]
