"""An i8042 keyboard controller without keyboard and mouse: the reset line, A20, and immediate answers.

After IBM's PS/2 hardware interface technical reference (keyboard and auxiliary device controller) and what
Linux's ``drivers/input/serio/i8042.c`` probes for. Every command that has an answer gets it at once: a driver
would poll the status port 10,000 times for a missing one.

- No keyboard: a byte sent to it comes back as 0xfe with the timeout bit, as when the
  clock line times out.
- No auxiliary port: its test fails, its loop returns 0xfe, 0xa7 and 0xa8 leave it disabled.
- No interrupts: with no device there is nothing to report.
- A20 is a bit to be read back; the address line itself is always on.
"""

from __future__ import annotations

from _thread import allocate_lock

from pyvmm.board.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STATUS_OBF = 0x01  # the data port has a byte
STATUS_SYS = 0x04  # the system flag: the self test passed
STATUS_CMD = 0x08  # the last write went to the command port
STATUS_UNLOCKED = 0x10  # the keyboard lock is open
STATUS_TIMEOUT = 0x40

CTR_SYS = 0x04
CTR_KBDDIS = 0x10
CTR_AUXDIS = 0x20
CTR_XLATE = 0x40
_CTR_POWER_ON = CTR_SYS | CTR_KBDDIS | CTR_AUXDIS | CTR_XLATE

CMD_READ_RAM = 0x20  # 0x20-0x3f: byte 0-31 of the controller's memory; byte 0 is the CTR
CMD_WRITE_RAM = 0x60  # 0x60-0x7f
CMD_PASSWORD_TEST = 0xA4
CMD_AUX_TEST = 0xA9
CMD_SELF_TEST = 0xAA
CMD_KBD_TEST = 0xAB
CMD_KBD_DISABLE = 0xAD
CMD_KBD_ENABLE = 0xAE
CMD_READ_INPUT = 0xC0
CMD_READ_OUTPUT = 0xD0
CMD_WRITE_OUTPUT = 0xD1
CMD_WRITE_KBD_BUFFER = 0xD2
CMD_AUX_LOOP = 0xD3
CMD_AUX_SEND = 0xD4
CMD_A20_OFF = 0xDD
CMD_A20_ON = 0xDF
CMD_READ_TEST = 0xE0
CMD_PULSE = 0xF0  # 0xf0-0xff: a clear bit pulses that output line low; 0xfe is the reset

OUTPUT_RESET = 0x01  # low resets the machine
OUTPUT_A20 = 0x02
OUTPUT_OBF = 0x10
_OUTPUT_POWER_ON = 0xC0 | OUTPUT_RESET | OUTPUT_A20

NO_PASSWORD = 0xF1
SELF_TEST_PASSED = 0x55
CLOCK_STUCK_LOW = 0x01
LINES_GOOD = 0x00
NO_ANSWER = 0xFE
INPUT_UNLOCKED = 0x80

_ANSWERS = {
    CMD_PASSWORD_TEST: NO_PASSWORD,
    CMD_AUX_TEST: CLOCK_STUCK_LOW,
    CMD_KBD_TEST: LINES_GOOD,
    CMD_READ_INPUT: INPUT_UNLOCKED,
    CMD_READ_TEST: 0,
}
_RAM_SIZE = 32


