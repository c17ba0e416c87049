"""Guest images: packages, initramfs, kernel build, and their cache."""
