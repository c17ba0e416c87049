# Powers off through the ACPI sleep control register of a hardware-reduced machine: SLP_EN is
# bit 5, SLP_TYP bits 2-4 (ACPI 6.5, section 4.8.3.7).
# Parameter 0: the port (default 0x600). Parameter 1: the byte (default SLP_EN with type 5).
        .include "reset.inc"
        parameters 0x600, 0x34
        reset_vector start
        .code16
start:  movw    %cs:params - SEGMENT, %dx
        movb    %cs:params - SEGMENT + 8, %al
        outb    %al, %dx
1:      cli
        hlt
        jmp     1b
