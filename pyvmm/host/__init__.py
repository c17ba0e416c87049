"""This host's own calls: libc through ctypes, barriers, reports."""
