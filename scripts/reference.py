"""Writes the generated parts of docs/reference; with ``--check`` it only says which pages are out of date.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. It comes from what the
program itself uses: the options of the command line, the keys of a board file, the exit codes with the
comments above them, the signatures and docstrings of the Python API.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pyvmm
import pyvmm.testing
from pyvmm import errors
from pyvmm.cli.main import VERBS, module_of
from pyvmm.cli.options import OptionParser
from pyvmm.config import DEVICE_KINDS, Config
from pyvmm.config.keys import KEYS
from pyvmm.machine import ending

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reference"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 for an old page")
    check = parser.parse_args(argv).check
    stale = [name for name, text in pages().items() if not _is(PAGES / name, text)]
    for name in stale:
        print(f"{name}: {'is not what the code says' if check else 'written'}")
        if not check:
            (PAGES / name).write_text(pages()[name])
    return int(check and bool(stale))


def pages() -> dict[str, str]:
    """Every page that has generated parts, by its file's name, with those parts made again."""
    return {path.name: _filled(path.read_text()) for path in sorted(PAGES.glob("*.md"))}


def _filled(page: str) -> str:
    return re.sub(
        r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{PARTS[found[2]]().rstrip()}\n\n{found[3]}",
        page,
        flags=re.DOTALL,
    )


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def table(*rows: Iterable[str]) -> str:
    """A table; the first row is its head."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{' --- |' * len(cells[0])}", *lines[1:]])


# The command line


def command_line() -> str:
    """Every verb with its options."""
    parts = [
        table(("verb", ""), *((f"[`{verb}`](#pyvmm-{verb})", what) for verb, what in VERBS.items())),
    ]
    for verb in VERBS:
        module = import_module(module_of(verb))
        options = getattr(module, "OPTIONS", None)
        parts.append(_of_options(verb, options) if options is not None else _of_parser(verb, module.parser()))
    return "\n\n".join(parts)


def _of_options(verb: str, options: OptionParser) -> str:
    parts = []
    for group in dict.fromkeys(option.group for option in options.options.values()):
        rows = [("option", "")]
        for option in options.options.values():
            if option.group == group:
                name = f"--{option.name} {option.metavar}".rstrip()
                rows.append((f"`{name}`", option.help + ("; may be given several times" * option.many)))
        parts.append((f"{group}:\n\n" if group else "") + table(*rows))
    usage = options.usage.replace("\n       ", "\n")
    return "\n\n".join([f"## pyvmm {verb}", f"```text\n{usage}\n```", options.about, *parts])


def _of_parser(name: str, parser: argparse.ArgumentParser, about: str = "") -> str:
    level = "###" if " " in name else "##"
    parts = [f"{level} pyvmm {name}", f"{(parser.description or _sentence(about)).strip()}"]
    rows, verbs = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            verbs = [(f"{name} {verb}", sub, helps[verb]) for verb, sub in action.choices.items()]
        elif not isinstance(action, argparse._HelpAction):
            rows.append(_argument(action))
    if rows:
        parts.append(table(("argument", ""), *rows))
    parts += [_of_parser(*verb) for verb in verbs]
    return "\n\n".join(parts)


def _argument(action: argparse.Action) -> tuple[str, str]:
    choices = ", ".join(map(str, action.choices)) if action.choices is not None else ""
    takes = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    name = ", ".join(action.option_strings) + takes if action.option_strings else takes.strip()
    about = "; ".join(filter(None, (choices, action.help)))
    if action.required and action.option_strings:
        about += "; must be given"
    if isinstance(action, argparse._AppendAction):
        about += "; may be given several times"
    return f"`{name}`", about


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


# The board file


def board_keys() -> str:
    """The keys of a board file that are not devices."""
    plain = Config()
    rows = [
        (f"`{key}`", _default(key, getattr(plain, key)), markdown(about))
        for key, about in parameters(inspect.getdoc(Config) or "").items()
        if key in KEYS
    ]
    return table(("key", "without it", ""), *rows)


def device_kinds() -> str:
    """The keys of a board file that are kinds of devices."""
    rows = []
    for kind in DEVICE_KINDS.values():
        options = f"[{Path(kind.page).name}](../{kind.page})" if kind.page else "-"
        rows.append((f"`{kind.key}`", kind.help, f"`{kind.first}`" if kind.first else "-", options))
    return table(("key", "", "key of FIRST", "options"), *rows)


def _default(key: str, value: object) -> str:
    if value is None or value == ():
        return "-"
    if key == "memory":
        return f"`{Config().memory_size >> 20}M`"
    return f"`{value:#x}`" if key == "debug_exit" else f"`{value}`"


def parameters(doc: str) -> dict[str, str]:
    """The ``:param name: text`` of a docstring, in order."""
    fields = re.split(r"^:param +", doc, flags=re.MULTILINE)[1:]
    found = {}
    for field in fields:
        name, _, text = field.partition(":")
        text = re.split(r"\n\n|\n(?=\S)", text)[0]
        found[name.strip()] = " ".join(text.split())
    return found


# Exit codes


def endings() -> str:
    """The codes of a guest's ending."""
    rows = []
    for name, about in comments(ending).items():
        value = getattr(ending, name)
        if isinstance(value, int):
            rows.append(
                (f"{value}-{value + 31}" if name == "GUEST_FIRST" else str(value), f"`{name}`", about)
            )
    return table(("code", "name", "meaning"), *rows)


