# Where the other processors start: real mode, CS 0x800, IP 0. The code is copied to 0x8000.
        .set    STARTED, 0xe00
        .set    SEEN, 0xf00

        .section .rodata
        .globl  trampoline, trampoline_end
        .code16
trampoline:
        cli
        movw    %cs, %ax
        movw    %ax, %ds
        movl    $1, %eax
        cpuid
        shrl    $24, %ebx
        lock incb SEEN(%bx)
        lock incl STARTED
1:      hlt
        jmp     1b
trampoline_end:
