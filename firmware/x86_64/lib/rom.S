# A ROM around a payload: from the reset vector to flat protected mode, the payload (linked
# for 1 MiB) copied to RAM with the parameters behind its first 16 bytes, and a jump to it.
        .include "reset.inc"

        .set    LOAD_ADDRESS, 0x100000

        parameters
        reset_vector start16

        .code16
start16:
        cli
        enter_protected start32

        .code32
start32:
        movw    $DATA32, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        cld
        movl    $payload, %esi
        movl    $LOAD_ADDRESS, %edi
        movl    $(payload_end - payload) / 4, %ecx
        rep movsl
        movl    $params, %esi
        movl    $LOAD_ADDRESS + 16, %edi
        movl    $8, %ecx
        rep movsl
        movl    $LOAD_ADDRESS, %eax
        jmp     *%eax

        .section .payload, "ax"
        .balign 4
payload:
        .incbin "payload.bin"
        .balign 4
payload_end:
