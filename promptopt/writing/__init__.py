"""What a prompt writer is asked, how its replies are read, and how often it is asked again.

Model text is data: a reply becomes a candidate only if it is whole, keeps the slots, copies neither a known prompt nor
the training items. Knows nothing of models, or of scores beyond the numbers it is given to show.
"""

from promptopt.writing.asking import Answer as Answer
from promptopt.writing.asking import ask as ask
from promptopt.writing.asking import by_reason as by_reason
from promptopt.writing.asking import rejections as rejections
from promptopt.writing.messages import Seen as Seen
from promptopt.writing.messages import Shown as Shown
from promptopt.writing.messages import blind as blind
from promptopt.writing.messages import combine as combine
from promptopt.writing.messages import edit as edit
from promptopt.writing.messages import improve as improve
from promptopt.writing.messages import lists as lists
from promptopt.writing.messages import paraphrase as paraphrase
from promptopt.writing.messages import scale as scale
from promptopt.writing.messages import seen as seen
from promptopt.writing.messages import shorten as shorten
from promptopt.writing.messages import summarise as summarise
from promptopt.writing.metaprompts import JOBS as JOBS
from promptopt.writing.metaprompts import MetaPrompts as MetaPrompts
from promptopt.writing.pool import given as given
from promptopt.writing.replies import LONGEST as LONGEST
from promptopt.writing.replies import Read as Read
from promptopt.writing.replies import proposals as proposals
from promptopt.writing.replies import read as read
