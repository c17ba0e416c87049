/*
 * Holds two empty VMs open until it is killed, so that the kernel does not patch its own code when other VMs
 * are made and closed:
 *
 *	hold
 *
 * KVM has branches that are patched when the first user of something appears and when the last one leaves:
 * any VM (in the scheduler itself), a vCPU whose local APIC is disabled, one without a local APIC. QEMU's
 * multi-threaded translator may read code while another CPU patches it, and keep the breakpoint that stands
 * there for that moment: every CPU that comes by then takes it, and never gets rid of it.
 */
#include <linux/kvm.h>

#include "must.h"

enum { TRIES = 500, WAIT_MS = 20 };

__attribute__((used)) _Noreturn void start(long *stack)
{
	int kvm = sys_open("/dev/kvm", O_RDWR);

	(void)stack;
	for (int i = 0; kvm < 0 && i < TRIES; i++) { /* its modules are being loaded */
		sys_sleep(WAIT_MS);
		kvm = sys_open("/dev/kvm", O_RDWR);
	}
	must("open /dev/kvm", kvm);
	for (int apic = 0; apic < 2; apic++) {
		int vm = must("make a VM", sys_ioctl(kvm, KVM_CREATE_VM, 0));

		if (apic)
			must("make its interrupt controllers", sys_ioctl(vm, KVM_CREATE_IRQCHIP, 0));
		must("make a vCPU", sys_ioctl(vm, KVM_CREATE_VCPU, 0));
	}
	for (;;)
		sys_sleep(-1);
}

__asm__(ENTRY_ASM);