def known() -> str:
    """How an ending is known."""
    values = {getattr(ending, name): about for name, about in comments(ending).items()}
    rows = [(f"`{value}`", about) for value, about in values.items() if isinstance(value, str)]
    return table(("known", "meaning"), *rows)


def exceptions() -> str:
    """The base classes of all errors."""
    bases = (errors.StartError, errors.ConfigError, errors.GuestError, errors.PyvmmError)
    rows = [(str(base.exit_code), f"`{base.__name__}`", inspect.getdoc(base) or "") for base in bases]
    return table(("code", "exception", "meaning"), *rows)


def comments(module: ModuleType) -> dict[str, str]:
    """The ``#:`` comment above each name that *module* sets."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        above: list[str] = []
        at = node.lineno - 2
        while at >= 0 and lines[at].startswith("#: "):
            above.insert(0, lines[at].removeprefix("#: "))
            at -= 1
        if above:
            found[node.targets[0].id] = " ".join(above)
    return found


# The Python API


class _Text:
    """An annotation that is shown without quotes."""

    def __init__(self, text: object) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text if isinstance(self.text, str) else inspect.formatannotation(self.text)


def python_api() -> str:
    """The names of ``pyvmm`` and ``pyvmm.testing``."""
    rows: list[tuple[str, ...]] = [("name", "")]
    parts = []
    for module in (pyvmm, pyvmm.testing):
        parts.append(f"## {module.__name__}")
        for name in module.__all__:
            found = getattr(module, name)
            full = f"{module.__name__}.{name}"
            rows.append((f"[`{full}`](#{full.replace('.', '').lower()})", _first_sentence(found)))
            parts += _described(module.__name__, name, found)
    return "\n\n".join([table(*rows), *parts])


def _first_sentence(found: object) -> str:
    doc = markdown(inspect.getdoc(found) or "") if callable(found) else ""
    return re.split(r"(?<=\.)\s|\n\n", " ".join(doc.partition("\n\n")[0].split()))[0]


def _described(home: str, name: str, found: object) -> Iterator[str]:
    yield f"### {home}.{name}"
    if not callable(found):
        yield f"`{found!r}`"
        return
    if not (inspect.isclass(found) and issubclass(found, BaseException)):
        yield f"```python\n{signature(name, found)}\n```"
    yield markdown(inspect.getdoc(found) or "")
    if not inspect.isclass(found):
        return
    if issubclass(found, BaseException):
        bases = ", ".join(base.__name__ for base in found.__bases__)
        code = f"; exit code {found.exit_code}" if issubclass(found, errors.PyvmmError) else ""
        yield f"A `{bases}`{code}."
    for member, value in members(found):
        if isinstance(value, property):
            annotation = inspect.get_annotations(value.fget).get("return", "") if value.fget else ""
            settable = ", settable" if value.fset else ""
            yield f"**`{member}`** (`{annotation}`{settable}): {markdown(inspect.getdoc(value) or '')}"
        else:
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            yield f"```python\n{signature(member, function)}\n```"
            yield markdown(inspect.getdoc(function) or "")


def members(cls: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties that *cls* or a base class of pyvmm's defines, in their order."""
    seen = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("pyvmm"):
            continue
        for name, value in vars(base).items():
            method = inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
            if method and not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, value


def signature(name: str, function: object) -> str:
    """``name(parameters) -> type``; over several lines when it is long."""
    found = inspect.signature(function)  # type: ignore[arg-type]
    parameters = [
        parameter.replace(annotation=_Text(parameter.annotation))
        if parameter.annotation is not parameter.empty
        else parameter
        for parameter in found.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    returns = found.return_annotation
    shown = found.replace(parameters=parameters, return_annotation=found.empty)
    arrow = "" if returns is found.empty or inspect.isclass(function) else f" -> {_Text(returns)!r}"
    line = f"{name}{shown}{arrow}"
    if len(line) <= 100:
        return line
    wrapped = "".join(f"    {text},\n" for text in _each(shown))
    return f"{name}(\n{wrapped}){arrow}"


def _each(shown: inspect.Signature) -> Iterator[str]:
    starred = False
    for parameter in shown.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            starred = True
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        yield str(parameter)


def markdown(doc: str) -> str:
    """A docstring's text as Markdown."""
    lines: list[str] = []
    session = False
    for line in doc.splitlines():
        if line.startswith(">>> ") and not session:
            lines.append("```python")
            session = True
        elif session and not line.strip():
            lines.append("```")
            session = False
        field = re.match(r":param +(\w+): *", line)
        if field and lines and lines[-1] and not lines[-1].startswith(("- ", "    ")):
            lines.append("")
        lines.append(f"- `{field[1]}`: {line[field.end() :]}" if field else line)
    text = "\n".join([*lines, "```"] if session else lines)
    return re.sub(r"(?<!`)``(?!`)", "`", text)


#: What makes each generated part.
PARTS = {
    "command line": command_line,
    "board keys": board_keys,
    "device kinds": device_kinds,
    "endings": endings,
    "known": known,
    "exceptions": exceptions,
    "python": python_api,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
