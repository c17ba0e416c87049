# Halts with interrupts off: nothing ever wakes it.
        .include "reset.inc"
        reset_vector start
        .code16
start:  cli
1:      hlt
        jmp     1b
