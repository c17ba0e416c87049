/* Drives a virtio entropy device at full speed, and loses no wake-up in either direction.
   Parameter 0: its registers (default 0xd0000000). Parameter 1: rounds (500). Parameter 2: 1 to do without the
   event index, 2 to poll only. */
#include "virtio.h"

enum { LENGTH = 64, PATIENCE = 20000 };
static u8 buffers[ENTRIES][2 * LENGTH] __attribute__((aligned(64)));

static int same(const u8 *a, const u8 *b)
{
    for (int i = 0; i < LENGTH; i++)
        if (a[i] != b[i])
            return 0;
    return 1;
}

/* Say that an interrupt is wanted, look again, and only then wait for it. */
static void sleep_until(u16 index)
{
    avail.flags = 0;
    avail.used_event = index - 1;
    full_barrier();
    for (int i = 0; used.index != index; i++) {
        u32 why = get(INTERRUPT_STATUS);
        set(INTERRUPT_ACK, why);
        if (why)
            i = 0;
        else if (i > PATIENCE)
            expect(7, "interrupt that does not come, used index", index, used.index, index);
    }
    avail.flags = 1;
    __asm__ volatile("" : : : "memory");
}

int main(void)
{
    device = param(0, 0xd0000000);
    u64 rounds = param(1, 500), mode = param(2, 0);
    map(device, 1);
    expect(1, "magic", device, get(MAGIC), 0x74726976);
    expect(2, "version", device, get(VERSION), 2);
    expect(3, "device", device, get(DEVICE_ID), 4);
    begin(mode == 1 ? INDIRECT_DESC : INDIRECT_DESC | EVENT_IDX);
    expect(4, "status", device, get(STATUS), 15);
    avail.flags = 1;
    avail.used_event = 0x8000;
    u64 kicks = 0, seen = 0;
    for (u64 n = 0; n < rounds; n++) {
        int count = 1 + n % ENTRIES;
        u16 old = avail.index;
        for (int i = 0; i < count; i++) {
            fill(buffers[i], sizeof buffers[i], 0xee);
            describe(i, (uptr)buffers[i], LENGTH, WRITE, 0);
            offer(i);
            if (n % 3 == 0) { /* one by one: the device may be looking for the last time just now */
                kicks += kick(old);
                old = avail.index;
            }
        }
        kicks += kick(old);
        if (mode == 2 || n % 4)
            wait_used(avail.index);
        else
            sleep_until(avail.index);
        for (int i = 0; i < count; i++, seen++) {
            int slot = (u16)(avail.index - count + i) % ENTRIES;
            expect(5, "length", seen, used.ring[slot].length, LENGTH);
            expect(6, "byte behind", seen, buffers[i][LENGTH], 0xee);
            if (same(buffers[i], buffers[i] + LENGTH) || (i && same(buffers[i], buffers[i - 1])))
                fail(8, "bytes that are not random");
        }
    }
    if (kicks > seen + rounds)
        fail(9, "more kicks than requests");
    set(STATUS, 0);
    return ok();
}
