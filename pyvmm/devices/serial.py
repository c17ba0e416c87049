"""A 16550A serial port.

After the National Semiconductor PC16550D data sheet (registers: section 8; interrupt sources:
table IV; FIFO operation: sections 8.4 and 8.11) and what Linux's
``drivers/tty/serial/8250/8250_port.c`` probes for. Where a virtual line differs:

- Transmission takes no time: a byte goes to the backend as it is written. While the
  backend is full, THRE and TEMT stay clear. Bytes written nevertheless are dropped by the backend.
- The host's input arrives at any baud rate, and the receive timeout is due as soon as
  a delivery ends; after the guest's own read it takes RECEIVE_TIMEOUT.
- Word length and parity are stored and not applied: a guest that never sets LCR works.
- MCR.OUT2 does not gate the interrupt. A PC's board does that, but kernels
  developed on emulators (xv6) leave it clear.
"""

from __future__ import annotations

from pyvmm.devices.uart import BREAK, Uart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board.device import Line
    from pyvmm.board.timers import Cancellable, Timers
    from pyvmm.loop import Loop

# Register offsets; two or three registers share the first ones (data sheet, table II).
RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR = 3
MCR = 4
LSR = 5
MSR = 6
SCR = 7

IER_RDI = 0x01
IER_THRI = 0x02
IER_RLSI = 0x04
IER_MSI = 0x08

IIR_NO_INT = 0x01
IIR_MSI = 0x00
IIR_THRI = 0x02
IIR_RDI = 0x04
IIR_RLSI = 0x06
IIR_RX_TIMEOUT = 0x0C
IIR_FIFO_ENABLED = 0xC0

FCR_ENABLE_FIFO = 0x01
FCR_CLEAR_RCVR = 0x02
FCR_CLEAR_XMIT = 0x04

LCR_DLAB = 0x80

MCR_DTR = 0x01
MCR_RTS = 0x02
MCR_OUT1 = 0x04
MCR_OUT2 = 0x08
MCR_LOOP = 0x10

LSR_DR = 0x01
LSR_OE = 0x02
LSR_BI = 0x10
LSR_THRE = 0x20
LSR_TEMT = 0x40
LSR_FIFOE = 0x80
_LSR_EMPTY = LSR_THRE | LSR_TEMT
_LSR_ERRORS = 0x1E  # OE, PE, FE, BI: cleared by reading, source of the line status interrupt

MSR_DCTS = 0x01
MSR_TERI = 0x04
MSR_CTS = 0x10
MSR_DSR = 0x20
MSR_RI = 0x40
MSR_DCD = 0x80
_MSR_DELTAS = 0x0F

FIFO_SIZE = 16
_TRIGGERS = (1, 4, 8, 14)

#: Seconds from a read that leaves bytes behind to the timeout interrupt. Four characters
#: take 0.35 ms at 115200 baud; the event loop counts whole milliseconds.
RECEIVE_TIMEOUT = 0.001

_BYTES = tuple(bytes((value,)) for value in range(256))


