"""The parser that the tables of options make, and what it says of words that it does not know."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from softmaxnet.cli.options import (
    COMMANDS,
    COMMON,
    DESCRIPTION,
    EPILOG,
    PARAMETERS,
    PROGRAM,
    Command,
    Option,
    Parameter,
)
from softmaxnet.errors import UsageError

__all__ = ["as_flags", "build_parser", "parse"]


class _Parser(argparse.ArgumentParser):
    """argparse, with every complaint raised instead of printed."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(_one_sentence(message), hint=f"See '{self.prog} --help'.")


class _Once(argparse.Action):
    """An option that is one thing: a second one is a mistake, not a correction."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(
                self, f"given twice: {getattr(namespace, self.dest)!r} and {value!r}; it is one"
            )
        setattr(namespace, self.dest, value)


def _one_sentence(message: str) -> str:
    message = message.removeprefix("argument ")
    return message if message.endswith(".") else message + "."


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser and those of the commands by name."""
    parser = _Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    made = {}
    for command in COMMANDS:
        made[command.name] = _command_parser(verbs, command)
    return parser, made


def _command_parser(verbs: Any, command: Command) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        command.name,
        help=command.help,
        usage=f"{PROGRAM} {command.name} {command.usage}",
        description=command.help[0].upper() + command.help[1:] + ".",
        epilog="examples:\n  " + "\n  ".join(command.examples),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option in (*command.options, *COMMON):
        _add_option(parser, option)
    if command.parameters:
        group = parser.add_argument_group(
            "the model", "the parameters of SoftmaxClassifier in Python, with the same meaning"
        )
        for parameter in command.parameters:
            _add_parameter(group, parameter)
    return parser


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    help = option.help.replace("%", "%%")
    if not option.names[0].startswith("-"):
        optional = {"nargs": "?", "default": option.default} if option.default is not None else {}
        parser.add_argument(option.names[0].lower(), metavar=option.names[0], help=help, **optional)  # type: ignore[arg-type]
    elif not option.metavar:
        parser.add_argument(*option.names, action="store_true", help=help)
    else:
        if option.default is not None and "by default" not in help:
            help += f" (default: {option.default})"
        settings: dict[str, Any] = {"nargs": "?", "const": option.bare} if option.bare else {}
        parser.add_argument(
            *option.names,
            dest="out" if option.names[0] == "-o" else option.names[0].strip("-").replace("-", "_"),
            metavar=option.metavar,
            type=option.parse or str,
            default=[] if option.adds else option.default,
            action=_Once if option.once else "extend" if option.adds else "store",
            help=help,
            **settings,
        )


def _add_parameter(group: Any, parameter: Parameter) -> None:
    help = parameter.help.replace("%", "%%")
    if parameter.parse is None:
        group.add_argument(
            parameter.option, dest=parameter.name, action="store_false", default=argparse.SUPPRESS, help=help
        )
        return
    group.add_argument(
        parameter.option,
        dest=parameter.name,
        metavar=parameter.metavar,
        type=parameter.parse,
        default=argparse.SUPPRESS,
        help=f"{help} (default: {parameter.shown_default})",
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command line.

    Raises
    ------
    UsageError
        For anything that is not known, with the name that was probably meant.
    """
    parser, commands = build_parser()
    first = next((text for text in arguments if not text.startswith("-")), None)
    if first is not None and first not in commands:
        raise UsageError(
            f"there is no command {first!r}.", hint=_meant(first, list(commands)) or f"Commands: {', '.join(commands)}."
        )
    namespace, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        name = unknown[0].partition("=")[0]
        command = commands.get(namespace.command, parser)
        if not name.startswith("-"):
            raise UsageError(f"one argument too many: {unknown[0]!r}.", hint=f"See '{command.prog} --help'.")
        known = [text for action in command._actions for text in action.option_strings]
        if name in known:
            raise UsageError(f"{name} stands before the command.", hint=f"{command.prog} {name} ...")
        raise UsageError(
            f"{namespace.command or PROGRAM} has no option {name!r}.",
            hint=_meant(name, known) or f"See '{command.prog} --help'.",
        )
    return namespace


def _meant(word: str, known: Sequence[str]) -> str:
    """Return a question for the nearest known word: by its beginning or as a whole."""

    def nearness(name: str) -> float:
        begins = difflib.SequenceMatcher(None, word, name[: len(word) + 1]).ratio() - 0.05
        return max(begins, difflib.SequenceMatcher(None, word, name).ratio())

    best = max(known, key=nearness)
    return f"Did you mean {best!r}?" if nearness(best) >= 0.7 else ""


def as_flags(text: str) -> str:
    """Return a message about parameters of Python with the options of the command line in their place.

    Examples
    --------
    >>> as_flags("n_members must be 1 with early_stopping=False; pass X_val and y_val, or input_dtype='float64'")
    "--n-members must be 1 with --no-early-stopping; pass --valid, or --input-dtype 'float64'"
    """
    text = re.sub(r"The '(\w+)' parameter of SoftmaxClassifier must", r"\1 must", text)
    text = text.replace("early_stopping=False", "--no-early-stopping").replace("X_val and y_val", "--valid")
    text = text.replace("Pass groups", "Use --group COLUMN").replace("groups=range(n_rows)", "a column of row numbers")
    flags = {parameter.name: parameter.option for parameter in PARAMETERS} | {"input_dtype": "--input-dtype"}
    for name, flag in flags.items():
        text = re.sub(rf"(?<![\w.'-]){name}=(?=\S)", f"{flag} ", text)
        if "_" in name:
            text = re.sub(rf"(?<![\w.-]){name}(?!\w)", flag, text)
    return text
