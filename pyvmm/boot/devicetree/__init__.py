"""Device trees: nodes and properties, the flattened form (dtb), overlays.

>>> tree = Tree()
>>> uart = tree.root.add("pl011@9000000", "uart0")
>>> uart.set("reg", u64(0x900_0000), u64(0x1000))
>>> len(pack(tree)) % 8
0

Source: Devicetree Specification 0.4 (devicetree.org).
"""

from __future__ import annotations

from pyvmm.boot.devicetree.blob import MAGIC, pack, unpack
from pyvmm.boot.devicetree.node import DeviceTreeError, Node, Tree, u64
from pyvmm.boot.devicetree.overlay import apply_overlay

__all__ = ["MAGIC", "DeviceTreeError", "Node", "Tree", "apply_overlay", "pack", "u64", "unpack"]
