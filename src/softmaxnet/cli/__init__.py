"""The command line: one verb is one function call and what it prints. See ``docs/cli.md``.

::

    options     every command and option as a table -> the parser
    terminal    messages to standard error, results to standard output
    progress    how far a long command is
    signals     Ctrl-C and SIGTERM
    files       checks of outputs, errors about rows told with file and line
    labelled    reading rows that have labels
    tables      columns and settings for a person
    fit predict evaluate calibrate explain export models show doctor    the commands
    program     main: exit codes, and one line for every error
    reference   docs/cli.md from the tables

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

from softmaxnet.cli.program import main

__all__ = ["main"]
