# The interrupt table: 64 gates, those of the exceptions 0-31 filled when the program is linked
# (it lies in the 64 KiB from 1 MiB on, so the upper bits are known), and what they end in: a report
# of an exception nobody expected.

        .globl  idt, IDT_SIZE, exceptions
        .if     LEVEL == 32
        .set    GATE, 8
        .set    SELECTOR, 0x08
        .code32
        .else
        .set    GATE, 16
        .set    SELECTOR, 0x18
        .code64
        .endif
        .set    IDT_SIZE, 64 * GATE

        .data
        .balign 16
idt:
        .set    vector, 0
        .rept   32
        .word   exceptions_low + 4 * vector
        .word   SELECTOR, 0x8e00, 0x10
        .if     GATE == 16
        .quad   0
        .endif
        .set    vector, vector + 1
        .endr
        .zero   32 * GATE

# Each entry is four bytes: push its number, jump.
        .text
        .balign 4
exceptions:
        .set    vector, 0
        .rept   32
        .byte   0x6a, vector            # push $vector
        .byte   0xeb                    # jmp short exception
        .byte   exception - . - 1
        .set    vector, vector + 1
        .endr
exception:
        .if     LEVEL == 32
        pushl   %esp
        call    unexpected
        .else
        movq    %rsp, %rdi
        andq    $-16, %rsp
        call    unexpected
        .endif
