/* Exceptions and interrupts. */
#pragma once
#include "io.h"

enum { UNEXPECTED = 31 }; /* how a program ends at an exception nobody expected */

/* What the processor pushes. In 32-bit code SP and SS are there only on a change of ring. */
struct frame {
    uptr ip, cs, flags, sp, ss;
};

#define HANDLER __attribute__((interrupt)) static void

/* A gate for *vector* (0-63) that any ring down to *ring* may call with INT. */
void set_gate(int vector, void *handler, int ring);

static inline void interrupts_on(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void interrupts_off(void) { __asm__ volatile("cli" : : : "memory"); }
/* Sleep for the next interrupt: none slips in between STI and HLT. */
static inline void wait_for_interrupt(void) { __asm__ volatile("sti; hlt; cli" : : : "memory"); }
