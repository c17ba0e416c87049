/* Spins with interrupts masked, forever. */
        .section .start, "ax"
        .globl  _start
_start: b       _start
