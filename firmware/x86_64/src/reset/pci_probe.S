# Looks for a PCI host bridge by configuration mechanism 1: address to 0xcf8, data from 0xcfc
# (PCI Local Bus 3.0, section 3.2.2.3.2). Passes where device 0:0.0 answers.
        .include "reset.inc"
        reset_vector start
        .code16
start:  movw    $0xcf8, %dx
        movl    $0x80000000, %eax
        outl    %eax, %dx
        movw    $0xcfc, %dx
        inl     %dx, %eax
        cmpl    $0xffffffff, %eax
        je      bad
        print16 passed
        finish  0
bad:    print16 failed
        finish  1

passed: .asciz  "ok pci_probe\n"
failed: .asciz  "FAIL pci_probe: nothing answers for device 0:0.0\n"
