# Asks for QEMU's fw_cfg (selector 0 to port 0x510, signature "QEMU" from port 0x511) as SeaBIOS
# and OVMF do.
        .include "reset.inc"
        reset_vector start
        .code16
start:  movw    $0x510, %dx
        xorw    %ax, %ax
        outw    %ax, %dx
        incw    %dx
        inb     %dx, %al
        shll    $8, %eax
        inb     %dx, %al
        shll    $8, %eax
        inb     %dx, %al
        shll    $8, %eax
        inb     %dx, %al
        cmpl    $0x51454d55, %eax       # "QEMU", first byte on top
        jne     bad
        print16 passed
        finish  0
bad:    print16 failed
        finish  1

passed: .asciz  "ok fw_cfg\n"
failed: .asciz  "FAIL fw_cfg: no QEMU signature at port 0x511\n"
