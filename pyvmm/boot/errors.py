"""What is wrong with an image, or with what was asked to be loaded beside it."""

from __future__ import annotations

from pyvmm.errors import StartError


class ImageError(StartError):
    """A kernel, firmware or initrd file that cannot be started, or does not fit into the guest."""


class NotAKernelError(ImageError):
    """The file is none of the formats this VMM starts; the sentence says what it looks like."""


class DoesNotFitError(ImageError):
    """The image is sound, but the guest's memory or the kernel's own limits are too small for it."""
