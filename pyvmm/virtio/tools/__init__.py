"""Observers of virtio devices, for users: trace, fault injection, recording."""
