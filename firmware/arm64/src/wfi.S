/* Waits for interrupts with interrupts masked, forever. */
        .section .start, "ax"
        .globl  _start
_start: wfi
        b       _start
