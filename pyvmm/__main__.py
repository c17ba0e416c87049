"""``python -m pyvmm``."""

import os
import sys

if sys.argv[1:2] == ["run"]:
    from pyvmm import bundle

    _path = sys.path[:]
    if not sys.flags.safe_path and _path[0] != os.path.dirname(os.path.dirname(__file__)):
        del sys.path[0]  # the current directory, which no bundle is to be made from
    if not bundle.load():
        from pyvmm.bundle_writer import make

        make()
    sys.path[:] = _path

from pyvmm.cli.main import entry

entry()
