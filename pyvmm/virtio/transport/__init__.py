"""Virtio over MMIO (virtio 1.2, section 4.2): registers, interrupts, placement on the machine's bus."""
