"""What a prompt writer is asked, how its replies are read, and how often it is asked again.

Model text is data: a reply becomes a candidate only if it is whole, keeps the slots, copies neither a known prompt nor
the training items. Knows nothing of models, or of scores beyond the numbers it is given to show.
"""

from promptopt.search.writing.asking import Answer as Answer
from promptopt.search.writing.asking import ask as ask
from promptopt.search.writing.asking import by_reason as by_reason
from promptopt.search.writing.asking import rejections as rejections
from promptopt.search.writing.messages import Seen as Seen
from promptopt.search.writing.messages import Shown as Shown
from promptopt.search.writing.messages import blind as blind
from promptopt.search.writing.messages import combine as combine
from promptopt.search.writing.messages import edit as edit
from promptopt.search.writing.messages import improve as improve
from promptopt.search.writing.messages import lists as lists
from promptopt.search.writing.messages import paraphrase as paraphrase
from promptopt.search.writing.messages import scale as scale
from promptopt.search.writing.messages import seen as seen
from promptopt.search.writing.messages import shorten as shorten
from promptopt.search.writing.messages import summarise as summarise
from promptopt.search.writing.metaprompts import JOBS as JOBS
from promptopt.search.writing.metaprompts import MetaPrompts as MetaPrompts
from promptopt.search.writing.pool import given as given
from promptopt.search.writing.replies import LONGEST as LONGEST
from promptopt.search.writing.replies import Read as Read
from promptopt.search.writing.replies import proposals as proposals
from promptopt.search.writing.replies import read as read
