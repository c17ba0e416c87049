/* Faults that a 32-bit program expects. */
#pragma once
#include "traps.h"

static volatile u32 seen, error_seen;
static volatile uptr resume, stack;

/* The handlers go on at *resume*, once, without IRET, which KVM's emulator has for real and long mode only. */
_Noreturn void nobody_expected(void) { expect(UNEXPECTED, "fault", 0, seen, 0); finish(UNEXPECTED); }

extern const u8 divide[], protection[], page_fault[];
__asm__(".macro handler name, vector, error\n\t"
        "\\name: .if \\error; popl error_seen; .endif\n\t"
        "movl $\\vector, seen\n\t"
        "xorl %eax, %eax\n\t"
        "xchgl %eax, resume\n\t"
        "testl %eax, %eax\n\t"
        "jz nobody_expected\n\t"
        "movl stack, %esp\n\t"
        "jmp *%eax\n\t"
        ".endm\n\t"
        "handler divide, 0, 0\n\t"
        "handler protection, 13, 1\n\t"
        "handler page_fault, 14, 1");

#define FAULTS(instruction, ...)                                                                  \
    do {                                                                                          \
        seen = error_seen = ~0u;                                                                  \
        __asm__ volatile("movl $1f, %0; movl %%esp, %1\n\t" instruction "\n1:" : "=m"(resume), "=m"(stack) : __VA_ARGS__ : "memory", "eax", "edx"); \
    } while (0)

