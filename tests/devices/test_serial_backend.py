"""The serial port with a real loop and a real backend: a guest thread on one side, pipes on the other."""

from __future__ import annotations

import os
import threading

import pytest

from pyvmm.backends.terminal import Terminal
from pyvmm.board.device import Line
from pyvmm.devices.serial import FCR, IER, IER_RDI, LSR, RBR, THR, Serial16550A
from pyvmm.loop import Loop


class Interrupt(Line):
    """An edge-triggered interrupt a guest thread can wait for."""

    def __init__(self):
        self.edge = threading.Semaphore(0)

    def set(self, level):
        if level:
            self.edge.release()


@pytest.fixture
def pipes():
    """stdin reader, stdin writer, stdout reader, stdout writer."""
    fds = [*os.pipe(), *os.pipe()]
    yield fds
    for fd in fds:
        os.close(fd)


def serve(loop, pipes, interrupt, guest):
    """Run *guest(port)* in a thread beside the loop until it returns."""
    port = Serial16550A(loop, interrupt)
    terminal = Terminal(stdin=pipes[0], stdout=pipes[3])
    port.connect(terminal)

    def run():
        try:
            guest(port)
        finally:
            loop.stop()

    thread = threading.Thread(target=run)
    thread.start()
    loop.run()
    thread.join()
    terminal.close()
    return terminal


@pytest.mark.parametrize(("fcr", "count"), [(0x00, 20), (0x81, 5)])
def test_input_reaches_a_guest_that_reads_one_byte_an_interrupt(pipes, fcr, count):
    received = bytearray()
    interrupt = Interrupt()

    def guest(port):
        port.write(FCR, 1, fcr)
        port.write(IER, 1, IER_RDI)
        while len(received) < count:
            assert interrupt.edge.acquire(timeout=20), "no interrupt for what is left"
            received.append(port.read(RBR, 1))

    os.write(pipes[1], bytes(range(count)))
    with Loop() as loop:
        serve(loop, pipes, interrupt, guest)
    assert received == bytes(range(count))


def test_bytes_echoed_by_a_polling_guest_come_back_whole(pipes):
    data = bytes(range(256)) * 100

    def guest(port):
        port.write(FCR, 1, 0x01)
        done = 0
        while done < len(data):
            lsr = port.read(LSR, 1)
            if lsr & 0x21 == 0x21:  # something to read and room to write
                port.write(THR, 1, port.read(RBR, 1))
                done += 1
            else:
                os.sched_yield()  # as KVM_RUN, it lets the loop's thread have the interpreter

    def write_all():
        view = memoryview(data)
        while view:
            view = view[os.write(pipes[1], view) :]

    echoed = bytearray()

    def read_all():
        while len(echoed) < len(data):
            echoed.extend(os.read(pipes[2], 1 << 16))

    outside = [threading.Thread(target=write_all), threading.Thread(target=read_all)]
    for thread in outside:
        thread.start()
    with Loop() as loop:
        terminal = serve(loop, pipes, Interrupt(), guest)
    for thread in outside:
        thread.join()
    assert echoed == data
    assert terminal.dropped == 0
