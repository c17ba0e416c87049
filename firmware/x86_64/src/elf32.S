# The entry of elf32.c: what the loader set is noted before start.S sets its own.
        .code32
        .globl  entry, given
entry:
        movl    %esp, given
        pushfl                          # on the loader's stack
        popl    given + 4
        movl    %cr0, %ecx
        movl    %ecx, given + 8
        movl    0xfee00030, %ecx        # the local APIC's version, near the end of 4 GiB
        movl    %ecx, given + 12
        movl    %cs:0xfee00030, %ecx
        movl    %ecx, given + 16
        jmp     _start

        .data
given:  .long   1, 1, 1, 1, 1
