/* Writes a register that nobody else uses in a loop, then ends with 0: the cost of an exit.
   Parameter 0: how often (10000). Parameter 1: the address (the debug exit's neighbour). */
        .section .start, "ax"
        .globl  _start
_start: b       1f
        .balign 16
params: .quad   0, 0, 0, 0
1:      adr     x3, params
        ldp     x0, x1, [x3]
        cbnz    x0, 2f
        mov     x0, #10000
2:      cbnz    x1, 3f
        movz    x1, #0x3eff, lsl #16
3:      strb    wzr, [x1]
        subs    x0, x0, #1
        b.ne    3b
        mov     x1, #0x0501
        movk    x1, #0x3eff, lsl #16
        strb    wzr, [x1]
4:      wfi
        b       4b
