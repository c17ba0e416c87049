"""Bytes to guest memory: kernels, firmware, initrds, boot parameters, tables, the first CPU state."""
