# Says `halting`, then halts with interrupts on, none of which ever comes.
        .include "reset.inc"
        reset_vector start
        .code16
start:  cli
        print16 message
        sti
1:      hlt
        jmp     1b

message: .asciz "halting\n"
