"""The network device (virtio 1.2, section 5.1)."""
