"""Loops over a virtqueue's chains: a driver feeds them, so each has a bound, in one of few places.

A device takes chains by ``Runtime.serve`` or ``Runtime.turn``, which have a budget in number and in time,
or by ``Queue.pop_with_room`` and ``pop_writable``, which count what they refuse. Another loop over ``pop``
stands in BOUNDED with what bounds it.
"""

from __future__ import annotations

import ast

from tests.support.repository import ROOT

BOUNDED = {
    "virtio/runtime.py Runtime.serve": "a queue's length and TURN",
    "virtio/runtime.py Runtime.turn": "a queue's length and TURN",
    "virtio/ring/queue.py Queue.pop_with_room": "the queue's budget of refused chains",
    "virtio/ring/queue.py Queue.pop_writable": "the queue's budget of refused chains, and the bytes wanted",
    "virtio/block/device.py Block.process": "a queue's length and TURN, in the disk's own thread",
    "virtio/console/port.py Port._gather": "a queue's length, since it completes none",
    "virtio/console/device.py VirtioConsole._send_messages": "one for each message, of which there are few",
}
#: Lists and sets that loops take entries from.
NO_QUEUES = {"_closers", "attached", "_fds", "fds", "_watched_kicks", "_threads"}
LOOPS = (ast.While, ast.For, ast.AsyncFor, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def takes_chain(node: ast.AST) -> bool:
    """Whether *node* calls ``pop`` without arguments: a queue's, or a local variable that is the method."""
    if not isinstance(node, ast.Call) or node.args:
        return False
    function = node.func
    if isinstance(function, ast.Name):
        return function.id == "pop"
    if not isinstance(function, ast.Attribute) or function.attr != "pop":
        return False
    owner = function.value
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return name not in NO_QUEUES


def loops(source: str) -> list[str]:
    """The functions, by qualified name, that take chains in a loop."""
    found = []

    def visit(node: ast.AST, names: tuple[str, ...], looping: bool) -> None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names, looping = (*names, node.name), False
        looping = looping or isinstance(node, LOOPS)
        if looping and takes_chain(node) and ".".join(names) not in found:
            found.append(".".join(names))
        for child in ast.iter_child_nodes(node):
            visit(child, names, looping)

    visit(ast.parse(source), (), False)
    return found


def test_every_loop_over_pop_is_a_known_one_with_a_bound() -> None:
    found = {
        f"{path.relative_to(ROOT / 'pyvmm')} {name}"
        for path in sorted((ROOT / "pyvmm/virtio").rglob("*.py"))
        for name in loops(path.read_text())
    }

    assert found == set(BOUNDED), "take the chains by Runtime.turn"


def test_loops_over_pop_are_found_in_every_form() -> None:
    source = """
class Device:
    def by_while(self):
        while (chain := self._queue.pop()) is not None:
            pass
    def by_name(self, queue):
        pop = queue.pop
        while True:
            if pop() is None:
                break
    def by_comprehension(self, queue):
        return [queue.pop() for _ in range(10)]
    def once(self, queue):
        return queue.pop()
    def of_a_list(self):
        while self._fds:
            self._fds.pop()
"""

    assert loops(source) == ["Device.by_while", "Device.by_name", "Device.by_comprehension"]
