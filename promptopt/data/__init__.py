"""Reads files and data sets into examples and tasks."""

from promptopt.data.rows import read_rows as read_rows
from promptopt.data.rows import split_examples as split_examples
from promptopt.data.rows import to_examples as to_examples
