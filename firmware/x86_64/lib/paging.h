/* Memory beyond what start.S maps. Long mode only. */
#pragma once
#include "io.h"

/* Map the 2 MiB page around *address* one to one, uncached where asked, for every privilege level. */
void map(u64 address, int uncached);
/* Map *length* bytes from *address* on. */
void map_range(u64 address, u64 length, int uncached);
/* The entry of the 2 MiB page around *address*, which must have been mapped. */
u64 *page_entry(u64 address);
static inline void flush_page(u64 address) { __asm__ volatile("invlpg %0" : : "m"(*(char *)address) : "memory"); }
