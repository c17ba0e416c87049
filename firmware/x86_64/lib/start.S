# From flat 32-bit protected mode to main() in the mode that LEVEL names:
#
#   LEVEL 32  32-bit protected mode, ring 0, no paging
#   LEVEL 0   long mode at CPL 0
#   LEVEL 3   long mode at CPL 3, IOPL 3, all mapped memory accessible to it
#
# Long mode maps the first 16 MiB and the last 32 MiB below 4 GiB one to one in 2 MiB pages
# (few, because a KVM that emulates ring 0 takes 2 us an instruction); map() in paging.c adds
# more. Interrupts are off; exceptions end the program with a report (lib/traps.S).
# Sources: Intel SDM volume 3, chapters 3 (segments), 4 (paging), 8 (TSS), 10.8.5 (IA-32e).

        .set    CODE32, 0x08
        .set    DATA, 0x10
        .set    CODE64, 0x18
        .set    TASK, 0x20              # 16 bytes in long mode
        .set    IO_MAP, 104             # where the I/O permissions begin in the task segment
        .set    TASK_SIZE, IO_MAP + 8192 + 1
        .set    USER_DATA, 0x30 | 3
        .set    USER_CODE, 0x38 | 3
        .set    CR0_PE_ET_NE_PG, 0x80000031
        .set    CR4_PAE, 1 << 5
        .set    MSR_EFER, 0xc0000080
        .set    EFER_LME, 1 << 8
        .set    PAGE, 0x07              # present, writable, user
        .set    PAGE_2M, 0x87
        .set    PAGE_2M_UNCACHED, 0x97

        .section .start, "ax"
        .code32
        .globl  _start, params, stack_top
_start: jmp     start32
        .balign 16
params: .quad   0, 0, 0, 0

start32:
        cli
        cld
        movl    %eax, %ebp              # a boot loader's two words, kept over the clearing
        movl    $image_end, %edi
        movl    $bss_end, %ecx
        subl    %edi, %ecx
        shrl    $2, %ecx
        xorl    %eax, %eax
        rep stosl
        movl    %ebp, boot_magic
        movl    %ebx, boot_info
        movl    $stack_top, %esp
        lgdtl   gdt_pointer
        ljmpl   $CODE32, $1f
1:      movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss

        .if     LEVEL == 32
        movl    $task, %eax
        movw    %ax, gdt + TASK + 2
        shrl    $16, %eax
        movb    %al, gdt + TASK + 4
        movl    $stack_top, task + 4
        movw    $DATA, task + 8
        movw    $TASK_SIZE, task + 102  # no port for other rings
        movw    $TASK, %ax
        ltr     %ax
        lidtl   idt_pointer
        call    main
        pushl   %eax
        pushl   %eax
        call    finish
        .else

        movl    $page_directories + PAGE, %eax
        movl    %eax, page_pointers
        addl    $0x1000, %eax
        movl    %eax, page_pointers + 8 * 3
        movl    $page_pointers + PAGE, page_root
        movl    $page_directories, %edi
        movl    $PAGE_2M, %eax
        movl    $8, %ecx
        call    fill
        movl    $page_directories + 0x1000 + 8 * 496, %edi
        movl    $0xfe000000 + PAGE_2M_UNCACHED, %eax
        movl    $16, %ecx
        call    fill

        movl    $CR4_PAE, %eax
        movl    %eax, %cr4
        movl    $page_root, %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        xorl    %edx, %edx
        movl    $EFER_LME, %eax
        wrmsr
        movl    $CR0_PE_ET_NE_PG, %eax
        movl    %eax, %cr0
        ljmpl   $CODE64, $start64

fill:   movl    %eax, (%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        decl    %ecx
        jnz     fill
        ret

        .code64
        .globl  start64
start64:
        movl    $task, %eax
        movw    %ax, gdt + TASK + 2
        shrl    $16, %eax
        movb    %al, gdt + TASK + 4
        movq    $interrupt_stack_top, task + 4
        movw    $IO_MAP, task + 102
        movb    $0xff, task + TASK_SIZE - 1
        movw    $TASK, %ax
        ltr     %ax
        lidt    idt_pointer
        .if     LEVEL == 3
        pushq   $USER_DATA
        pushq   $stack_top
        pushq   $0x3002                 # IOPL 3, interrupts off
        pushq   $USER_CODE
        pushq   $user
        movw    $USER_DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        iretq
user:
        .endif
        call    main
        movl    %eax, %edi
        call    finish
        .endif

# The descriptors have their accessed bits set, so that loading one writes nothing.
        .balign 8
        .globl  gdt
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # CODE32
        .quad   0x00cf93000000ffff      # DATA
        .quad   0x00af9b000000ffff      # CODE64
        .quad   0x0000890000000000 + TASK_SIZE - 1, 0
        .quad   0x00cff3000000ffff      # USER_DATA
        .if     LEVEL == 32
        .quad   0x00cffb000000ffff      # USER_CODE
        .else
        .quad   0x00affb000000ffff
        .endif
        .globl  gdt_pointer
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt, 0
idt_pointer:
        .word   IDT_SIZE - 1
        .long   idt, 0

        .bss
        .balign 4096
        .globl  page_root, page_pointers, task
# The task state segment: 104 bytes, then a bit for each port; 0 allows it.
task:   .zero   TASK_SIZE
        .balign 4096
        .if     LEVEL != 32
page_root:
        .zero   4096
page_pointers:
        .zero   4096
page_directories:
        .zero   8192
        .endif
        .zero   4096
interrupt_stack_top:
        .zero   8192
stack_top:
        .globl  boot_magic, boot_info
boot_magic:
        .long   0
boot_info:
        .long   0
