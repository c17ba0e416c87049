/* Branches to itself with interrupts masked, forever: as Linux halts. */
        .section .start, "ax"
        .globl  _start
_start: b       _start
