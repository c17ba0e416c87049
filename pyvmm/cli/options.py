"""A small option parser: ``argparse`` alone costs more than a guest's start.

Options are declared in a table; ``--name value`` and ``--name=value`` are understood, and
``--`` ends them.
"""

from __future__ import annotations

import sys

from pyvmm.config.keys import Option
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Option", "OptionParser"]


class OptionParser:
    """The command line of a verb.

    :param usage: what follows ``usage:``, the program and the verb included
    :param about: what the verb does
    """

    def __init__(self, usage: str, about: str, options: Sequence[Option]) -> None:
        self.usage = usage
        self.about = about
        self.options = {option.name: option for option in options}

    def parse(self, argv: list[str]) -> tuple[dict[str, object], list[str]]:
        """``(values by key, positional arguments)``; only options that were given are in it.

        Raises ConfigError for an unknown option, a missing value, or one given twice.
        Prints the help and exits for ``--help``.
        """
        values: dict[str, object] = {}
        arguments: list[str] = []
        rest = argv[::-1]
        while rest:
            item = rest.pop()
            if item == "--":
                arguments.extend(reversed(rest))
                break
            if not item.startswith("-") or item == "-":
                arguments.append(item)
                continue
            if item in ("-h", "--help"):
                print(self.help())
                sys.exit(0)
            name, equals, value = item.removeprefix("--").partition("=")
            option = self.options.get(name) if item.startswith("--") else None
            if option is None:
                raise ConfigError(f"{item.partition('=')[0]} is not an option here; --help lists them")
            if option.metavar.startswith("[") and not equals and (not rest or rest[-1].startswith("-")):
                values[option.key] = True
                continue
            if not option.metavar:
                if equals:
                    raise ConfigError(f"--{name} takes no value; leave {value!r} out")
                values[option.key] = True
                continue
            if not equals:
                if not rest:
                    raise ConfigError(f"--{name} needs a value: --{name} {option.metavar}")
                value = rest.pop()
            if option.many:
                many = values.setdefault(option.key, [])
                assert isinstance(many, list)
                many.append(value)
            elif option.key in values:
                raise ConfigError(f"--{name} is given twice; leave one of them out")
            else:
                values[option.key] = value
        return values, arguments

    def help(self) -> str:
        """The text of ``--help``."""
        lines = [f"usage: {self.usage}", "", self.about]
        group = None
        for option in self.options.values():
            if option.group != group:
                group = option.group
                lines += ["", f"{group}:"] if group else [""]
            left = f"  --{option.name} {option.metavar}".rstrip()
            lines.append(f"{left:28} {option.help}" if len(left) < 28 else f"{left}\n{'':28} {option.help}")
        return "\n".join(lines)
