# The entry of elf64.c: what the loader set is noted, and kept: the page tables and the mode.
        .set    DATA, 0x10
        .set    CODE64, 0x18
        .set    MSR_EFER, 0xc0000080

        .code64
        .globl  entry, given
entry:
        movq    %rsp, given
        pushfq                          # on the loader's stack
        popq    given + 8
        movq    %cr0, %rax
        movq    %rax, given + 16
        movq    %cr4, %rax
        movq    %rax, given + 24
        movl    $MSR_EFER, %ecx
        rdmsr
        movl    %eax, given + 32
        cld
        movl    $stack_top, %esp
        lgdt    gdt_pointer
        movl    $DATA, %eax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        pushq   $CODE64
        pushq   $start64
        lretq

        .data
        .balign 8
given:  .quad   1, 1, 1, 1, 1
