"""The exec protocol's host half: commands run in a guest over any stream of bytes."""
