# Says `spinning`, then spins with interrupts off and never leaves the guest of its own will.
        .include "reset.inc"
        reset_vector start
        .code16
start:  cli
        print16 message
1:      jmp     1b

message: .asciz "spinning\n"
