"""Errors of images and of what is loaded with them."""

from __future__ import annotations

from pyvmm.errors import StartError


class ImageError(StartError):
    """A kernel, firmware or initrd file that cannot be started, or does not fit into the guest."""


class NotAKernelError(ImageError):
    """The file has no format that this VMM boots; the sentence says what the file is instead."""


class DoesNotFitError(ImageError):
    """The image is valid, but the guest's memory or the kernel's own limits are too small for it."""
