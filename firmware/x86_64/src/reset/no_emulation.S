# An instruction that KVM's emulator does not know (POPCNT, Intel SDM volume 2). Hardware carries
# it out and the program passes; a KVM that emulates ring 0 reports an internal error at it.
        .include "reset.inc"
        reset_vector start
        .code16
start:  cli
        enter_protected flat

        .code32
flat:   movw    $DATA32, %ax
        movw    %ax, %ds
        movl    $0xf0f0, %ecx
        popcntl %ecx, %eax
        cmpl    $8, %eax
        jne     bad
        print32 passed
        finish  0
bad:    print32 failed
        finish  1

passed: .asciz  "ok no_emulation\n"
failed: .asciz  "FAIL no_emulation: popcnt of 0xf0f0 is not 8\n"
