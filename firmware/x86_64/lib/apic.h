/* Interrupt controllers: the 8259 pair, the local APIC, the I/O APIC (Intel SDM volume 3,
   chapter 11; 82093AA data sheet; 8259A data sheet). */
#pragma once
#include "traps.h"

enum { LAPIC = 0xfee00000u, IOAPIC = 0xfec00000u };
enum {
    LAPIC_ID = 0x20, LAPIC_EOI = 0xb0, LAPIC_SPURIOUS = 0xf0, LAPIC_ICR = 0x300, LAPIC_ICR_HIGH = 0x310,
    LAPIC_TIMER = 0x320, LAPIC_LINT0 = 0x350, LAPIC_TIMER_COUNT = 0x380, LAPIC_TIMER_NOW = 0x390, LAPIC_TIMER_DIVIDE = 0x3e0,
};
enum { PIC_VECTOR = 0x20 };

static inline u32 lapic(u32 reg) { return read32(LAPIC + reg); }
static inline void set_lapic(u32 reg, u32 value) { write32(LAPIC + reg, value); }

/* Let the 8259's interrupts through the local APIC: LINT0 is an external interrupt. */
static inline void pic_through_lapic(void) { set_lapic(LAPIC_LINT0, 0x700); }

/* Switch the local APIC on; spurious interrupts come to vector 0x3f, which needs no handler here. */
static inline void lapic_on(void) { set_lapic(LAPIC_SPURIOUS, 0x100 | 0x3f); }

static inline void ioapic_write(u32 index, u32 value)
{
    write32(IOAPIC, index);
    write32(IOAPIC + 0x10, value);
}

static inline u32 ioapic_read(u32 index)
{
    write32(IOAPIC, index);
    return read32(IOAPIC + 0x10);
}

/* Interrupts 0-15 to vectors 0x20-0x2f; *mask* has a bit for each that stays off. */
static inline void pic_remap(u16 mask)
{
    outb(0x20, 0x11), outb(0xa0, 0x11);
    outb(0x21, PIC_VECTOR), outb(0xa1, PIC_VECTOR + 8);
    outb(0x21, 4), outb(0xa1, 2);
    outb(0x21, 1), outb(0xa1, 1);
    outb(0x21, mask), outb(0xa1, mask >> 8);
}

static inline u64 tsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}
