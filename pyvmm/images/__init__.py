"""Guest images: packages, initramfs, kernel build, and the host's half of the exec protocol."""
