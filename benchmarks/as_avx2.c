/* A processor that says it has AVX2 and nothing wider, for measurements of plain machines on better ones.
 *
 *     cc -O1 -shared -fPIC -o as_avx2.so benchmarks/as_avx2.c
 *     LD_PRELOAD=$PWD/as_avx2.so python ...
 *
 * Libraries choose their kernels by what the instruction CPUID answers, and some (ONNX Runtime) read no variable that would keep them
 * from AVX-512. Linux can make CPUID fault where the processor allows it ("cpuid_fault" in /proc/cpuinfo). The handler of that fault
 * asks the processor, leaves AVX-512, AVX10, VNNI and AMX out of the answer, and goes on behind the instruction. Threads and forks
 * inherit the setting; a program that is started finds it again through LD_PRELOAD. Bits are named as in Intel's manual, volume 2A.
 * The C library itself chooses its string functions before this is loaded. Linux on x86-64 alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

typedef int set_action(int, const struct sigaction *, struct sigaction *);
static set_action *system_sigaction;
static struct sigaction own; /* what the program itself wants done about SIGSEGV */
static volatile sig_atomic_t given_up;

static int answer_cpuid(int allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, (unsigned long)allowed); }

static void narrow(unsigned leaf, unsigned subleaf, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
    if (leaf == 7 && subleaf == 0) {
        *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX-512 F to VL */
        *c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                 /* AVX-512 VBMI to VPOPCNTDQ */
        *d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));              /* the rest of AVX-512; AMX */
    } else if (leaf == 7 && subleaf == 1) {
        *a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* AVX-VNNI, AVX-512 BF16, AMX-FP16, AVX-IFMA */
        *d &= ~(BIT(4) | BIT(5) | BIT(10) | BIT(19)); /* AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, AVX10 */
    } else if (leaf == 0xd && subleaf == 0) {
        *a &= ~(BIT(5) | BIT(6) | BIT(7) | BIT(17) | BIT(18)); /* state of masks, of the upper halves, of tiles */
    } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {
        *a = *b = *c = *d = 0; /* tiles, AVX10 */
    }
}

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
    if (info->si_code != SI_KERNEL || instruction[0] != 0x0f || instruction[1] != 0xa2) {
        given_up = 1; /* a fault of the program's own: it happens again, to whoever waits for it */
        system_sigaction(SIGSEGV, &own, NULL);
        return;
    }
    unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a = leaf, b, c = subleaf, d;
    answer_cpuid(1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    answer_cpuid(0);
    narrow(leaf, subleaf, &a, &b, &c, &d);
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

/* In place of the C library's: a handler that the program sets for SIGSEGV is kept, and ours stays. */
int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    if (!system_sigaction) system_sigaction = (set_action *)dlsym(RTLD_NEXT, "sigaction");
    if (number != SIGSEGV || given_up) return system_sigaction(number, new, old);
    struct sigaction before = own;
    if (new) own = *new;
    if (old) *old = before;
    return 0;
}

__attribute__((constructor)) static void start(void) {
    struct sigaction ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    if (!system_sigaction) system_sigaction = (set_action *)dlsym(RTLD_NEXT, "sigaction");
    system_sigaction(SIGSEGV, &ours, NULL);
    if (answer_cpuid(0)) perror("as_avx2: this system cannot make CPUID fault");
}
