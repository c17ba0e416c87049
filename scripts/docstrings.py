"""Says what is missing in the docstrings of public functions and classes: ``docstrings.py [PATH...]``.

Of every public function, method, property and class of a package (no name with a leading underscore):

- there is a docstring;
- each exception class that its body raises is named in it. What functions of the same module raise
  counts as raised by their callers, and so does what ``RAISING`` lists; what an ``except`` around the call
  names does not. The class's docstring may name it for the constructor, and, in a sentence such as "All
  methods raise ..." or "All methods that wait raise ...", for its methods. "``wait``, awaited" and "Raises as
  ``put`` does" stand for what the docstring of that method names;
- each parameter that is a number is named in it, so that its unit or range is said, unless its name is one of
  those to which docs/glossary.md gives one meaning everywhere.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: The package that is held to all of the above.
HELD = "pyvmm"
#: Raised by what a subclass leaves out, and by ``__getattr__``: said by the language, not by a docstring.
OF_THE_LANGUAGE = {"NotImplementedError", "AttributeError", "AssertionError", "StopIteration"}
#: What a handler for one of these catches besides its own name.
CATCHES = {
    "Exception": None,
    "BaseException": None,
    "OSError": {"BlockingIOError", "ConnectionError", "FileNotFoundError", "PermissionError"},
    "ValueError": {"UnicodeDecodeError"},
    "LookupError": {"KeyError", "IndexError"},
}
#: What raises, of other modules: the requests of ``pykvm.handle.Handle``; and ``raise failed(...)``.
RAISING = {"self.ioctl": "KvmError", "self.put": "KvmError", "self.get": "KvmError", "failed": "KvmError"}
_NUMBERS = {"int", "float"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Finding:
    """What is missing, and where."""

    path: str
    line: int
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name}: {self.what}"


@dataclass
class Module:
    """A module's functions by qualified name, and the classes they belong to."""

    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)

    def resolve(self, owner: str, call: ast.expr) -> str | None:
        """The qualified name of what ``f(...)``, ``self.f(...)`` or ``cls.f(...)`` calls in this module."""
        if isinstance(call, ast.Name) and call.id in self.functions:
            return call.id
        if (
            isinstance(call, ast.Attribute)
            and isinstance(call.value, ast.Name)
            and call.value.id in ("self", "cls")
        ):
            name = f"{owner}.{call.attr}"
            return name if name in self.functions else None
        return None


def main(argv: list[str]) -> int:
    findings = [finding for path in argv or [HELD] for finding in check(path)]
    for finding in findings:
        print(finding)
    return int(bool(findings))


def check(path: str, conventions: set[str] | None = None) -> list[Finding]:
    """The findings of a module or of a package's modules; *path* is relative to the repository."""
    known = meanings() if conventions is None else conventions
    start = ROOT / path
    files = sorted(start.rglob("*.py")) if start.is_dir() else [start]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"{path}: nothing is there to be checked")
    return [
        finding
        for file in files
        for finding in check_source(file.read_text(), str(file.relative_to(ROOT)), known)
    ]


def meanings() -> set[str]:
    """The parameter names to which the glossary gives one meaning everywhere."""
    page = (ROOT / "docs" / "glossary.md").read_text()
    section = page.partition("## Parameter names")[2].partition("\n## ")[0]
    return {
        name
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }


def check_source(source: str, path: str, conventions: set[str]) -> list[Finding]:
    """The findings of one module's text."""
    tree = ast.parse(source)
    module = _module(tree)
    findings = []
    for name, node, owner in _public(tree):
        doc = ast.get_docstring(node)
        if doc is None:
            if name.rpartition(".")[2] != "__init__":
                findings.append(Finding(path, node.lineno, name, "has no docstring"))
                continue
            doc = ""
        if isinstance(node, ast.ClassDef):
            continue
        doc += "\n" + _from_class(owner, constructor=name.endswith(".__init__"))
        doc += "\n" + _referred(doc, owner)
        findings += [
            Finding(path, node.lineno, name, f"raises {error}, which its docstring does not name")
            for error in sorted(raised(module, name, set()) - OF_THE_LANGUAGE)
            if not re.search(rf"\b{error}\b", doc)
        ]
        findings += [
            Finding(path, node.lineno, name, f"{parameter}: the docstring says no unit or range")
            for parameter in _numbers(node)
            if parameter not in conventions and not _says(doc, parameter)
        ]
    return findings


def _from_class(owner: ast.ClassDef | None, *, constructor: bool) -> str:
    """What the class's docstring says for one of its methods."""
    doc = ast.get_docstring(owner) if owner is not None else None
    if doc is None or constructor:
        return doc or ""
    return " ".join(re.findall(r"All (?:other )?methods (?:[\w ,]+ )?raise [^.]*\.", " ".join(doc.split())))


def _referred(doc: str, owner: ast.ClassDef | None) -> str:
    """The docstrings of the methods that *doc* refers to: "``wait``, awaited", "Raises as ``put``"."""
    names = re.findall(r"``(\w+)``, awaited|[Rr]aises as ``(\w+)``", " ".join(doc.split()))
    methods = {node.name: node for node in (owner.body if owner else ()) if isinstance(node, Function)}
    found = [methods[name] for pair in names for name in pair if name in methods]
    return "\n".join(ast.get_docstring(method) or "" for method in found)


