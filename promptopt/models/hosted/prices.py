"""What providers ask for their models, as the package genai-prices ships it. Nothing is fetched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from promptopt.models.base import Price


def known_price(provider: str, model: str) -> Price | None:
    """Return today's price of a provider's own model, or None where it is not known.

    Where long inputs cost more, this is the price of short ones.

    Args:
        provider: "openai" or "anthropic".
        model: the provider's name of it.
    """
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  a large table, loaded when used

    try:
        _, found = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    prices = found.get_prices(datetime.now(UTC))
    read, written = _base(prices.input_mtok), _base(prices.output_mtok)
    if read is None or written is None:
        return None
    return Price(read, written, _base(prices.cache_read_mtok), _base(prices.cache_write_mtok))


def _base(price: Any) -> float | None:
    """Return the price of the first tier."""
    return None if price is None else float(getattr(price, "base", price))
