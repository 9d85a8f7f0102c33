"""The memo: every reply of every model, kept on disk or on a server."""

from promptopt.memo.memo import Memo as Memo
from promptopt.memo.memo import memo_key as memo_key
from promptopt.memo.store import MemoStats as MemoStats
