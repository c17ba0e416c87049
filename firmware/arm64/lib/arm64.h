/* What arm64 guest programs share: registers, PSCI, exceptions and interrupts. */
#pragma once

#include "report.h"

/* The machine's addresses (docs/reference/address-maps.md). */
#define GICD 0x08000000UL
#define GICR 0x080a0000UL
#define GICR_STRIDE 0x20000UL
#define UART 0x09000000UL
#define RTC 0x09010000UL
#define GPIO 0x09030000UL
#define WATCHDOG 0x09060000UL
#define DEBUG_EXIT 0x3eff0501UL
#define RAM 0x40000000UL
#define NOBODY 0x0b000000UL

static inline u8 read8(u64 a) { u8 v; __asm__ volatile("ldrb %w0, [%1]" : "=r"(v) : "r"(a) : "memory"); return v; }
static inline u16 read16(u64 a) { u16 v; __asm__ volatile("ldrh %w0, [%1]" : "=r"(v) : "r"(a) : "memory"); return v; }
static inline u32 read32(u64 a) { u32 v; __asm__ volatile("ldr %w0, [%1]" : "=r"(v) : "r"(a) : "memory"); return v; }
static inline u64 read64(u64 a) { u64 v; __asm__ volatile("ldr %0, [%1]" : "=r"(v) : "r"(a) : "memory"); return v; }
static inline void write8(u64 a, u8 v) { __asm__ volatile("strb %w0, [%1]" : : "r"(v), "r"(a) : "memory"); }
static inline void write16(u64 a, u16 v) { __asm__ volatile("strh %w0, [%1]" : : "r"(v), "r"(a) : "memory"); }
static inline void write32(u64 a, u32 v) { __asm__ volatile("str %w0, [%1]" : : "r"(v), "r"(a) : "memory"); }
static inline void write64(u64 a, u64 v) { __asm__ volatile("str %0, [%1]" : : "r"(v), "r"(a) : "memory"); }

#define READ_SYSTEM(name) ({ u64 v_; __asm__ volatile("mrs %0, " name : "=r"(v_)); v_; })
#define WRITE_SYSTEM(name, value) __asm__ volatile("msr " name ", %0\n\tisb" : : "r"((u64)(value)))

/* A firmware call by HVC (SMC Calling Convention, Arm DEN0028). */
u64 psci(u64 function, u64 a, u64 b, u64 c);
enum {
    PSCI_VERSION = 0x84000000,
    PSCI_FEATURES = 0x8400000a,
    PSCI_SYSTEM_OFF = 0x84000008,
    PSCI_SYSTEM_RESET = 0x84000009,
};
#define PSCI_CPU_OFF 0x84000002UL
#define PSCI_CPU_ON 0xc4000003UL
#define PSCI_AFFINITY_INFO 0xc4000004UL

/* The device tree's address, as the program was entered with. */
extern u64 boot_x0;
/* Where other CPUs start (lib/start.S): they call secondary() with the word they were started with. */
extern void secondary_entry(void);
void secondary(u64 word);

/* Exceptions at EL1 (lib/start.S): the syndrome of the last one; the program goes on after the instruction. */
extern volatile u64 fault_count, fault_esr, fault_far;
/* Interrupts: the INTID of the last one and how many; a program that wants them sets handled_by. */
extern void (*handled_by)(u32 intid);

/* The interrupt controller (lib/gic.c). */
void gic_on(void);
void gic_enable(u32 intid);
