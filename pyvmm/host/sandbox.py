"""What the process of a VM gives up: before its machine is built, and before the guest's first instruction.

In between the machine is built out of what is open: there is no file system any more. What the machine reads
by name was opened before (``host/opened.py``), and what it may need to import was imported.
docs/internals/isolation.md has the order and its reasons.
"""

from __future__ import annotations

import os
from ctypes import CDLL

from pyvmm.host import limits, opened, seccomp, vm_filter
from pyvmm.host.descriptors import close_all_but
from pyvmm.host.landlock import CONTENTS, LandlockError, Ruleset
from pyvmm.host.namespaces import NamespaceError, empty_root, leave_host
from pyvmm.host.privileges import (
    become,
    no_bounding_capabilities,
    no_capabilities,
    no_new_privileges,
    not_dumpable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: The user and the group of a VM that root starts: Debian's nobody, whom no file belongs to.
NOBODY = 65534
#: Descriptors that a running machine may open: those of connections and of duplicates.
DESCRIPTORS = 64
#: Set in tests: a system call that is not allowed kills the process.
KILL = "PYVMM_SANDBOX_KILL"
_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "PYVMM_DEBUG")

try:
    CDLL("libgcc_s.so.1")  # the C library opens it by name when a thread ends (pthread_exit)
except OSError:
    pass  # another C library


class Sandbox:
    """The two halves, for a process with one thread: ``enter``, and ``seal`` in a machine's ``at_start``.

    A step that this host cannot do is left out and named in ``lacking``; the others are taken.

    Files and directories of the host's can stay reachable by their names, with all below them: to look at, to
    read, to write, to make, to rename and to remove. So do UNIX sockets in them, to connect to. For these
    root becomes the owner of the first; where that is root it remains root, without capabilities.

    :param uid: for root: the user that the process becomes
    :param gid: likewise its group
    :param paths: absolute names of what stays reachable
    """

    def __init__(self, *, uid: int = NOBODY, gid: int = NOBODY, paths: Sequence[str] = ()) -> None:
        self._uid, self._gid = uid, gid
        self._paths = [*paths]
        self._kill = bool(os.environ.get(KILL))
        #: What this host could not do: for each step one sentence, which says what it answered.
        self.lacking: list[str] = []

    def enter(self, keep: Iterable[int]) -> None:
        """Give up files, network, other processes, capabilities; *keep* are the descriptors that stay open.

        The process must have one thread. Landlock and capabilities are a thread's own: those that begin
        later inherit them. Raises OSError on kernels before 5.9, which have no close_range(2), and for a path
        that is not there.
        """
        os.umask(0o077)
        if self._paths:
            self._uid, self._gid = _owner(self._paths[0])
        for name in [name for name in os.environ if name not in _KEPT]:
            del os.environ[name]
        close_all_but(keep)
        root = os.geteuid() == 0
        left = self._step(leave_host)
        if left:
            self._step(lambda: empty_root(self._paths))
        if root or left:
            self._step(no_bounding_capabilities)
        if root:
            self._step(lambda: become(self._uid, self._gid), "another user: ")
        self._step(no_capabilities)
        self._step(no_new_privileges)
        self._step(self._no_files)
        opened.gave_up = True

    def seal(
        self,
        *,
        descriptors: int = DESCRIPTORS,
        file_size: int = limits.UNLIMITED,
        program: Callable[..., bytes] = vm_filter.program,
    ) -> None:
        """Limits, no core dump, and the filter of system calls on every thread.

        What was opened for the build (``opened.keep``) is closed.

        :param descriptors: how many more than now may be open
        :param file_size: bytes of the largest file that is written to
        :param program: makes the filter; its parameters are those of ``vm_filter.program``
        """
        opened.close_all()
        self._step(not_dumpable)
        self._step(
            lambda: limits.limit(descriptors=descriptors, file_size=file_size), "limits of its resources: "
        )
        files = bool(self._paths)
        self._step(
            lambda: seccomp.enforce(program(seccomp.machine(), os.getpid(), files=files, kill=self._kill))
        )

    def _no_files(self) -> None:
        rules = Ruleset()
        for path in self._paths:
            rules.allow(path, CONTENTS)
        rules.enforce()

    def _step(self, function: Callable[[], object], name: str = "") -> bool:
        try:
            function()
        except (NamespaceError, LandlockError, seccomp.SeccompError) as error:
            self.lacking.append(str(error))
        except OSError as error:
            self.lacking.append(f"{name}{error.strerror or error}")
        else:
            return True
        return False


def lacking_here() -> list[str]:
    """What this host cannot do for this user, as ``Sandbox.lacking``; a process of its own tries it.

    Raises OSError when none can be started or it did not end well.
    """
    import json
    import subprocess

    from pyvmm.host import interpreter

    command = interpreter.command(__name__, None)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"the process that tried the sandbox ended with {done.returncode}")
    return [str(sentence) for sentence in json.loads(done.stdout)]


def main(_: str) -> None:
    """Enter and seal a sandbox, and write a JSON list of what is lacking to standard output."""
    import json

    sandbox = Sandbox()
    sandbox.enter((0, 1, 2))
    sandbox.seal()
    os.write(1, json.dumps(sandbox.lacking).encode())


def _owner(path: str) -> tuple[int, int]:
    """The user and the group that *path* belongs to; never root's group with another user. Raises OSError."""
    found = os.stat(path)
    return found.st_uid, found.st_gid if found.st_gid or not found.st_uid else NOBODY
