"""Reports of a run as Markdown (`text`) or HTML (`page`), and comparisons of runs (`compare`).

Depends only on results. The HTML pages need the extra 'report' and are imported on demand.
"""

from promptopt.report.text import markdown as markdown
from promptopt.report.text import write_report as write_report
