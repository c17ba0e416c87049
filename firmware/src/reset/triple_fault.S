# A general protection fault in protected mode with an empty interrupt table: triple fault.
        .include "reset.inc"
        reset_vector start
        .code16
start:  cli
        enter_protected flat

        .code32
flat:   lidt    no_idt
        xorl    %eax, %eax
        movw    %ax, %ds
        movl    0, %eax                 # through a null selector
        finish  1                       # not reached

no_idt: .word   0
        .long   0
