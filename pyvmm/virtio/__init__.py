"""Virtio devices over MMIO, to OASIS virtio 1.2: section numbers in this package are that document's."""
