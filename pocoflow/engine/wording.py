"""Texts that the ledgers write into history; one wording for all of them.

The placeholders are filled by `str.format` in memory and by the database in SQL.
"""

from __future__ import annotations

INTERRUPTED_TEXT = (
    "the process that ran this flow ended before the run did: "
    "start it again with run_id='{run_id}' and the same input to go on from the last checkpoint "
    "(a fork: fork again, with that as its new_run_id)"
)
POISON_TEXT = (
    "node '{node}' lost its worker {crashes} times at step {step}: "
    "it ends the process that runs it, or holds it so busy that its lease runs out"
)
IMPORTED_TEXT = (
    "the run was not at its end when it was exported: resume it to go on here from the last checkpoint"
)
OVERDUE_TEXT = "the run was not done within the timeout of its flow: raise it, or look for what took so long"
