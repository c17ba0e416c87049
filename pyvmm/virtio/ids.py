"""Device identifiers. Section 5."""

from __future__ import annotations

NET = 1
BLOCK = 2
CONSOLE = 3
ENTROPY = 4
BALLOON = 5
SOCKET = 19
I2C = 34
FILE_SYSTEM = 26
GPIO = 41

NAMES = {
    NET: "net",
    BLOCK: "block",
    CONSOLE: "console",
    ENTROPY: "entropy",
    BALLOON: "balloon",
    SOCKET: "vsock",
    FILE_SYSTEM: "fs",
    I2C: "i2c",
    GPIO: "gpio",
}
