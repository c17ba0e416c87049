"""The PL011 serial port, as ARM's boards have it.

After the PL011 Technical Reference Manual (ARM DDI 0183G: registers in section 3.3, interrupts in
2.8, FIFOs in 2.4), revision r1p5 with FIFOs of 32, and what Linux's
``drivers/tty/serial/amba-pl011.c`` relies on. Where a virtual line differs:

- Transmission takes no time: a byte goes to the backend as it is written, and the transmit interrupt
  is raised by it, as by a FIFO that has just drained to its trigger level. While the backend is full, TXFF
  stays set.
- The host's input arrives at any baud rate. The receive timeout is due as soon as a delivery, or a
  read that leaves bytes behind, ends.
- UARTEN, TXE and RXE do not stop data: firmware built for emulators leaves them clear.
- There is no DMA; DMACR is stored.
"""

from __future__ import annotations

from pyvmm.devices.primecell import PrimeCell, words
from pyvmm.devices.uart import BREAK, Uart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board.device import Line
    from pyvmm.loop import Loop

# Register offsets (table 3-1).
DR = 0x000
RSR = 0x004
FR = 0x018
ILPR = 0x020
IBRD = 0x024
FBRD = 0x028
LCR_H = 0x02C
CR = 0x030
IFLS = 0x034
IMSC = 0x038
RIS = 0x03C
MIS = 0x040
ICR = 0x044
DMACR = 0x048

DR_BE = 1 << 10
RSR_BE = 1 << 2
RSR_OE = 1 << 3

FR_CTS = 1 << 0
FR_DSR = 1 << 1
FR_DCD = 1 << 2
FR_RXFE = 1 << 4
FR_TXFF = 1 << 5
FR_RXFF = 1 << 6
FR_TXFE = 1 << 7
FR_RI = 1 << 8

LCR_H_FEN = 1 << 4

CR_UARTEN = 1 << 0
CR_LBE = 1 << 7
CR_RXE = 1 << 9
CR_DTR = 1 << 10
CR_RTS = 1 << 11
CR_OUT1 = 1 << 12
CR_OUT2 = 1 << 13

#: Interrupts: the bits of IMSC, RIS, MIS and ICR.
INT_RI = 1 << 0
INT_CTS = 1 << 1
INT_DCD = 1 << 2
INT_DSR = 1 << 3
INT_RX = 1 << 4
INT_TX = 1 << 5
INT_RT = 1 << 6
INT_BE = 1 << 9
INT_OE = 1 << 10
_INT_ALL = 0x7FF

FIFO_SIZE = 32
#: Seconds from the enabling of the receiver, with its interrupt enabled already, until the guest is taken to
#: listen. Linux enables the interrupt first (pl011_hwinit), then the receiver, reads the receiver until it is
#: empty, and enables the interrupt once more (pl011_enable_interrupts), which counts at once. Small guests
#: enable the interrupt alone, since QEMU's PL011 needs no more: the same time passes after that.
SETTLED = 0.1
#: Receiver levels by IFLS bits 5:3, in eighths (table 3-12); reserved values count as the last.
_LEVELS = (1, 2, 4, 6, 7, 7, 7, 7)

#: Registers that only store what is written: offset, bits, value after reset.
_STORED = {
    ILPR: (0xFF, 0),
    IBRD: (0xFFFF, 0),
    FBRD: (0x3F, 0),
    LCR_H: (0xFF, 0),
    CR: (0xFF87, 0x300),
    IFLS: (0x3F, 0x12),
    IMSC: (_INT_ALL, 0),
    DMACR: (0x7, 0),
}
_BYTES = tuple(bytes((value,)) for value in range(256))