class Serial16550A(Uart):
    """The registers of one port."""

    name = "16550A serial port"

    #: What a read of LSR returns; -1 while the read has an effect: it clears error bits.
    polled: int
    _divisor: int
    _line_status: int
    _msr: int
    _rbr: int
    _thre: bool  # the THRE interrupt is pending, if IER.THRI is set
    _timeout: bool  # the receive timeout interrupt is pending

    def __init__(self, loop: Loop, line: Line | None = None, timers: Timers | None = None) -> None:
        super().__init__(loop, line)
        self._timers: Timers = timers if timers is not None else loop
        self._timer: Cancellable | None = None
        self._reads = 0
        self._power_on()

    def read(self, offset: int, size: int) -> int:
        """Read registers; a wider access reads neighbours, as an 8-bit device on a wider bus."""
        if size != 1:
            return sum(self.read(offset + i, 1) << 8 * i for i in range(size))
        if offset == LSR:
            polled = self.polled
            return polled if polled >= 0 else self._read_status()
        if offset == RBR:
            return self._read_rbr() if not self._lcr & LCR_DLAB else self._divisor & 0xFF
        if offset == IIR:
            return self._read_iir()
        if offset == IER:
            return self._ier if not self._lcr & LCR_DLAB else self._divisor >> 8
        if offset == MSR:
            return self._read_msr()
        if offset == LCR:
            return self._lcr
        if offset == MCR:
            return self._mcr
        return self._scr if offset == SCR else 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Write registers; a wider access writes neighbours, lowest first."""
        if size != 1:
            for i in range(size):
                self.write(offset + i, 1, value >> 8 * i & 0xFF)
        elif offset == THR:
            self.write_many(THR, _BYTES[value])
        else:
            with self._lock:
                self._write_register(offset, value)
            self._feed()

    def write_many(self, offset: int, data: bytes) -> None:
        """As ``write`` of each byte of *data* to *offset* in turn; at THR one call of the backend for all."""
        if offset != THR or not data:
            for value in data:
                self.write(offset, 1, value)
            return
        with self._lock:
            self._polls = 0
            if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF00 | data[-1]
                return
            if self._mcr & MCR_LOOP:
                self._looped = True
                for value in data:
                    self._push(value)
                self._update()
            elif self._backend is not None:
                self._backend.write(data)
                if not self._backend.ready:
                    self._lsr &= ~_LSR_EMPTY
            if self._taps and not self._mcr & MCR_LOOP:
                for observer in self._taps:
                    observer(data)
            if self._ier & IER_THRI:
                # The line falls and rises: a guest that never reads IIR needs the new edge.
                self._thre = False
                self._update()
                self._thre = bool(self._lsr & LSR_THRE)
                self._update()

    def close(self) -> None:
        """Take no more input, and cancel the timer; no other is started."""
        super().close()
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def save(self) -> dict[str, object]:
        """Registers and what the receiver holds; not the backend."""
        with self._lock:
            return {
                "version": 1,
                "registers": [self._ier, self._fcr, self._lcr, self._mcr, self._scr, self._divisor],
                "errors": self._lsr & (_LSR_ERRORS | LSR_FIFOE),
                "deltas": self._msr & _MSR_DELTAS,
                "pending": [self._thre, self._timeout],
                "received": list(self._rx),
                "returned": list(self._returned),
                "listening": self._listening,
                "polling": self._polling,
            }

    def load(self, state: dict[str, object]) -> None:
        """Restore what ``save`` returned. Raises KeyError, TypeError or ValueError for anything else."""
        registers, pending, received = state["registers"], state["pending"], state["received"]
        errors, deltas = state["errors"], state["deltas"]
        if not (
            isinstance(registers, list)
            and isinstance(pending, list)
            and isinstance(received, list)
            and isinstance(errors, int)
            and isinstance(deltas, int)
        ):
            raise TypeError("the saved state of a serial port has fields of the wrong type")
        ier, fcr, lcr, mcr, scr, divisor = (int(value) for value in registers)
        thre, timeout = pending
        with self._lock:
            self._power_on()
            if state.get("listening", True):
                self._polling = bool(state.get("polling", False))
                self._listen()
            self._set_fcr(fcr)
            self._ier, self._lcr, self._mcr = ier & 0x0F, lcr & 0xFF, mcr & 0x1F
            self._scr, self._divisor = scr & 0xFF, divisor & 0xFFFF
            self._rx = [int(entry) & (BREAK | 0xFF) for entry in received][: self._capacity]
            self._lsr |= errors & (_LSR_ERRORS | LSR_FIFOE)
            self._load_returned(state)
            if self._rx:
                self._lsr |= LSR_DR
            self._set_modem_inputs()
            self._msr = self._msr & ~_MSR_DELTAS | deltas & _MSR_DELTAS
            self._set_transmitter()
            self._thre, self._timeout = bool(thre), bool(timeout)
            self._update()
        self._feed()

    @property
    def _lsr(self) -> int:
        return self._line_status

    @_lsr.setter
    def _lsr(self, value: int) -> None:
        self._line_status = value
        self.polled = -1 if value & (_LSR_ERRORS | LSR_FIFOE) or self._held else value

    # The methods below are called under the lock, unless their docstrings say otherwise.

    def _hold(self) -> None:
        self.polled = -1

    def _listen(self) -> None:
        super()._listen()
        self._lsr = self._line_status

    def _power_on(self) -> None:
        """The data sheet's table III, at 9600 baud as a PC's firmware leaves it."""
        self._forget()
        self._ier = self._lcr = self._mcr = self._scr = 0
        self._divisor = 12
        self._set_fcr(0)
        self._rx = []
        self._rbr = 0
        self._lsr = _LSR_EMPTY
        self._msr = 0
        self._thre = self._timeout = False
        self._cancel_timer()
        self._set_modem_inputs()
        self._msr &= ~_MSR_DELTAS
        self._set_transmitter()

    def _write_register(self, offset: int, value: int) -> None:
        self._polls = 0
        if offset == IER:
            if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF | value << 8
                return
            enabled = value & ~self._ier
            self._ier = value & 0x0F
            if enabled & IER_THRI:
                self._thre = bool(self._lsr & LSR_THRE)
            if enabled & IER_RDI:
                self._listen()
                self._timeout = self._below_trigger()
        elif offset == FCR:
            if (value ^ self._fcr) & FCR_ENABLE_FIFO or value & FCR_CLEAR_RCVR:
                self._clear_receiver(bool(self._ier & IER_RDI))
                self._timeout = False
                self._lsr &= ~(LSR_DR | LSR_FIFOE)
            self._set_fcr(value)
        elif offset == LCR:
            self._lcr = value
            return
        elif offset == MCR:
            self._mcr = value & 0x1F
            self._set_modem_inputs()
            self._set_transmitter()
        elif offset == SCR:
            self._scr = value
            return
        else:  # LSR and MSR: by the data sheet, writes are for factory tests
            return
        self._update()

    def _set_fcr(self, value: int) -> None:
        # The other bits are valid only if bit 0 is written as 1. FCR_CLEAR_XMIT has no effect: what was
        # written is in the backend already.
        fifo = bool(value & FCR_ENABLE_FIFO)
        self._fcr = value & 0xC9 if fifo else 0
        self._trigger = _TRIGGERS[value >> 6 & 3] if fifo else 1
        self._capacity = FIFO_SIZE if fifo else 1

    def _set_modem_inputs(self) -> None:
        if self._mcr & MCR_LOOP:
            inputs = (
                (MSR_CTS if self._mcr & MCR_RTS else 0)
                | (MSR_DSR if self._mcr & MCR_DTR else 0)
                | (MSR_RI if self._mcr & MCR_OUT1 else 0)
                | (MSR_DCD if self._mcr & MCR_OUT2 else 0)
            )
        else:
            inputs = MSR_CTS | MSR_DSR | MSR_DCD if self._backend is not None else 0
        deltas = (self._msr ^ inputs) >> 4 & _MSR_DELTAS
        if inputs & MSR_RI:
            deltas &= ~MSR_TERI  # only the trailing edge of RI sets TERI
        self._msr = inputs | self._msr & _MSR_DELTAS | deltas

    def _set_transmitter(self) -> None:
        """Set THRE and TEMT by the backend's room; becoming empty is an interrupt source."""
        if self._mcr & MCR_LOOP or self._backend is None or self._backend.ready:
            if not self._lsr & LSR_THRE:
                self._lsr |= _LSR_EMPTY
                self._thre = bool(self._ier & IER_THRI)
        else:
            self._lsr &= ~_LSR_EMPTY
            self._thre = False

    def _pending(self) -> int:
        """The pending interrupt of the highest priority, as IIR has it (data sheet, table IV)."""
        ier = self._ier
        if ier & IER_RLSI and self._lsr & _LSR_ERRORS:
            return IIR_RLSI
        if ier & IER_RDI:
            if len(self._rx) >= self._trigger:
                return IIR_RDI
            if self._timeout:
                return IIR_RX_TIMEOUT
        if ier & IER_THRI and self._thre:
            return IIR_THRI
        if ier & IER_MSI and self._msr & _MSR_DELTAS:
            return IIR_MSI
        return IIR_NO_INT

    def _interrupting(self) -> bool:
        return self._pending() != IIR_NO_INT

    def _loopback(self) -> bool:
        return bool(self._mcr & MCR_LOOP)

    def _read_status(self) -> int:
        """LSR with errors in it, or while input waits for a guest that listens; takes the lock."""
        if self._held and self._lsr & LSR_THRE:
            self._count_poll()
        with self._lock:
            lsr = self._lsr
            self._lsr &= ~(_LSR_ERRORS | LSR_FIFOE)
            if any(entry & BREAK for entry in self._rx[1:]):
                self._lsr |= LSR_FIFOE
            self._update()
            return lsr

    def _read_iir(self) -> int:
        """IIR; the read acknowledges THRE when that is the interrupt it has. Takes the lock."""
        with self._lock:
            pending = self._pending()
            if pending == IIR_THRI:
                self._thre = False
                self._update()
            return pending | IIR_FIFO_ENABLED if self._fcr & FCR_ENABLE_FIFO else pending

    def _read_msr(self) -> int:
        """MSR; reading it clears the delta bits. Takes the lock."""
        with self._lock:
            msr = self._msr
            self._msr &= ~_MSR_DELTAS
            self._update()
            return msr

    def _read_rbr(self) -> int:
        """The oldest byte received, or the last one read when there is none. Takes the lock."""
        if self._held:
            self._count_poll()
        with self._lock:
            rx = self._rx
            value = self._take(rx) if rx else self._rbr
        self._feed()
        return value

    def _take(self, rx: list[int]) -> int:
        """The oldest of *rx*, which is not empty."""
        self._rbr = value = rx.pop(0) & 0xFF
        self._was_read()
        self._timeout = False
        if not rx:
            self._lsr &= ~LSR_DR
        elif rx[0] & BREAK:
            self._lsr |= LSR_BI
        self._update()
        if self._ier & IER_RDI and self._below_trigger():
            self._reads += 1
            if self._timer is None:
                self._wait_for_reads()
        return value

    def _below_trigger(self) -> bool:
        return 0 < len(self._rx) < self._trigger

    def _wait_for_reads(self) -> None:
        self._reads = 0
        self._timer = self._timers.call_later(RECEIVE_TIMEOUT, self._timer_fired)

    def _push(self, entry: int) -> None:
        """One character into the receiver: data sheet, LSR bits 0, 1, 4 and 7."""
        if len(self._rx) >= self._capacity:
            self._lsr |= LSR_OE
            self.overruns += 1
            if self._fcr & FCR_ENABLE_FIFO:
                return  # the FIFO keeps what it has
            self._rx.clear()
        self._rx.append(entry)
        self._lsr |= LSR_DR
        if entry & BREAK:
            if len(self._rx) == 1:
                self._lsr |= LSR_BI
            if self._fcr & FCR_ENABLE_FIFO:
                self._lsr |= LSR_FIFOE
        self._timeout = self._below_trigger()

    def _timer_fired(self) -> None:
        with self._lock:
            self._timer = None
            if not self._below_trigger():
                return
            if self._reads:
                self._wait_for_reads()
            else:
                self._timeout = True
                self._update()
