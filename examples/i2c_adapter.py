"""An I2C adapter with two chips behind it: a 24c02 EEPROM at 0x50 and an LM75 thermometer at 0x48.

    pyvmm run --device examples/i2c_adapter.py:I2cAdapter,temperature=36.5

Linux drives it with i2c-virtio; see docs/guide/example-devices.md. Virtio 1.2, section 5.15;
``linux/virtio_i2c.h`` has the structures.
"""

from __future__ import annotations

import struct

from pyvmm import Chain, VirtioDevice
from pyvmm.virtio import ids

F_ZERO_LENGTH_REQUEST = 1 << 0
FLAG_FAIL_NEXT = 1 << 0
FLAG_READ = 1 << 1
OK, ERROR = 0, 1

#: Address with its read/write bit as on the wire, padding, flags.
HEADER = struct.Struct("<HHI")
#: The largest message, in bytes: the length in Linux' ``i2c_msg`` has 16 bits.
LIMIT = 0xFFFF


class Chip:
    """A chip on the bus. A transaction is a write, then a read, with a repeated start between them."""

    def write(self, data: bytes) -> None:
        """The controller writes *data*; none only asks whether the chip is there."""

    def read(self, size: int) -> bytes:
        """The controller reads *size* bytes."""
        return bytes(size)


class Eeprom24c02(Chip):
    """256 bytes. The first byte written is the address; writes wrap within a page of 8, reads at the end."""

    PAGE = 8

    def __init__(self) -> None:
        self.data = bytearray(b"\xff" * 256)
        self._at = 0

    def write(self, data: bytes) -> None:
        """Set the address; then store, within its page."""
        if data:
            self._at = data[0]
        for byte in data[1:]:
            self.data[self._at] = byte
            page = self._at & -self.PAGE
            self._at = page | (self._at + 1) % self.PAGE

    def read(self, size: int) -> bytes:
        """From the address on."""
        data = bytes(self.data[(self._at + i) & 0xFF] for i in range(size))
        self._at = (self._at + size) & 0xFF
        return data


class Lm75(Chip):
    """A thermometer with four registers: temperature, configuration, hysteresis, limit."""

    TEMPERATURE, CONFIGURATION = 0, 1

    def __init__(self, celsius: float) -> None:
        self._pointer = 0
        self._registers = {0: bytes(2), 1: bytes(1), 2: b"\x4b\x00", 3: b"\x50\x00"}
        self.celsius = celsius

    @property
    def celsius(self) -> float:
        """What it measures, in steps of half a degree from -55 to 125."""
        value: int = struct.unpack(">h", self._registers[self.TEMPERATURE])[0]
        return value / 256

    @celsius.setter
    def celsius(self, value: float) -> None:
        halves = round(min(125.0, max(-55.0, value)) * 2)
        self._registers[self.TEMPERATURE] = struct.pack(">h", halves * 128)

    def write(self, data: bytes) -> None:
        """Set the pointer; then the register it names, which is not the temperature."""
        if data:
            self._pointer = data[0] & 3
        if self._pointer != self.TEMPERATURE and len(data) - 1 == len(self._registers[self._pointer]):
            self._registers[self._pointer] = data[1:]

    def read(self, size: int) -> bytes:
        """The register that the pointer names, repeated."""
        register = self._registers[self._pointer]
        return (register * (size // len(register) + 1))[:size]


class I2cAdapter(VirtioDevice):
    """The adapter: one queue, a message a request."""

    device_id = ids.I2C
    name = "i2c"
    features = F_ZERO_LENGTH_REQUEST
    feature_names = {F_ZERO_LENGTH_REQUEST: "ZERO_LENGTH_REQUEST"}
    queue_sizes = (64,)

    def __init__(self, temperature: float = 21.0) -> None:
        super().__init__()
        self.thermometer = Lm75(temperature)
        #: What is on the bus, by 7-bit address.
        self.chips: dict[int, Chip] = {0x48: self.thermometer, 0x50: Eeprom24c02()}
        # After a message that failed and had FAIL_NEXT set, the rest of the transaction fails too.
        self._failing = False

    def handle(self, queue: int, chain: Chain) -> None:
        """One message: header, bytes to write or room to read into, a status byte."""
        address, _, flags = HEADER.unpack(chain.read(HEADER.size))
        room = min(chain.writable_size - 1, LIMIT)
        outgoing = chain.read_rest(LIMIT)
        chip = self.chips.get(address >> 1)
        failed = self._failing or chip is None or room < 0
        answer = b""
        if chip is not None and not failed:
            if flags & FLAG_READ:
                answer = chip.read(room)
            else:
                chip.write(outgoing)
        self._failing = failed and bool(flags & FLAG_FAIL_NEXT)
        # The status is the last byte the driver gave, behind all room for data.
        chain.write(answer.ljust(max(room, 0), b"\0"))
        chain.write(bytes([ERROR if failed else OK]))

    def stopped(self) -> None:
        """The driver reset the adapter; the chips keep what they have."""
        self._failing = False

    def describe(self, queue: int, request: bytes) -> str:
        """For a trace."""
        if len(request) < HEADER.size:
            return ""
        address, _, flags = HEADER.unpack_from(request)
        return f"{'read from' if flags & FLAG_READ else 'write to'} {address >> 1:#04x}"