class Pl011(PrimeCell, Uart):
    """The registers of one port."""

    name = "PL011 serial port"
    peripheral_id = b"\x11\x10\x34\x00"

    _regs: dict[int, int]
    _ris: int
    _rsr: int
    _txff: bool
    _controlled: bool  # CR was written

    def __init__(self, loop: Loop, line: Line | None = None) -> None:
        super().__init__(loop, line)
        self._modem = 0
        self._power_on()

    def read(self, offset: int, size: int) -> int:
        """Read a register, a part of one, or two."""
        if offset == FR and size <= 4:  # what a console's driver polls
            if self._held and not self._txff:
                self._count_poll()
            return self._flags() & (1 << 8 * size) - 1
        return super().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register, or two."""
        if offset == DR:
            self.write_many(DR, _BYTES[value & 0xFF])
            if size == 8:
                super().write(RSR, 4, value >> 32)
        else:
            super().write(offset, size, value)

    def write_burst(self, offset: int, size: int, values: list[int]) -> None:
        """As ``write`` of each value in turn; at DR one call of the backend for all."""
        if offset == DR and size <= 4:
            self.write_many(DR, bytes(value & 0xFF for value in values))
        else:
            super().write_burst(offset, size, values)

    def write_many(self, offset: int, data: bytes) -> None:
        """As ``write`` of each byte of *data* to *offset* in turn; at DR one call of the backend for all."""
        if offset != DR:
            for value in data:
                self.write(offset, 1, value)
            return
        with self._lock:
            self._polls = 0
            if self._loopback():
                self._looped = True
                for value in data:
                    self._push(value)
            else:
                if self._backend is not None:
                    self._backend.write(data)
                    self._txff = not self._backend.ready
                for observer in self._taps:
                    observer(data)
            if not self._txff:
                self._ris |= INT_TX
            self._update()

    def save(self) -> dict[str, object]:
        """Registers and what the receiver holds; not the backend."""
        with self._lock:
            return {
                "version": 1,
                "registers": [self._regs[offset] for offset in _STORED],
                "status": [self._ris, self._rsr],
                "received": list(self._rx),
                "returned": list(self._returned),
                "listening": self._listening,
                "polling": self._polling,
            }

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError, TypeError or ValueError for anything else."""
        registers = words(state, "registers", len(_STORED), self.name)
        ris, rsr = words(state, "status", 2, self.name)
        received = state["received"]
        if not isinstance(received, list):
            raise TypeError(f"the saved state of a {self.name} has fields of the wrong type")
        entries = [int(entry) & (BREAK | 0xFF) for entry in received]
        with self._lock:
            self._power_on()
            if state.get("listening", True):
                self._polling = bool(state.get("polling", False))
                self._listen()
            for offset, value in zip(_STORED, registers, strict=True):
                self._regs[offset] = value & _STORED[offset][0]
            self._controlled = self._regs[CR] != _STORED[CR][1]
            self._set_fifos()
            self._rx = entries[: self._capacity]
            self._load_returned(state)
            self._ris, self._rsr = ris & _INT_ALL, rsr & 0xF
            self._set_modem_inputs()
            self._set_transmitter()
            self._update()
        self._feed()

    # The methods below are called under the lock, unless their docstrings say otherwise.

    def _power_on(self) -> None:
        self._forget()
        self._controlled = False
        self._regs = {offset: value for offset, (_, value) in _STORED.items()}
        self._rx = []
        self._ris = self._rsr = 0
        self._txff = self._backend is not None and not self._backend.ready
        self._set_fifos()
        self._set_modem_inputs()
        self._ris = 0

    def _set_fifos(self) -> None:
        fifo = bool(self._regs[LCR_H] & LCR_H_FEN)
        self._capacity = FIFO_SIZE if fifo else 1
        self._trigger = FIFO_SIZE * _LEVELS[self._regs[IFLS] >> 3 & 7] // 8 if fifo else 1

    def _flags(self) -> int:
        rx = len(self._rx)
        flags = self._modem | (FR_TXFF if self._txff else FR_TXFE)
        if not rx:
            flags |= FR_RXFE
        elif rx >= self._capacity:
            flags |= FR_RXFF
        return flags

    def _read_register(self, offset: int) -> int:
        """One register; takes the lock."""
        if offset == DR:
            return self._read_data()
        if offset == FR:
            return self._flags()
        if offset == RSR:
            return self._rsr
        if offset == RIS:
            return self._ris
        if offset == MIS:
            return self._ris & self._regs[IMSC]
        return self._regs.get(offset, 0)

    def _write_register(self, offset: int, value: int) -> None:
        """One register; takes the lock."""
        with self._lock:
            self._polls = 0
            if offset == RSR:
                self._rsr = 0
                return
            if offset == ICR:
                self._ris &= ~value
            elif offset in _STORED:
                was = self._regs[offset]
                self._regs[offset] = value & _STORED[offset][0]
                if offset == LCR_H and (was ^ value) & LCR_H_FEN:
                    self._clear_receiver(self._receives())
                    self._ris &= ~(INT_RX | INT_RT)
                if offset in (LCR_H, IFLS):
                    self._set_fifos()
                    self._set_receive_interrupts()
                elif offset == CR:
                    self._controlled = True
                    self._set_modem_inputs()
                    self._set_transmitter()
                if offset == IMSC and self._controlled and self._receives():
                    self._listen()
                elif (offset == CR or (offset == IMSC and not self._listening)) and self._receives():
                    self._loop.call_later(SETTLED, self._settled)
            else:
                return
            self._update()
        self._feed()

    def _read_data(self) -> int:
        """The oldest byte received, with its errors; takes the lock."""
        with self._lock:
            if not self._rx:
                return 0
            entry = self._rx.pop(0)
            self._was_read()
            self._rsr = self._rsr & RSR_OE | (RSR_BE if entry & BREAK else 0)
            self._set_receive_interrupts()
            self._update()
        self._feed()
        return entry & 0xFF | (DR_BE if entry & BREAK else 0)

    def _receives(self) -> bool:
        """Whether the receiver, where the guest controls it, and its interrupt are enabled."""
        control = CR_UARTEN | CR_RXE
        enabled = not self._controlled or self._regs[CR] & control == control
        return enabled and bool(self._regs[IMSC] & (INT_RX | INT_RT))

    def _settled(self) -> None:
        """Some time after the receiver or its interrupt was enabled; takes the lock."""
        with self._lock:
            if not self._receives():
                return
            self._listen()
        self._feed()

    def _set_receive_interrupts(self) -> None:
        count = len(self._rx)
        self._ris &= ~(INT_RX | INT_RT)
        if count >= self._trigger:
            self._ris |= INT_RX
        elif count:
            self._ris |= INT_RT

    def _push(self, entry: int) -> None:
        if len(self._rx) >= self._capacity:
            self._rsr |= RSR_OE
            self._ris |= INT_OE
            self.overruns += 1
            return
        self._rx.append(entry)
        if entry & BREAK:
            self._ris |= INT_BE
        self._set_receive_interrupts()

    def _set_modem_inputs(self) -> None:
        control = self._regs[CR]
        if control & CR_LBE:
            modem = (
                (FR_CTS if control & CR_RTS else 0)
                | (FR_DSR if control & CR_DTR else 0)
                | (FR_DCD if control & CR_OUT1 else 0)
                | (FR_RI if control & CR_OUT2 else 0)
            )
        else:
            modem = FR_CTS | FR_DSR | FR_DCD if self._backend is not None else 0
        changed = modem ^ self._modem
        for flag, interrupt in ((FR_CTS, INT_CTS), (FR_DSR, INT_DSR), (FR_DCD, INT_DCD), (FR_RI, INT_RI)):
            if changed & flag:
                self._ris |= interrupt
        self._modem = modem

    def _set_transmitter(self) -> None:
        full = not self._loopback() and self._backend is not None and not self._backend.ready
        if self._txff and not full:
            self._ris |= INT_TX
        self._txff = full

    def _interrupting(self) -> bool:
        return bool(self._ris & self._regs[IMSC])

    def _loopback(self) -> bool:
        return bool(self._regs[CR] & CR_LBE)
