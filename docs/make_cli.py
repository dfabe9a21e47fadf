"""Write docs/cli.md, the help of every command, from the commands themselves; `--check` only compares.

Run from the repository's root: `python -m docs.make_cli [--check]` (`make docs`, `make lint`).
"""

import sys
from pathlib import Path

import click

import embed
import fit_heads
from docs.generated import write_or_check

__all__ = ["main", "page"]

PAGE = Path(__file__).parent / "cli.md"
WIDTH = 110


def _help(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    lines = command.get_help(context).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def page() -> str:
    """The text of docs/cli.md."""
    parts = [
        "<!-- Written by `make docs` (docs/make_cli.py); edit the commands in pipeline/cli/. -->\n# Command lines\n"
    ]
    for program, group in (("embed.py", embed.main), ("fit_heads.py", fit_heads.main)):
        parts.append(f"## {program}\n\n{group.help.strip()}\n")
        for name in group.list_commands(click.Context(group)):
            text = _help(group.commands[name], f"{program} {name}")
            parts.append(f"### {program} {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` say whether it is what would be written."""
    return write_or_check({PAGE: page()}, check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
