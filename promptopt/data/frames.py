"""Data frames as mappings, without importing the libraries that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@runtime_checkable
class PandasFrame(Protocol):
    """A pandas DataFrame, as far as it is used here."""

    def to_dict(self, orient: Any, /) -> Any: ...
    def itertuples(self) -> Any: ...
    def astype(self, dtype: Any, /) -> Any: ...
    def notna(self) -> Any: ...


@runtime_checkable
class PolarsFrame(Protocol):
    """A polars DataFrame, as far as it is used here."""

    def iter_rows(self, *, named: bool) -> Any: ...


def records(source: Iterable[Mapping[str, Any]] | PandasFrame | PolarsFrame) -> Iterable[Any]:
    """Return the rows of a frame as mappings, and mappings as they are."""
    if isinstance(source, PandasFrame):
        nulls_as_none = source.astype(object).where(source.notna(), None)  # pandas has three more: NaN, NaT and NA
        return nulls_as_none.to_dict("records")  # type: ignore[no-any-return]
    if isinstance(source, PolarsFrame):
        return source.iter_rows(named=True)  # type: ignore[no-any-return]
    return source
