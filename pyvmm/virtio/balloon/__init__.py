"""The traditional memory balloon (virtio 1.2, section 5.5)."""
