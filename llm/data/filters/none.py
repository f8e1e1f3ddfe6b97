"""None: keep every document as it is; the slot is switched off.

Equations   none
Source      none
Cost        nothing
Differs     nothing
Shapes      none
"""

from dataclasses import dataclass

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, keep


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose."""


class NoFilter(Filter):
    """Keeps everything."""

    def __init__(self, config: Config) -> None:
        del config

    def judge(self, document: Document) -> Verdict:
        return keep(document.text)


build = NoFilter
