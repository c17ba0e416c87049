/* What one port write costs a VMM in C: opens /dev/kvm, runs firmware/x86_64/bin/io_loop.bin with nothing
   else in the machine, and prints the nanoseconds of one KVM_RUN and back.

   Usage: kvm_loop ROM WRITES [ROUNDS]. Prints one line a round: ns per exit.
   Build: cc -O2 -o kvm_loop kvm_loop.c. Pin it with taskset. */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { RAM = 1 << 20, ROM = 4096, PORT = 0x80, DEBUG_EXIT = 0x501, PARAMETERS = 48 };
#define ROM_END (1ull << 32)

static int request(int fd, unsigned long number, const char *name, uintptr_t argument)
{
    int result = ioctl(fd, number, argument);
    if (result < 0)
        err(1, "%s", name);
    return result;
}
#define REQUEST(fd, number, argument) request(fd, number, #number, (uintptr_t)(argument))

static void *memory(int vm, unsigned slot, uint64_t gpa, size_t size)
{
    void *host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host == MAP_FAILED)
        err(1, "mmap");
    struct kvm_userspace_memory_region region = {
        .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)host,
    };
    REQUEST(vm, KVM_SET_USER_MEMORY_REGION, &region);
    return host;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* One port with a device behind it, as a VMM has them. */
struct device {
    uint8_t last;
    uint64_t writes;
};

static void device_write(struct device *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset, (void)size;
    device->last = value;
    device->writes++;
}

static uint64_t round_of(const char *path, uint64_t writes)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        err(1, "/dev/kvm");
    int vm = REQUEST(kvm, KVM_CREATE_VM, 0);
    uint64_t identity_map = 0xfeffc000;
    REQUEST(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    REQUEST(vm, KVM_SET_TSS_ADDR, 0xfeffd000);
    void *ram = memory(vm, 0, 0, RAM);
    char *rom = memory(vm, 1, ROM_END - ROM, ROM);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, rom, ROM) != ROM)
        err(1, "%s", path);
    close(file);
    uint64_t parameters[] = { writes, PORT };
    memcpy(rom + ROM - PARAMETERS, parameters, sizeof parameters);

    int vcpu = REQUEST(vm, KVM_CREATE_VCPU, 0);
    size_t size = REQUEST(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        err(1, "mmap of the vCPU");

    struct device device = { 0 };
    uint64_t begin = 0, end = 0;
    for (;;) {
        if (ioctl(vcpu, KVM_RUN, 0) < 0)
            err(1, "KVM_RUN");
        if (run->exit_reason != KVM_EXIT_IO)
            errx(1, "exit reason %u", run->exit_reason);
        if (run->io.port == PORT) {
            device_write(&device, 0, run->io.size, *((uint8_t *)run + run->io.data_offset));
            if (device.writes == 1)
                begin = now();
        } else if (run->io.port == DEBUG_EXIT) {
            end = now();
            break;
        }
    }
    if (device.writes != writes)
        errx(1, "%llu writes arrived", (unsigned long long)device.writes);
    munmap(run, size);
    close(vcpu);
    close(vm);
    close(kvm);
    munmap(ram, RAM);
    munmap(rom, ROM);
    return end - begin;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        errx(2, "usage: kvm_loop ROM WRITES [ROUNDS]");
    uint64_t writes = strtoull(argv[2], NULL, 0);
    int rounds = argc > 3 ? atoi(argv[3]) : 1;
    for (int i = 0; i < rounds; i++)
        printf("%.1f\n", (double)round_of(argv[1], writes) / writes);
    return 0;
}
