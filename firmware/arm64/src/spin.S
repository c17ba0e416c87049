/* Spins with interrupts masked, forever. */
        .section .start, "ax"
        .globl  _start
_start: nop
        b       _start
