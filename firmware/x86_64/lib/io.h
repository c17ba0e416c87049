/* Ports, memory-mapped registers, reports: what every C program of this folder uses. */
#pragma once

#include "report.h"

typedef unsigned long uptr; /* an address, in either width */

enum { DEBUG_EXIT = 0x501, COM1 = 0x3f8 };

/* Four quadwords the host may patch at image size - 48; zero asks for the default. */
extern volatile u64 params[4];
/* EAX and EBX as the loader left them. */
extern u32 boot_magic, boot_info;

static inline void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %w1" : : "a"(v), "Nd"(port) : "memory"); }
static inline void outw(u16 port, u16 v) { __asm__ volatile("outw %0, %w1" : : "a"(v), "Nd"(port) : "memory"); }
static inline void outl(u16 port, u32 v) { __asm__ volatile("outl %0, %w1" : : "a"(v), "Nd"(port) : "memory"); }
static inline u8 inb(u16 port) { u8 v; __asm__ volatile("inb %w1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }
static inline u16 inw(u16 port) { u16 v; __asm__ volatile("inw %w1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }
static inline u32 inl(u16 port) { u32 v; __asm__ volatile("inl %w1, %0" : "=a"(v) : "Nd"(port) : "memory"); return v; }

#define MMIO(width)                                                                               \
    static inline u##width read##width(uptr a)                                                    \
    {                                                                                             \
        u##width v;                                                                               \
        __asm__ volatile("mov %1, %0" : "=r"(v) : "m"(*(volatile u##width *)a) : "memory");       \
        return v;                                                                                 \
    }                                                                                             \
    static inline void write##width(uptr a, u##width v)                                           \
    {                                                                                             \
        __asm__ volatile("mov %1, %0" : "=m"(*(volatile u##width *)a) : "r"(v) : "memory");       \
    }
MMIO(8)
MMIO(16)
MMIO(32)
#ifdef __x86_64__
MMIO(64)
#endif
#undef MMIO

/* Parameter *n*, or *otherwise* where the host left it zero. */
static inline u64 param(int n, u64 otherwise) { return params[n] ? params[n] : otherwise; }
