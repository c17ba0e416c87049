"""The arm64 machine."""
