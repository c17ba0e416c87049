/* From the first instruction to main(): clears what is to be zero, sets stack and vectors.
   Linked for its own place in RAM or ROM; data and stack are in RAM.
   Sources: Arm ARM DDI 0487, D1.10 (vectors), D17.2.37 (ESR_EL1). */

        .section .start, "ax"
        .globl  _start, params
_start: b       1f
        .balign 16
params: .quad   0, 0, 0, 0
1:      mov     x20, x0
        ldr     x0, =data_load          // a ROM's data is copied to RAM; elsewhere both are one
        ldr     x1, =data_start
        ldr     x2, =data_end
        cmp     x0, x1
        b.eq    3f
2:      cmp     x1, x2
        b.hs    3f
        ldr     x3, [x0], #8
        str     x3, [x1], #8
        b       2b
3:      ldr     x1, =bss_start
        ldr     x2, =bss_end
4:      cmp     x1, x2
        b.hs    5f
        str     xzr, [x1], #8
        b       4b
5:      ldr     x1, =boot_x0
        str     x20, [x1]
        ldr     x1, =stack_top
        mov     sp, x1
        ldr     x1, =vectors
        msr     vbar_el1, x1
        isb
        bl      main
        b       finish

        .text
        .globl  secondary_entry
        .weak   secondary
secondary_entry:                        // x0 is the word CPU_ON was given; its low byte numbers the stack
        and     x1, x0, #0xff
        ldr     x2, =secondary_stacks
        add     x1, x1, #1
        lsl     x1, x1, #10
        add     sp, x2, x1
        ldr     x1, =vectors
        msr     vbar_el1, x1
        isb
        bl      secondary
1:      wfi
        b       1b

        .globl  psci
psci:   hvc     #0
        ret

        .macro  vector name
        .balign 128
        b       \name
        .endm

        .balign 2048
vectors:
        .rept   4
        vector  unexpected
        .endr
        vector  sync
        vector  irq
        vector  unexpected
        vector  unexpected
        .rept   8
        vector  unexpected
        .endr

        .macro  save
        sub     sp, sp, #176
        stp     x0, x1, [sp, #0]
        stp     x2, x3, [sp, #16]
        stp     x4, x5, [sp, #32]
        stp     x6, x7, [sp, #48]
        stp     x8, x9, [sp, #64]
        stp     x10, x11, [sp, #80]
        stp     x12, x13, [sp, #96]
        stp     x14, x15, [sp, #112]
        stp     x16, x17, [sp, #128]
        stp     x18, x29, [sp, #144]
        str     x30, [sp, #160]
        .endm
        .macro  restore
        ldp     x0, x1, [sp, #0]
        ldp     x2, x3, [sp, #16]
        ldp     x4, x5, [sp, #32]
        ldp     x6, x7, [sp, #48]
        ldp     x8, x9, [sp, #64]
        ldp     x10, x11, [sp, #80]
        ldp     x12, x13, [sp, #96]
        ldp     x14, x15, [sp, #112]
        ldp     x16, x17, [sp, #128]
        ldp     x18, x29, [sp, #144]
        ldr     x30, [sp, #160]
        add     sp, sp, #176
        .endm

sync:   save
        bl      fault
        restore
        eret
irq:    save
        bl      interrupt
        restore
        eret
unexpected:
        save
        mrs     x0, esr_el1
        mrs     x1, elr_el1
        b       no_vector

        .bss
        .balign 16
secondary_stacks:
        .zero   1024 * 256
        .zero   8192
stack_top:
