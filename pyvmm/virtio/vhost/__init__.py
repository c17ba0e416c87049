"""Queues run by somebody else: the host's kernel or another process; and our devices served to others."""
