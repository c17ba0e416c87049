# A hypercall with no interrupt table. Hosts answer it, fault it or, where KVM emulates ring 0,
# never leave KVM_RUN on their own: the host must be able to stop the vCPU.
        .include "reset.inc"
        reset_vector start
        .code16
start:  cli
        enter_protected flat

        .code32
flat:   lidt    no_idt
        xorl    %eax, %eax
        vmcall
        finish  0

no_idt: .word   0
        .long   0
