# Writes a byte to a port again and again, then ends with value 0: what one exit costs.
# Parameter 0: how often (default 10000). Parameter 1: the port (default 0x80).
        .include "reset.inc"
        parameters 10000, 0x80
        reset_vector start

        .code16
start:  movl    %cs:params - SEGMENT, %ecx
        movw    %cs:params - SEGMENT + 8, %dx
        movb    $0x55, %al
1:      outb    %al, %dx
        decl    %ecx
        jnz     1b
        finish  0
