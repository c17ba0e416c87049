"""Emulated devices, a file each. They know neither their address nor KVM."""
