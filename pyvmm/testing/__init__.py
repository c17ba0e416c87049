"""For testing devices without a guest: the fake driver. Public; see ``docs/guide/testing.md``."""

from pyvmm.testing.driver import DriverQueue, DriverRequest, FakeDriver

__all__ = ["DriverQueue", "DriverRequest", "FakeDriver"]
