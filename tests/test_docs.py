"""What the documentation shows is run, and what it lists is complete.

In ``README.md`` and ``docs/*.md``:

* ``python`` blocks are run, in order, in one namespace a page and a folder of its own; one with ``>>>`` is a doctest;
* ``console`` and ``bash`` blocks are run where they begin with ``$``: every command must end with 0, and the output
  that follows it, if any does, must be its standard output; ``...`` is anything, and numbers with a decimal point may
  differ;
* blocks of other languages are not run.
"""

from __future__ import annotations

import doctest
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from softmaxnet import errors
from softmaxnet.cli.options import COMMANDS
from softmaxnet.cli.reference import BEGIN, with_reference

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 2, found.group(1), found.group(2))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    """Every block that can be run is run and does what the page says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{_with_program(tmp_path)}:{Path(sys.executable).parent}", prepend=":")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            run_python(block, namespace)
        elif block.language in ("console", "bash") and block.code.startswith("$ "):
            run_console(block)


def _with_program(folder: Path) -> Path:
    """Return a folder with a ``softmaxnet`` that is the package under test."""
    bin_folder = folder / ".bin"
    bin_folder.mkdir()
    program = bin_folder / "softmaxnet"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m softmaxnet "$@"\n')
    program.chmod(0o755)
    return bin_folder


def run_python(block: Block, namespace: dict[str, object]) -> None:
    """Run a block of statements, or a session as a doctest."""
    if ">>> " not in block.code:
        exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), namespace)
        return
    test = doctest.DocTestParser().get_doctest(block.code, namespace, block.place, str(block.page), block.line - 1)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    namespace.update(test.globs)
    assert not report, "".join(report)


def run_console(block: Block) -> None:
    """Run the commands of a console block and compare what they print."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    for command, expected in commands(block.code):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{block.place}: {command}\n{done.stdout}{done.stderr}"
        if expected:
            checker = doctest.OutputChecker()
            expected = re.sub(r"\d+\.\d+(e[+-]?\d+)?%?", "...", expected)
            example = doctest.Example(command, expected)
            same = checker.check_output(expected, done.stdout, FLAGS)
            assert same, f"{block.place}: {command}\n{checker.output_difference(example, done.stdout, FLAGS)}"


def commands(code: str) -> list[tuple[str, str]]:
    r"""Return each command with the output that follows it; a line that ends with a backslash goes on in the next.

    >>> commands("$ a \\\n  b\n1\n$ c\n")
    [('a \\\n  b', '1\n'), ('c', '')]
    """
    found: list[tuple[str, str]] = []
    continued = False
    for line in code.splitlines():
        if continued:
            found[-1] = (found[-1][0] + "\n" + line, "")
        elif line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
        continued = line.endswith("\\") and (continued or line.startswith("$ "))
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(example, tmp_path):
    """Every example runs as it stands, without a warning."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_reference_of_the_command_line_is_up_to_date():
    """The generated part of docs/cli.md is what the tables of options give (``make docs``)."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert BEGIN in page
    assert page == with_reference(page), "run make docs"


def test_every_command_and_option_is_documented():
    """Each command has a heading, and each of its options a row below it."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        section = re.search(rf"^### softmaxnet {command.name}$(.*?)(?=^### |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section is not None, command.name
        names = [name for option in command.options for name in option.names]
        names += [parameter.option for parameter in command.parameters]
        missing = [name for name in names if not re.search(rf"`[^`]*{re.escape(name)}\b", section.group(1))]
        assert not missing


def test_every_exit_code_is_documented():
    """The exit code of every error is in the table of docs/cli.md."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    codes = {getattr(errors, name).exit_code for name in errors.__all__} | {0, 130, 143}
    assert codes <= {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page):
    """Every relative link points to a file that is there."""
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (page.parent / target).exists(), target
