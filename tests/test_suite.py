"""Rules of the tests themselves: what they import from each other, and that they assert behaviour."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
FILES = sorted(TESTS.rglob("*.py"))

KICK = "the test plays the machine, which gives a transport its kicks and hears of defects"
#: Private names that tests use all the same, by file, and why.
PRIVATE: dict[str, tuple[set[str], str]] = {
    "backends/disk/test_raw.py": (
        {"_allocate"},
        "no file system that every host has refuses fallocate(2)",
    ),
    "backends/net/test_pcap.py": ({"_waiting"}, "what is counted wrong shows after gigabytes alone"),
    "backends/net/test_passt.py": (
        {"_RESOLV_CONF", "_name_server_options"},
        "a host's name servers are files of its own, which tests do not change",
    ),
    "exec/test_client.py": (
        {"_credit", "_sink"},
        "credit is brought to a state that takes a hundred megabytes to reach; writes are counted",
    ),
    "exec/test_runner.py": ({"_outputs"}, "what waits for a slow reader has no effect but memory"),
    "guest/test_console.py": ({"_tasks"}, "a task that is left over does nothing that can be seen"),
    "host/test_barrier.py": ({"_kick"}, KICK),
    "lab/test_keeper.py": ({"_connect", "_start"}, "a keeper in this process takes the place of a new one"),
    "machine/test_questions.py": (
        {"_handler"},
        "a search of memory and a look for a halt ask the vCPUs; the guest sees neither",
    ),
    "virtio/block/test_device.py": (
        {"_get_id"},
        "the order in which two queues are served is not the guest's to see",
    ),
    "virtio/block/test_one_cpu.py": ({"_TMPFS_MAGIC", "_kick"}, KICK),
    "virtio/console/test_device.py": (
        {"_timers"},
        "the interrupt that must not come has no event to wait for",
    ),
    "virtio/console/test_ports.py": (
        {"_messages"},
        "what is pending for a driver without buffers is memory alone",
    ),
    "virtio/net/test_one_cpu.py": ({"_kick"}, KICK),
    "virtio/test_budgets.py": (
        {"_free", "_used"},
        "a driver on another CPU acts between a used element and the index: no call from outside can",
    ),
    "virtio/test_device.py": ({"_failed", "_free", "_kick"}, KICK),
    "virtio/test_hold.py": (
        {"_deferred", "_kick", "_reader", "_space", "_timers"},
        "a save has to come between two lines of a device's, and what is deferred is memory alone",
    ),
    "virtio/test_save_load.py": ({"_reset_event"}, "the event follows a load that this test is about to do"),
    "virtio/transport/test_mmio.py": ({"_failed", "_kick"}, KICK),
    "virtio/vhost/test_hostile_back_end.py": (
        {"_patience"},
        "a back end that stalls is to be waited for briefly, one that works for as long as it takes",
    ),
    "virtio/vsock/test_device.py": (
        {"_clients", "_fwd_cnt", "_lingering", "_ready", "_told_fwd_cnt", "_tx_cnt"},
        "counters are brought near 2^32; sockets that are no connection yet or no more have no other sign",
    ),
    "virtio/vsock/test_hostile.py": (
        {"_lingering", "_outbox", "_resets"},
        "what is kept for a driver without buffers is memory alone",
    ),
}


def test_no_test_module_is_imported_by_another() -> None:
    found = [
        f"{path.relative_to(TESTS)}: {module}"
        for path in FILES
        for module in imported(ast.parse(path.read_text()))
        if module.startswith("tests.") and any(part.startswith("test_") for part in module.split("."))
    ]

    assert found == [], "what several test modules need goes to tests/support"


def test_private_names_are_not_used_but_for_a_reason() -> None:
    used: dict[str, set[str]] = {}
    for path in FILES:
        if names := set(private(ast.parse(path.read_text()))):
            used[str(path.relative_to(TESTS))] = names

    assert used == {name: names for name, (names, _) in PRIVATE.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that *tree* imports, ``from tests.a import test_b`` as ``tests.a.test_b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private(tree: ast.AST) -> Iterator[str]:
    """Private names of anything but ``self`` and ``cls``: attributes, imports, texts for setattr."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name) if is_private(name):
                yield name
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("pyvmm"):
                yield from (alias.name for alias in names if is_private(alias.name))
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=arguments):
                if name in {"delattr", "getattr", "hasattr", "setattr"}:
                    yield from private_texts(arguments)


def private_texts(arguments: list[ast.expr]) -> Iterator[str]:
    """What is private in ``setattr(thing, "_name", ...)`` and ``setattr("pyvmm.module._name", ...)``."""
    for argument in arguments[:2]:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            first, *others = argument.value.split(".")
            names = [first] if not others else others if first == "pyvmm" else []
            yield from filter(is_private, names)


#: Public in spite of their names.
STANDARD = {"_asdict", "_exit", "_getframe", "_make", "_replace"}


def is_private(name: str) -> bool:
    """Not ``__version__``, nor ctypes' ``_fields_``."""
    return name.startswith("_") and not name.endswith("_") and name not in STANDARD
