/* Breaks the rules of virtio-mmio one by one, on an entropy device: the device must refuse, stop until it is
   reset, or complete the chain unused, and serve the next honest request.
   Parameter 0: its registers (default 0xd0000000). Parameter 1: kicks of a flood (20000). */
#include "apic.h"
#include "virtio.h"

enum { LENGTH = 32, OK = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK };
/* Cycles: seconds. A read of a register may take as little as one of memory. */
static const u64 PATIENCE = 20ull << 30;
static u8 buffer[4096] __attribute__((aligned(4096)));
enum { OFFERED = 64 }; /* entries of the entropy device's queue */
static struct descriptor indirect[OFFERED] __attribute__((aligned(16)));

/* One honest request from reset on. */
static void works(u64 after)
{
    begin(INDIRECT_DESC | EVENT_IDX);
    expect(1, "status of an honest driver", after, get(STATUS), OK);
    buffer[LENGTH] = 0x77;
    describe(0, (uptr)buffer, LENGTH, WRITE, 0);
    offer(0);
    kick(0);
    wait_used(1);
    expect(2, "length", after, used.ring[0].length, LENGTH);
    expect(3, "byte behind", after, buffer[LENGTH], 0x77);
}

static void stops(u64 what)
{
    for (u64 end = tsc() + PATIENCE; tsc() < end;)
        if (get(STATUS) & NEEDS_RESET)
            return;
    expect(4, "status without NEEDS_RESET", what, get(STATUS), OK | NEEDS_RESET);
}

static void registers(void)
{
    set(STATUS, 0);
    for (int at = 0; at < WINDOW; at += at < CONFIG ? 1 : 61) {
        read8(device + at);
        read16(device + at);
        read32(device + at);
        read64(device + at);
        write8(device + at, 0xff);
        write16(device + at, 0xffff);
        write32(device + at, 0xffffffff);
        write64(device + at, 0xffffffffffffffff);
    }
    works(0x100);
}

static void status(void)
{
    static const u8 skipped[] = { DRIVER, FEATURES_OK, DRIVER_OK, 12, 9, 5, 13, 64, 48 };
    for (unsigned i = 0; i < sizeof skipped; i++) {
        set(STATUS, 0);
        set(STATUS, skipped[i]);
        expect(5, "DRIVER_OK before its time", skipped[i], get(STATUS) & DRIVER_OK, 0);
    }
    set(STATUS, 0);
    set(STATUS, ACKNOWLEDGE | DRIVER);
    set(DRIVER_FEATURES_SEL, 1);
    set(DRIVER_FEATURES, 0xffffffff);
    set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    expect(6, "FEATURES_OK for what was not offered", 0, get(STATUS) & FEATURES_OK, 0);
    works(0x200);
}

static void queues(void)
{
    const u64 t = (uptr)table, a = (uptr)&avail, u = (uptr)&used, gap = 0xb0000000;
    const struct { u64 size, t, a, u; } wrong[] = {
        { 0, t, a, u }, { 3, t, a, u }, { 0x8000, t, a, u }, { 0xffffffff, t, a, u },
        { ENTRIES, t + 8, a, u }, { ENTRIES, t, a + 1, u }, { ENTRIES, t, a, u + 2 },
        { ENTRIES, gap, a, u }, { ENTRIES, t, gap, u }, { ENTRIES, t, a, gap }, { ENTRIES, t, a, device },
        { ENTRIES, t, a, 0xfffff000 }, { ENTRIES, ~0xfull, a, u }, { ENTRIES, t, 1ull << 52, u },
    };
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        negotiate(0);
        clear_rings();
        set_up_queue(wrong[i].size, wrong[i].t, wrong[i].a, wrong[i].u);
        set(STATUS, OK);
        stops(0x300 + i);
    }
    works(0x300);
    set(QUEUE_SIZE, 0); /* too late: ignored */
    set_address(QUEUE_DESC, 8);
    offer(0);
    kick(1);
    wait_used(2);
}

/* The chain at descriptor 0 must come back unused, and an honest one after it be served. */
static void returned(u64 what)
{
    u16 before = avail.index;
    offer(0);
    describe(15, (uptr)buffer, LENGTH, WRITE, 0);
    offer(15);
    kick(before);
    wait_used(before + 2);
    expect(7, "a bad chain's head", what, used.ring[before % ENTRIES].id, 0);
    expect(8, "a bad chain's length", what, used.ring[before % ENTRIES].length, 0);
    expect(9, "an honest chain's length", what, used.ring[(before + 1) % ENTRIES].length, LENGTH);
}

