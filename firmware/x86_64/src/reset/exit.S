# Ends the VM with value 0 as the first thing it does: three instructions, all in the 16 bytes
# of the reset vector. The start-up benchmark runs it under pyvmm and, the very same file,
# under QEMU with -device isa-debug-exit,iobase=0x501,iosize=4.
        .section .reset, "ax"
        .code16
        .globl  reset
reset:  movw    $0x501, %dx
        xorw    %ax, %ax
        outb    %al, %dx
1:      cli
        hlt
        jmp     1b
