"""What an extracted order is worth: nothing unless the reply is an order, then the share of its fields that are right."""

from datetime import date

from pydantic import BaseModel, ConfigDict, ValidationError

from promptopt import Example, Response


class Order(BaseModel):
    """What a reply must be: these fields, of these types, and no others."""

    model_config = ConfigDict(extra="forbid")

    customer: str
    item: str
    quantity: int
    date: date


def order(example: Example, response: Response) -> tuple[float, str]:
    """0 for what is no order; else the share of the four fields that are right, letter case aside."""
    try:
        said = Order.model_validate_json(response.text.strip()).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        return 0.0, f"no order: {'.'.join(map(str, first['loc'])) or 'the reply'}: {first['msg']}"
    wanted = Order.model_validate_json(example.target or "").model_dump(mode="json")
    wrong = [key for key in wanted if str(said[key]).casefold() != str(wanted[key]).casefold()]
    return 1 - len(wrong) / len(wanted), "; ".join(
        f"{key}: said {said[key]!r}, wanted {wanted[key]!r}" for key in wrong
    )
