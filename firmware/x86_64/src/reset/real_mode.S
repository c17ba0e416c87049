# Real mode: the program copies itself to 0x1000:0 and checks segments, 16- and 32-bit operands, the
# stack, far calls, the interrupt table, string moves and the end of a segment.
        .include "reset.inc"
        reset_vector start

        .set    LOW, 0x1000             # segment of the copy
        .set    DATA, 0x2000            # segment of the data

        .macro  check value, condition
        movb    $\value, %bl
        j\condition 6f
        jmp     failed
6:
        .endm

        .code16
start:  cli
        cld
        movw    $LOW, %ax
        movw    %ax, %es
        movw    $body - SEGMENT, %si
        xorw    %di, %di
        movw    $body_end - body, %cx
        rep movsb %cs:(%si), %es:(%di)
        ljmp    $LOW, $0

body:
        movw    $0x3000, %ax
        movw    %ax, %ss
        movw    $0x8000, %sp
        movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es

        movw    $0x1234, 0x10           # one linear address, two segments
        movw    $DATA + 1, %ax
        movw    %ax, %fs
        cmpw    $0x1234, %fs:0
        check   1 e

        movl    $0x89abcdef, %eax       # 32-bit operands and addresses
        movl    $0x20, %ebx
        movl    %eax, 4(%ebx)
        cmpw    $0x89ab, 0x26
        check   2 e

        pushw   $0x5566                 # the stack
        pushl   $0x778899aa
        popl    %ecx
        popw    %dx
        cmpl    $0x778899aa, %ecx
        check   3 e
        cmpw    $0x5566, %dx
        check   3 e
        cmpw    $0x8000, %sp
        check   3 e

        lcall   $LOW, $far - body       # far call and return
        cmpw    $0xfa12, %ax
        check   4 e

        pushw   %ds                     # software interrupt through the table at 0
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    $handler - body, 0x40 * 4
        movw    $LOW, 0x40 * 4 + 2
        movw    $divide - body, 0
        movw    $LOW, 2
        popw    %ds
        movw    $7, %ax
        int     $0x40
        cmpw    $8, %ax
        check   5 e

        xorw    %dx, %dx                # division by zero goes to vector 0
        xorw    %cx, %cx
        movw    $1, %ax
        divw    %cx
after:  cmpw    $0x0d1f, %ax
        check   6 e

        xorw    %di, %di                # strings, forwards and backwards
        movw    $0xa55a, %ax
        movw    $64, %cx
        rep stosw
        xorw    %si, %si
        movw    $0x100, %di
        movw    $128, %cx
        rep movsb
        xorw    %si, %si
        movw    $0x100, %di
        movw    $128, %cx
        repe cmpsb
        check   7 e
        std
        movw    $0x17e, %si
        movw    $0x27e, %di
        movw    $64, %cx
        rep movsw
        cld
        cmpw    $0xfe, %si
        check   8 e
        cmpw    $0xa55a, 0x200
        check   8 e

        movw    $0xfffe, %bx            # the last word of a segment, and a flat one above 1 MiB
        movw    $0x4321, (%bx)
        movw    $DATA + 0xfff, %ax
        movw    %ax, %gs
        cmpw    $0x4321, %gs:0xe
        check   9 e
        movw    $0xffff, %ax            # ffff:0010 is 0x100000: address line 20 is on
        movw    %ax, %fs
        movw    $0x2468, %fs:0x10
        xorw    %ax, %ax
        movw    %ax, %gs
        cmpw    $0x2468, %gs:0
        check   10 ne

        movw    $passed - body, %si
        call    print
        finish  0

far:    movw    $0xfa12, %ax
        lretw
handler:
        incw    %ax
        iretw
divide: popw    %ax                     # go on behind the division
        pushw   $after - body
        movw    $0x0d1f, %ax
        iretw

print:  movw    $COM1, %dx
1:      movb    %cs:(%si), %al
        testb   %al, %al
        jz      2f
        outb    %al, %dx
        incw    %si
        jmp     1b
2:      ret

failed: movw    $what - body, %si       # %bl says which
        call    print
        movb    %bl, %al
        addb    $'@', %al
        outb    %al, %dx
        movb    $'\n', %al
        outb    %al, %dx
        movw    $DEBUG_EXIT, %dx
        movb    %bl, %al
        outb    %al, %dx
3:      hlt
        jmp     3b

passed: .asciz  "ok real_mode\n"
what:   .asciz  "FAIL real_mode: check "
body_end:
