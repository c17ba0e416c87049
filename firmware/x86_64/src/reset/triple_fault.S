# A general protection fault in protected mode with an empty interrupt table: triple fault.
        .include "reset.inc"
        reset_vector start
        .code16
start:  cli
        enter_protected flat

        .code32
flat:   lidt    no_idt
        movl    $0x1230, %eax
        movw    %ax, %ds                # a selector beyond the table
        finish  1                       # not reached

no_idt: .word   0
        .long   0