static void chains(void)
{
    static const u64 addresses[] = {
        0xb0000000, 0xfffff000, 0xfffffffffffffff0, 0x8000000000000000, 1ull << 40, 0x7fffffffffff,
    };
    begin(INDIRECT_DESC);
    for (unsigned i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        describe(0, addresses[i], LENGTH, WRITE, 0);
        returned(0x400 + i);
        describe(0, (uptr)indirect, 16, INDIRECT, 0);
        indirect[0] = (struct descriptor){ addresses[i], 0xffffffff, WRITE, 0 };
        returned(0x420 + i);
        describe(0, addresses[i], 16, INDIRECT, 0);
        if (addresses[i] != 0xfffff000) /* a table may lie in ROM */
            returned(0x440 + i);
    }
    for (int length = 1; length <= ENTRIES - 1; length++) { /* cycles */
        for (int i = 0; i < length; i++)
            describe(i, (uptr)buffer, 1, WRITE | NEXT, (i + 1) % length);
        returned(0x460 + length);
    }
    describe(0, (uptr)buffer, 1, WRITE | NEXT, ENTRIES);
    returned(0x480);
    describe(0, (uptr)buffer, 1, WRITE | NEXT, 1);
    describe(1, (uptr)buffer, 1, 0, 0);
    returned(0x481);
    indirect[0] = (struct descriptor){ (uptr)indirect, 16, INDIRECT, 0 };
    describe(0, (uptr)indirect, 16, INDIRECT, 0);
    returned(0x482);
    indirect[0] = (struct descriptor){ (uptr)buffer, 1, WRITE, 0 };
    describe(0, (uptr)indirect, 16, INDIRECT | NEXT, 1);
    returned(0x483);
    for (int size = 0; size < 64; size += size % 16 == 15 ? 2 : 1) { /* no whole number of descriptors */
        describe(0, (uptr)indirect, size, INDIRECT, 0);
        returned(0x500 + size);
    }
    describe(0, (uptr)indirect, 16 * (OFFERED + 1), INDIRECT, 0);
    returned(0x484);
    describe(0, 0, 0, 0, 0); /* empty: served, with nothing */
    returned(0x485);
    works(0x400);
}

static void rings(void)
{
    static const u16 ahead[] = { ENTRIES + 1, 0x7fff, 0x8000, 0xffff };
    for (unsigned i = 0; i < sizeof ahead / sizeof *ahead; i++) {
        begin(0);
        avail.index = ahead[i];
        set(QUEUE_NOTIFY, 0);
        stops(0x600 + i);
    }
    begin(0);
    avail.ring[0] = ENTRIES;
    avail.index = 1;
    set(QUEUE_NOTIFY, 0);
    stops(0x610);
    works(0x600);
}

static void floods(u64 times)
{
    begin(0);
    for (u64 i = 0; i < times; i++)
        set(QUEUE_NOTIFY, 0);
    for (u64 i = 0; i < times / 100; i++) {
        set(QUEUE_NOTIFY, 1 + (u32)i);
        write16(device + QUEUE_NOTIFY, 0);
    }
    works(0x700);
}

/* What is in flight at a reset is finished or dropped when the reset returns: nothing is written later. */
static void reset_in_flight(void)
{
    for (int n = 0; n < 50; n++) {
        begin(EVENT_IDX);
        for (int i = 0; i < ENTRIES; i++) {
            describe(i, (uptr)buffer, sizeof buffer, WRITE, 0);
            offer(i);
        }
        set(QUEUE_NOTIFY, 0);
        for (int i = 0; i < n * 20; i++)
            __asm__ volatile("pause");
        set(STATUS, 0);
        fill(buffer, sizeof buffer, 0x3c);
        u16 index = used.index;
        for (int i = 0; i < 20000; i++)
            __asm__ volatile("pause");
        for (unsigned i = 0; i < sizeof buffer; i++)
            expect(10, "written after the reset", n, ((volatile u8 *)buffer)[i], 0x3c);
        expect(11, "used index after the reset", n, used.index, index);
    }
    works(0x800);
}

int main(void)
{
    device = param(0, 0xd0000000);
    map(device, 1);
    works(0);
    registers();
    status();
    queues();
    chains();
    rings();
    floods(param(1, 20000));
    reset_in_flight();
    return ok();
}
