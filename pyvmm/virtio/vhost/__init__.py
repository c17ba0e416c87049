"""Queues run by the host's kernel or another process, and our devices served to another process."""
