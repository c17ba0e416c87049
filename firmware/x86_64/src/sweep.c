/* Writes a word that tells its address into every step of RAM, then reads them all back: no address
   is missing, none answers twice.
   Parameters 0 and 1: bytes of RAM below 4 GiB and from 4 GiB on (default: what the CMOS says,
   as PC firmware reads it). Parameter 2: the step (default 2 MiB). */
#include "paging.h"

enum { START = 4 << 20 }; /* above the program */

static u8 cmos(u8 index)
{
    outb(0x70, index);
    return inb(0x71);
}

static u64 mark(u64 address) { return address * 0x9e3779b97f4a7c15 + 1; }

/* RAM is looked at through one window, moved from page to page. */
static u64 *window(u64 address)
{
    const uptr at = 0x40000000;
    *page_entry(at) = (address & ~0x1fffffull) | 0x87;
    flush_page(at);
    return (u64 *)(at + (address & 0x1fffff));
}

static u64 end_of(int high, u64 below, u64 above) { return high ? (1ull << 32) + above : below; }

int main(void)
{
    u64 below = params[0], above = params[1], step = param(2, 2 << 20);
    if (!below) {
        below = (16 << 20) + ((u64)(cmos(0x34) | cmos(0x35) << 8) << 16);
        above = (u64)(cmos(0x5b) | cmos(0x5c) << 8 | cmos(0x5d) << 16) << 16;
    }
    for (int reading = 0; reading < 2; reading++)
        for (int high = 0; high < 2; high++) {
            u64 start = high ? 1ull << 32 : START, end = end_of(high, below, above);
            /* Low and high bytes of each step, and the last word of all. */
            for (u64 at = start; at < end; at += step) {
                u64 points[] = { at, at + step - 8 < end ? at + step - 8 : end - 8 };
                for (int i = 0; i < 2; i++) {
                    u64 *word = window(points[i]);
                    if (!reading)
                        *word = mark(points[i]);
                    else
                        expect(1, "memory", points[i], *word, mark(points[i]));
                }
            }
        }
    return ok();
}
