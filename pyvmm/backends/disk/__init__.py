"""Disk images: what stands behind a block device."""
