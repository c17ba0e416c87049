"""A guest's machine in a process of its own: the VM process, and what its parent and it tell each other."""
