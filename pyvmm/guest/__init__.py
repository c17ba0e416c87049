"""Driving a guest from Python, and from another process: commands, files, console, life."""
