"""The command line: ``pyvmm <verb>``, a module a verb."""
