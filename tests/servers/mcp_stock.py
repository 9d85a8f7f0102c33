"""An MCP server over stdio, for tests: a stock of goods. Each call is noted in a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mcp.server import MCPServer

STOCK = {"apples": 3, "pears": 0}
CALLS = Path(sys.argv[1])

server = MCPServer("stock")


@server.tool()
def look(item: str) -> str:
    """Say how many of an item there are."""
    with CALLS.open("a", encoding="utf-8") as file:
        file.write(f"{item}\n")
    if item == "bombs":
        os._exit(1)
    return str(STOCK.get(item, f"there is no {item}"))


@server.tool()
def shorten(text: str) -> str:
    """Return the last two words."""
    with CALLS.open("a", encoding="utf-8") as file:
        file.write(f"{text!r}\n")
    return " ".join(text.split()[-2:])


@server.tool()
def secret() -> str:
    """Say what the environment holds."""
    return os.environ.get("STOCK_KEY", "nothing")


if __name__ == "__main__":
    server.run("stdio")
