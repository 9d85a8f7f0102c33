"""What a run found, for reading: as Markdown (`text`), as one HTML page (`page`), and beside other runs (`compare`).

Knows results alone. The pages need the extra 'report', and are loaded when one is wanted.
"""

from promptopt.report.text import markdown as markdown
from promptopt.report.text import write_report as write_report
