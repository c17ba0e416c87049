# Says `halting`, then halts with interrupts off: nothing ever wakes it.
        .include "reset.inc"
        reset_vector start
        .code16
start:  cli
        print16 message
1:      hlt
        jmp     1b

message: .asciz "halting\n"
