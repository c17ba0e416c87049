"""A small option parser: ``argparse`` alone costs more than a guest's start.

Options are declared in a table; ``--name value`` and ``--name=value`` are understood, and
``--`` ends them.
"""

from __future__ import annotations

import sys

from pyvmm.errors import ConfigError


class Option:
    """One option: its long name, what it takes (empty: nothing), what it is for.

    What it takes stands in brackets when it may be left out: before another option, and at the end. Its
    value is True then.

    :param many: may be given more than once; its value is a list
    """

    __slots__ = ("help", "many", "metavar", "name")

    def __init__(self, name: str, metavar: str, help: str, *, many: bool = False) -> None:
        self.name = name
        self.metavar = metavar
        self.help = help
        self.many = many

    @property
    def key(self) -> str:
        """The option's name as a Python name."""
        return self.name.replace("-", "_")


class Options:
    """A verb's command line.

    :param usage: what follows ``usage:``, the program and the verb included
    :param about: what the verb does
    """

    def __init__(self, usage: str, about: str, options: list[Option]) -> None:
        self.usage = usage
        self.about = about
        self.options = {option.name: option for option in options}

    def parse(self, argv: list[str]) -> tuple[dict[str, object], list[str]]:
        """``(values by key, positional arguments)``; only options that were given are in it.

        Raises ConfigError for an unknown option, a missing value, or one given twice.
        Prints the help and exits for ``--help``.
        """
        values: dict[str, object] = {}
        words: list[str] = []
        rest = argv[::-1]
        while rest:
            word = rest.pop()
            if word == "--":
                words.extend(reversed(rest))
                break
            if not word.startswith("-") or word == "-":
                words.append(word)
                continue
            if word in ("-h", "--help"):
                print(self.help())
                sys.exit(0)
            name, equals, value = word.removeprefix("--").partition("=")
            option = self.options.get(name) if word.startswith("--") else None
            if option is None:
                raise ConfigError(f"{word.partition('=')[0]} is not an option here; --help lists them")
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
        return values, words

    def help(self) -> str:
        """The text of ``--help``."""
        lines = [f"usage: {self.usage}", "", self.about, ""]
        for option in self.options.values():
            left = f"  --{option.name} {option.metavar}".rstrip()
            lines.append(f"{left:28} {option.help}" if len(left) < 28 else f"{left}\n{'':28} {option.help}")
        return "\n".join(lines)
