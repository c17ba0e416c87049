"""What a VM process of ``pyvmm run`` has from its parent."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.host_side import HostSide
    from pyvmm.sandbox.leftovers import Leftovers
    from pyvmm.sandbox.vm_process import Parent


class InVmProcess:
    """For one machine of a guest.

    :param host_side: what the parent has opened
    :param leftovers: what the machine before has left, and this one leaves; None: there is only one
    :param left: seconds that the guest has left; None: it has no limit
    :param warning: a line for standard error once the machine is built
    """

    def __init__(
        self,
        parent: Parent,
        host_side: HostSide,
        leftovers: Leftovers | None,
        left: float | None,
        warning: str | None,
    ) -> None:
        self.parent = parent
        self.host_side = host_side
        self.leftovers = leftovers
        self.left = left
        self.warning = warning
