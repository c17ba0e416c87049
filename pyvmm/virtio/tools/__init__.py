"""Looking at virtio devices and disturbing them: trace, fault injection, recording.

Nothing of this is in a device's way unless it was asked for: a tool gives the objects it looks at a
class of their own, and only then.
"""
