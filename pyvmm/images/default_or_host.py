"""The guest where none is named: Debian's kernel or, where its packages are not to be had, the host's."""

from __future__ import annotations

from pyvmm.errors import PyvmmError
from pyvmm.host.report import progress
from pyvmm.images.debian import NoPackageError
from pyvmm.images.default import default_guest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.images.guest_files import GuestFiles


def default_or_host_guest(say: Callable[[str], None] = progress) -> GuestFiles:
    """Debian's stock kernel; where its packages are not to be had, this host's own kernel.

    *say* is called with a text before each slow step and for the host's kernel, by default the log.
    Raises what ``default_guest`` raises; NoPackageError for a host whose own kernel cannot be used either.
    """
    try:
        return default_guest(say=say)
    except NoPackageError as error:
        from pyvmm.images.own import host_guest  # loads what reads other kernels and their modules

        try:
            guest = host_guest()
        except PyvmmError as other:
            raise NoPackageError(f"{error}. Nor can the host's kernel be taken: {other}") from None
        say(f"without Debian's packages the guest is this host's own kernel {guest.release}")
        return guest
