"""List prices of providers' models, from the package genai-prices. Nothing is downloaded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from promptopt.models.base import Price


def known_price(provider: str, model: str) -> Price | None:
    """Return today's price of a provider's own model, or None if it is unknown.

    If long inputs cost more, this is the price of short ones.

    Args:
        provider: "openai" or "anthropic".
        model: the provider's name of the model.
    """
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  loads a large table

    try:
        _, entry = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    prices = entry.get_prices(datetime.now(UTC))
    input_price, output_price = _base(prices.input_mtok), _base(prices.output_mtok)
    if input_price is None or output_price is None:
        return None
    return Price(input_price, output_price, _base(prices.cache_read_mtok), _base(prices.cache_write_mtok))


def _base(price: Any) -> float | None:
    """Return the price of the first tier."""
    return None if price is None else float(getattr(price, "base", price))
