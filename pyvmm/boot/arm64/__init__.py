"""The arm64 kernel image."""
