# Asks the keyboard controller to pulse the reset line (command 0xfe to port 0x64).
        .include "reset.inc"
        reset_vector start
        .code16
start:  movb    $0xfe, %al
        outb    %al, $0x64
1:      cli
        hlt
        jmp     1b
