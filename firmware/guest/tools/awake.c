/*
 * Wakes every CPU again and again, by an interrupt that needs no CPU's own timer:
 *
 *	awake
 *
 * QEMU's emulation of AMD SVM now and then loses the wake-up of an interrupt. A CPU that halts with
 * its one-shot timer expired then sleeps until another interrupt reaches it. The HPET's is periodic
 * and comes from QEMU's main loop; from the CPU that takes it, this program moves itself to every
 * other one in turn, which takes an interprocessor interrupt each.
 */
#include <linux/hpet.h>

#include "must.h"

enum { PER_SECOND = 20 };

__attribute__((used)) _Noreturn void start(long *stack)
{
	unsigned long all[16] = { 0 }, one[16], count;
	int hpet = sys_open("/dev/hpet", O_RDONLY);

	(void)stack;
	must("open /dev/hpet", hpet);
	must("set the HPET's rate", sys_ioctl(hpet, HPET_IRQFREQ, PER_SECOND));
	must("make the HPET periodic", sys_ioctl(hpet, HPET_EPI, 0));
	must("start the HPET", sys_ioctl(hpet, HPET_IE_ON, 0));
	must("ask for the CPUs", SYS3(sched_getaffinity, 0, sizeof(all), all));
	for (;;) {
		must("wait for the HPET", sys_read(hpet, &count, sizeof(count)));
		for (unsigned cpu = 0; cpu < 8 * sizeof(all); cpu++) {
			if (!(all[cpu / 64] >> cpu % 64 & 1))
				continue;
			for (unsigned i = 0; i < 16; i++)
				one[i] = i == cpu / 64 ? 1UL << cpu % 64 : 0;
			SYS3(sched_setaffinity, 0, sizeof(one), one);
		}
		SYS3(sched_setaffinity, 0, sizeof(all), all);
	}
}

__asm__(ENTRY_ASM);
