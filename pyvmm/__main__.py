"""``python -m pyvmm``."""

from pyvmm.cli.main import entry

entry()
