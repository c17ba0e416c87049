"""Split virtqueues, device side (virtio 1.2, section 2.7)."""
