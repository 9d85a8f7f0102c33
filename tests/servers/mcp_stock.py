"""An MCP server over stdio, for tests: a stock of goods. Each call is noted in a file: `python mcp_stock.py FILE`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mcp.server import MCPServer

STOCK = {"apples": 3, "pears": 0}

server = MCPServer("stock")


@server.tool()
def look(item: str) -> str:
    """Say how many of an item there are."""
    _note(item)
    if item == "bombs":
        os._exit(1)
    return str(STOCK.get(item, f"there is no {item}"))


@server.tool()
def shorten(text: str) -> str:
    """Return the last two words."""
    _note(repr(text))
    return " ".join(text.split()[-2:])


@server.tool()
def secret() -> str:
    """Say what the environment holds."""
    return os.environ.get("STOCK_KEY", "nothing")


def _note(words: str) -> None:
    with Path(sys.argv[1]).open("a", encoding="utf-8") as file:
        file.write(f"{words}\n")


if __name__ == "__main__":
    server.run("stdio")
