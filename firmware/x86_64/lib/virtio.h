/* A virtio-mmio device and one split queue, the driver's side: as much as the programs here need.
   Virtio 1.2, sections 2.7 and 4.2. */
#pragma once
#include "paging.h"

enum {
    MAGIC = 0x00, VERSION = 0x04, DEVICE_ID = 0x08, DEVICE_FEATURES = 0x10, DEVICE_FEATURES_SEL = 0x14,
    DRIVER_FEATURES = 0x20, DRIVER_FEATURES_SEL = 0x24, QUEUE_SEL = 0x30, QUEUE_SIZE_MAX = 0x34,
    QUEUE_SIZE = 0x38, QUEUE_READY = 0x44, QUEUE_NOTIFY = 0x50, INTERRUPT_STATUS = 0x60,
    INTERRUPT_ACK = 0x64, STATUS = 0x70, QUEUE_DESC = 0x80, QUEUE_DRIVER = 0x90, QUEUE_DEVICE = 0xa0,
    CONFIG = 0x100, WINDOW = 0x1000,
};
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { INDIRECT_DESC = 1 << 28, EVENT_IDX = 1 << 29 }; /* of the low word */
enum { ENTRIES = 16 };

struct descriptor {
    u64 address;
    u32 length;
    u16 flags, next;
};

static struct descriptor table[ENTRIES] __attribute__((aligned(16)));
static volatile struct {
    u16 flags, index, ring[ENTRIES], used_event;
} avail __attribute__((aligned(2)));
static volatile struct {
    u16 flags, index;
    struct { u32 id, length; } ring[ENTRIES];
    u16 avail_event;
} used __attribute__((aligned(4)));

static uptr device;
static u32 features; /* the low word of what was negotiated */

static inline void full_barrier(void) { __asm__ volatile("mfence" : : : "memory"); }
static inline u32 get(int at) { return read32(device + at); }
static inline void set(int at, u32 value) { write32(device + at, value); }

static void set_address(int at, u64 address)
{
    set(at, address);
    set(at + 4, address >> 32);
}

/* Reset, and accept what of *wanted* is offered. */
static void negotiate(u32 wanted)
{
    set(STATUS, 0);
    set(STATUS, ACKNOWLEDGE);
    set(STATUS, ACKNOWLEDGE | DRIVER);
    set(DEVICE_FEATURES_SEL, 0);
    features = get(DEVICE_FEATURES) & wanted;
    set(DRIVER_FEATURES_SEL, 0);
    set(DRIVER_FEATURES, features);
    set(DRIVER_FEATURES_SEL, 1);
    set(DRIVER_FEATURES, 1); /* VERSION_1 */
    set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

static void fill(volatile void *at, u64 size, u8 value)
{
    for (volatile u8 *p = at; size; size--)
        *p++ = value;
}

static void clear_rings(void)
{
    fill(table, sizeof table, 0);
    fill(&avail, sizeof avail, 0);
    fill(&used, sizeof used, 0);
}

static void set_up_queue(u32 size, u64 descriptors, u64 driver_ring, u64 device_ring)
{
    set(QUEUE_SEL, 0);
    set(QUEUE_SIZE, size);
    set_address(QUEUE_DESC, descriptors);
    set_address(QUEUE_DRIVER, driver_ring);
    set_address(QUEUE_DEVICE, device_ring);
    set(QUEUE_READY, 1);
}

/* All that comes before the first request. */
static void begin(u32 wanted)
{
    negotiate(wanted);
    clear_rings();
    set_up_queue(ENTRIES, (uptr)table, (uptr)&avail, (uptr)&used);
    set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

static void describe(int i, u64 address, u32 length, u16 flags, u16 next)
{
    table[i] = (struct descriptor){ address, length, flags, next };
}

/* Put *head* into the ring; the device sees it with the next index. */
static void offer(u16 head)
{
    avail.ring[avail.index % ENTRIES] = head;
    __asm__ volatile("" : : : "memory");
    avail.index++;
}

/* Notify the device of what came after *old*, unless it asked not to be; 1 when it was notified. */
static int kick(u16 old)
{
    full_barrier();
    int wanted = features & EVENT_IDX
                     ? (u16)(avail.index - used.avail_event - 1) < (u16)(avail.index - old)
                     : !(used.flags & 1);
    if (wanted)
        set(QUEUE_NOTIFY, 0);
    return wanted;
}

/* Until the used index is *index*. */
static void wait_used(u16 index)
{
    while (used.index != index)
        __asm__ volatile("pause");
    __asm__ volatile("" : : : "memory");
}