class I8042(Device):
    """The controller. ``data`` and ``command`` are its ports, a one-byte window each (0x60, 0x64).

    State is saved, loaded and reset here, not at the ports.

    :param on_reset: the guest pulled the reset line; called by the vCPU that did
    """

    name = "i8042"

    def __init__(self, on_reset: Callable[[], object]) -> None:
        self._on_reset = on_reset
        self._lock = allocate_lock()
        #: The port that carries data.
        self.data = DataPort(self)
        #: The port that takes commands and gives the status.
        self.command = CommandPort(self)
        self._power_on()

    def _power_on(self) -> None:
        self._ram = bytearray(_RAM_SIZE)
        self._ram[0] = _CTR_POWER_ON
        self._status = STATUS_UNLOCKED | STATUS_SYS
        self._output = 0  # the byte in the data port, kept after it is read
        self._port = _OUTPUT_POWER_ON
        self._awaited = 0  # the command that awaits its data byte, or 0

    def read_data(self) -> int:
        """The byte in the output buffer, or the last one that was."""
        with self._lock:
            self._status &= ~(STATUS_OBF | STATUS_TIMEOUT)
            return self._output

    def read_status(self) -> int:
        """The status register."""
        return self._status

    def write_command(self, value: int) -> None:
        """Carry out the command *value*, 0 to 0xff; unknown ones are ignored."""
        with self._lock:
            self._status |= STATUS_CMD
            reset = self._command(value)
        if reset:
            self._on_reset()

    def write_data(self, value: int) -> None:
        """Take *value*, 0 to 0xff: the data byte of the last command, or a byte for the keyboard."""
        with self._lock:
            self._status &= ~STATUS_CMD
            reset = self._data(value)
        if reset:
            self._on_reset()

    def _command(self, value: int) -> bool:
        """Carry out a command; True when it pulls the reset line. Under the lock."""
        self._awaited = 0
        if value in _ANSWERS:
            self._answer(_ANSWERS[value])
        elif CMD_READ_RAM <= value < CMD_READ_RAM + _RAM_SIZE:
            self._answer(self._ram[value - CMD_READ_RAM])
        elif CMD_WRITE_RAM <= value < CMD_WRITE_RAM + _RAM_SIZE or CMD_WRITE_OUTPUT <= value <= CMD_AUX_SEND:
            self._awaited = value
        elif value == CMD_SELF_TEST:
            self._ram[0] = _CTR_POWER_ON
            self._status |= STATUS_SYS
            self._answer(SELF_TEST_PASSED)
        elif value == CMD_KBD_DISABLE:
            self._ram[0] |= CTR_KBDDIS
        elif value == CMD_KBD_ENABLE:
            self._ram[0] &= ~CTR_KBDDIS
        elif value == CMD_READ_OUTPUT:
            self._answer(self._port | (OUTPUT_OBF if self._status & STATUS_OBF else 0))
        elif value == CMD_A20_OFF:
            self._port &= ~OUTPUT_A20
        elif value == CMD_A20_ON:
            self._port |= OUTPUT_A20
        elif value >= CMD_PULSE:
            return not value & OUTPUT_RESET
        return False

    def _data(self, value: int) -> bool:
        """Take a data byte; True when it pulls the reset line. Under the lock."""
        awaited, self._awaited = self._awaited, 0
        if CMD_WRITE_RAM <= awaited < CMD_WRITE_RAM + _RAM_SIZE:
            self._ram[awaited - CMD_WRITE_RAM] = value
            if awaited == CMD_WRITE_RAM:
                self._ram[0] |= CTR_AUXDIS
                self._status = self._status & ~STATUS_SYS | (STATUS_SYS if value & CTR_SYS else 0)
        elif awaited == CMD_WRITE_OUTPUT:
            self._port = value & ~OUTPUT_OBF
            return not value & OUTPUT_RESET
        elif awaited == CMD_WRITE_KBD_BUFFER:
            self._answer(value)
        elif awaited == CMD_AUX_LOOP:
            self._answer(NO_ANSWER)
        else:  # for the keyboard, or after CMD_AUX_SEND: there is no device
            self._answer(NO_ANSWER)
            self._status |= STATUS_TIMEOUT
        return False

    def _answer(self, value: int) -> None:
        # There is one output buffer: a new answer replaces one that was not read.
        self._output = value
        self._status = self._status & ~STATUS_TIMEOUT | STATUS_OBF

    def reset(self) -> None:
        """As a PC's firmware leaves it: self test passed, both devices disabled, A20 on."""
        with self._lock:
            self._power_on()

    def save(self) -> dict[str, object]:
        """The controller's memory and registers."""
        with self._lock:
            registers = [self._status, self._output, self._port, self._awaited]
            return {"version": 1, "ram": list(self._ram), "registers": registers}

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError, TypeError or ValueError for anything else."""
        ram, registers = state["ram"], state["registers"]
        if not (isinstance(ram, list) and isinstance(registers, list)):
            raise TypeError("the saved state of the i8042 has fields of the wrong type")
        memory = bytearray(ram)
        status, output, port, awaited = bytes(registers)
        if len(memory) != _RAM_SIZE:
            raise ValueError(
                f"the saved state of the i8042 has {len(memory)} bytes of memory, not {_RAM_SIZE}"
            )
        with self._lock:
            self._ram = memory
            self._status, self._output, self._port, self._awaited = status, output, port, awaited


class DataPort(Device):
    """The port at 0x60."""

    name = "i8042 data"

    def __init__(self, controller: I8042) -> None:
        self._controller = controller

    def read(self, offset: int, size: int) -> int:
        """The byte in the output buffer."""
        return self._controller.read_data()

    def write(self, offset: int, size: int, value: int) -> None:
        """A byte for a command or for the keyboard."""
        self._controller.write_data(value & 0xFF)


class CommandPort(Device):
    """The port at 0x64."""

    name = "i8042 command"

    def __init__(self, controller: I8042) -> None:
        self._controller = controller

    def read(self, offset: int, size: int) -> int:
        """The status register."""
        return self._controller.read_status()

    def write(self, offset: int, size: int, value: int) -> None:
        """A command."""
        self._controller.write_command(value & 0xFF)