def _says(doc: str, parameter: str) -> bool:
    return re.search(rf"\*{parameter}\*|``{parameter}\b|:param {parameter}:", doc) is not None


def _module(tree: ast.Module) -> Module:
    module = Module()
    for node in tree.body:
        if isinstance(node, Function):
            module.functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            module.classes[node.name] = node
            for member in node.body:
                if isinstance(member, Function):
                    module.functions[f"{node.name}.{member.name}"] = member
    return module


def _public(tree: ast.Module) -> Iterator[tuple[str, Function | ast.ClassDef, ast.ClassDef | None]]:
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node.name, node, None
        if not isinstance(node, ast.ClassDef):
            continue
        for member in node.body:
            if isinstance(member, Function) and (
                not member.name.startswith("_") or member.name == "__init__"
            ):
                if any(ast.unparse(of).endswith("overload") for of in member.decorator_list):
                    continue
                setter = any(
                    isinstance(of, ast.Attribute) and of.attr == "setter" for of in member.decorator_list
                )
                if not setter:  # the property's docstring is the getter's
                    yield f"{node.name}.{member.name}", member, node


def _numbers(function: Function) -> list[str]:
    """The parameters whose annotation is a number, or a number or None."""
    arguments = function.args
    found = []
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        words = set(re.findall(r"\w+", ast.unparse(argument.annotation))) if argument.annotation else set()
        if words & _NUMBERS and words <= {*_NUMBERS, "None"}:
            found.append(argument.arg)
    return found


def raised(module: Module, name: str, seen: set[str]) -> set[str]:
    """The names of the exception classes that leave the function *name*."""
    if name in seen:
        return set()
    owner = name.partition(".")[0] if "." in name else ""
    return _leaving(module, owner, module.functions[name].body, {*seen, name}, {})


def _leaving(
    module: Module, owner: str, body: list[ast.stmt], seen: set[str], bound: dict[str, set[str]]
) -> set[str]:
    found: set[str] = set()
    for node in body:
        if isinstance(node, Function | ast.ClassDef):
            continue
        if isinstance(node, ast.Try):
            inner = _leaving(module, owner, [*node.body, *node.orelse], seen, bound)
            for handler in node.handlers:
                caught = _names(handler.type)
                inner = {error for error in inner if not _catches(caught, error)}
                names = {**bound, handler.name: caught} if handler.name else bound
                found |= _leaving(module, owner, handler.body, seen, names)
            found |= inner | _leaving(module, owner, node.finalbody, seen, bound)
            continue
        if isinstance(node, ast.Raise):
            found |= _raised_by(module, owner, node.exc, bound)
        nested = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        found |= _leaving(module, owner, nested, seen, bound)
        for part in (child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)):
            found |= _called(module, owner, part, seen, bound)
    return found


def _called(
    module: Module, owner: str, part: ast.AST, seen: set[str], bound: dict[str, set[str]]
) -> set[str]:
    found: set[str] = set()
    if isinstance(part, ast.Lambda):
        return found
    if isinstance(part, ast.match_case):
        return _leaving(module, owner, part.body, seen, bound)
    if isinstance(part, ast.Call):
        called = module.resolve(owner, part.func)
        if called is None and owner and ast.unparse(part.func) in RAISING:
            found.add(RAISING[ast.unparse(part.func)])
        if called is not None:
            found |= raised(module, called, seen)
    for child in ast.iter_child_nodes(part):
        found |= _called(module, owner, child, seen, bound)
    return found


def _raised_by(module: Module, owner: str, what: ast.expr | None, bound: dict[str, set[str]]) -> set[str]:
    """``raise X``, ``raise X(...)``, or ``raise self.error(...)`` where that says what it returns."""
    if what is None:
        return set()
    if isinstance(what, ast.Call):
        helper = module.resolve(owner, what.func)
        if helper is not None:
            return _names(module.functions[helper].returns)
        what = what.func
        return {RAISING.get(name, name) for name in _names(what) if name in RAISING or name[:1].isupper()}
    if isinstance(what, ast.Name) and what.id in bound:
        return set()  # what was caught goes on; whoever raised it is not here
    return {name for name in _names(what) if name[:1].isupper()}


def _names(what: ast.expr | None) -> set[str]:
    """The class names of an expression such as ``(OSError, module.Error)``."""
    if what is None:
        return {"BaseException"}
    if isinstance(what, ast.Tuple):
        return {name for item in what.elts for name in _names(item)}
    return {ast.unparse(what).strip("'\"").rpartition(".")[2]}


def _catches(caught: set[str], error: str) -> bool:
    """Whether a handler for one of *caught* gets *error*, by the built-in classes or pyvmm's own."""
    return any(
        name in ancestors(error)
        or (name in CATCHES and (CATCHES[name] is None or error in (CATCHES[name] or ())))
        for name in caught
    )


def ancestors(error: str) -> set[str]:
    """The class *error* and those it is derived from, as far as pyvmm defines them."""
    found = {error}
    for base in _bases().get(error, ()):
        found |= ancestors(base)
    return found


@functools.cache
def _bases() -> dict[str, list[str]]:
    """The base classes of every class of pyvmm, by name."""
    found: dict[str, list[str]] = {}
    for path in (ROOT / "pyvmm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
