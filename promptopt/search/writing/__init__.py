"""Messages to a prompt writer, parsing of its replies, and retries.

Model text is untrusted data: a reply becomes a candidate only if it is complete, keeps the slots, and copies neither a known
prompt nor the training examples. Knows nothing of models, and of scores only the numbers to show.
"""

from promptopt._moved import renamed as _renamed
from promptopt.search.writing.asking import AskResult as AskResult
from promptopt.search.writing.asking import ask as ask
from promptopt.search.writing.asking import by_reason as by_reason
from promptopt.search.writing.asking import example_results as example_results
from promptopt.search.writing.asking import rejections as rejections
from promptopt.search.writing.messages import ExampleResult as ExampleResult
from promptopt.search.writing.messages import ScoredPrompt as ScoredPrompt
from promptopt.search.writing.messages import combine as combine
from promptopt.search.writing.messages import edit as edit
from promptopt.search.writing.messages import example_result as example_result
from promptopt.search.writing.messages import good_bad_message as good_bad_message
from promptopt.search.writing.messages import improve as improve
from promptopt.search.writing.messages import opro_message as opro_message
from promptopt.search.writing.messages import paraphrase as paraphrase
from promptopt.search.writing.messages import shorten as shorten
from promptopt.search.writing.messages import summarise as summarise
from promptopt.search.writing.messages import unscored_message as unscored_message
from promptopt.search.writing.metaprompts import JOBS as JOBS
from promptopt.search.writing.metaprompts import MetaPrompts as MetaPrompts
from promptopt.search.writing.pool import load_prompt_pool as load_prompt_pool
from promptopt.search.writing.replies import MAX_CHARACTERS as MAX_CHARACTERS
from promptopt.search.writing.replies import ParsedReplies as ParsedReplies
from promptopt.search.writing.replies import parse_proposals as parse_proposals
from promptopt.search.writing.replies import proposals as proposals

__getattr__ = _renamed(
    __name__,
    {
        "Answer": "AskResult",
        "Seen": "ExampleResult",
        "Shown": "ScoredPrompt",
        "Read": "ParsedReplies",
        "LONGEST": "MAX_CHARACTERS",
        "blind": "unscored_message",
        "lists": "good_bad_message",
        "scale": "opro_message",
        "seen": "example_result",
        "given": "load_prompt_pool",
        "read": "parse_proposals",
    },
)
