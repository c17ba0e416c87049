/* Ports, memory-mapped registers, reports: what every C program of this folder uses. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
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

void put(const char *text);      /* to COM1 */
void put_hex(u64 value);         /* 0x and as few digits as it takes */
/* End the VM with *value*: 0 passed, 1-31 the check that failed. */
_Noreturn void finish(int value);
/* "FAIL name: what", then end with *value*. */
_Noreturn void fail(int value, const char *what);
/* The same with "at X: got Y, want Z" where got differs from want; returns where they agree. */
void expect(int value, const char *what, u64 at, u64 got, u64 want);
/* "ok name". main() returns this. */
int ok(void);
