"""One VM: built, run, ended."""
