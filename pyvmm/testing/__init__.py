"""For testing devices without a guest: the fake driver. Public; see ``docs/guide/testing.md``."""

from pyvmm.testing.driver import DriverQueue, FakeDriver, Request

__all__ = ["DriverQueue", "FakeDriver", "Request"]
