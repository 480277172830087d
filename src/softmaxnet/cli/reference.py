"""``python -m softmaxnet.cli.reference docs/cli.md``: the part of the page that is made from the tables of options."""

from __future__ import annotations

import sys
from pathlib import Path

from softmaxnet.cli.options import COMMANDS, COMMON, PROGRAM, Command, Option, Parameter

__all__ = ["BEGIN", "END", "reference", "with_reference"]

BEGIN = "<!-- made by make docs: begin -->"
END = "<!-- made by make docs: end -->"


def reference() -> str:
    """Return every command with every option as Markdown.

    Examples
    --------
    >>> "### softmaxnet verify" in reference()
    True
    """
    return "\n\n".join(_command(command) for command in COMMANDS) + "\n"


def with_reference(page: str) -> str:
    """Return a page with the part between its two marks made anew."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _command(command: Command) -> str:
    lines = [
        f"### {PROGRAM} {command.name}",
        f"{command.help[0].upper()}{command.help[1:]}.",
        f"    {PROGRAM} {command.name} {command.usage}",
        "\n".join(["| argument | meaning |", "|---|---|", *map(_option, (*command.options, *COMMON))]),
    ]
    if command.parameters:
        lines.append("The parameters of `SoftmaxClassifier`, with the same meaning as in Python:")
        header = ["| option | parameter | default | meaning |", "|---|---|---|---|"]
        lines.append("\n".join([*header, *map(_parameter, command.parameters)]))
    lines.append("```sh\n" + "\n".join(command.examples) + "\n```")
    return "\n\n".join(lines)


def _option(option: Option) -> str:
    name = ", ".join(option.names) + (f" {option.shown_metavar}" if option.metavar else "")
    default = ""
    if option.default is not None and option.metavar and "by default" not in option.help:
        default = f" (default: `{option.default}`)"
    return f"| `{name}` | {_cell(option.help)}{default} |"


def _parameter(parameter: Parameter) -> str:
    name = parameter.option + (f" {parameter.metavar}" if parameter.metavar else "")
    default = f"`{parameter.shown_default}`" if parameter.shown_default else ""
    return f"| `{name}` | `{parameter.name}` | {default} | {_cell(parameter.help)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_reference(path.read_text(encoding="utf-8")), encoding="utf-8")
