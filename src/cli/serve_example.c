/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `pollux serve --example vm`: what to type for a virtual machine with the disks that are named, on this machine, with
 * the QEMU that it has.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { WORD = 3 * PATH_MAX, CPUS = 4, NEW_MAJOR = 9, NEW_MINOR = 2 };

static const char disk_img[] = "disk.img";

/* Kinds of machines, and what QEMU calls them. */
static const struct arch {
    const char *name, *qemu, *machine, *package;
    const char *firmware[4]; /* where it may be, for those that QEMU has none for by itself */
} archs[] = {
    {"x86_64", "qemu-system-x86_64", "q35", "qemu-system-x86", {NULL}},
    {"aarch64",
     "qemu-system-aarch64",
     "virt,gic-version=max",
     "qemu-system-arm qemu-efi-aarch64",
     {"/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", "/usr/share/edk2/aarch64/QEMU_EFI.fd",
      "/usr/share/qemu/edk2-aarch64-code.fd", NULL}},
};

struct example {
    const struct serve_options *o;
    const struct arch *arch;
    unsigned major, minor; /* of QEMU; 0 when there is none */
    unsigned cpus;
    int kvm; /* why not, or 0 */
    char dir[PATH_MAX];
    char names[SERVE_MAX_DISKS][CLI_DISK_NAME];
    unsigned n; /* of these */
};

/* ---- what there is here ---- */

static const struct arch *arch_here(struct utsname *u)
{
    uname(u);
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++)
        if (strcmp(archs[i].name, u->machine) == 0)
            return &archs[i];
    return NULL;
}

/* "QEMU emulator version 7.2.22 (Debian ...)" */
static void ask_qemu(struct example *e)
{
    char command[128], line[256] = "";
    snprintf(command, sizeof command, "%s -version 2>/dev/null", e->arch->qemu);
    FILE *f = popen(command, "re");
    if (!f)
        return;
    const char *version = fgets(line, sizeof line, f) ? strstr(line, "version ") : NULL;
    if (version && sscanf(version, "version %u.%u", &e->major, &e->minor) != 2)
        e->major = 0;
    pclose(f);
}

static int kvm_problem(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return errno;
    close(fd);
    return 0;
}

static unsigned cpus_here(void)
{
    cpu_set_t set;
    const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < CPUS ? (unsigned)n : CPUS;
}

static void choose_dir(struct example *e)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (e->o->vhost)
        snprintf(e->dir, sizeof e->dir, "%s", e->o->vhost);
    else if (geteuid() == 0)
        snprintf(e->dir, sizeof e->dir, "/run/pollux");
    else
        snprintf(e->dir, sizeof e->dir, "%s%s", runtime ? runtime : "run", runtime ? "/pollux" : "");
}

/* ---- disks, by the names that their sockets will have ---- */

static bool name_is_there(void *arg, const char *name)
{
    const struct example *e = arg;
    for (unsigned i = 0; i < e->n; i++)
        if (strcmp(e->names[i], name) == 0)
            return true;
    return false;
}

static int name_disks(struct example *e)
{
    const unsigned n = e->o->ndisks ? e->o->ndisks : 1;
    for (; e->n < n; e->n++) {
        const char *disk = e->o->ndisks ? e->o->disks[e->n].url : disk_img;
        char url[CLI_URL], file[PATH_MAX];
        int ret = cli_disk_url(disk, url, file);
        if (ret)
            return ret;
        cli_disk_name(disk, file, e->names[e->n], name_is_there, e);
    }
    return EXIT_OK;
}

/* ---- words ---- */

static bool can_be_printed(const char *word)
{
    while (*word && plx_text_printable(word))
        word += plx_text_printable(word);
    return !*word;
}

/* Of what can be printed. */
static void print_word(const char *before, const char *word)
{
    char quoted[2 * WORD];
    printf("%s%s", before, plx_text_quote(word, quoted, sizeof quoted) ? quoted : "?");
}

static int check_printable(const struct example *e, int argc, char **argv)
{
    bool all = can_be_printed(e->dir);
    for (int i = 1; i < argc; i++)
        all = all && can_be_printed(argv[i]);
    return all ? EXIT_OK : cli_fail(EXIT_USAGE, "--example vm: there is a name that cannot be printed");
}

/* In an option of QEMU's a comma is two. */
static void double_commas(const char *text, char *out, size_t size)
{
    size_t n = 0;
    for (; *text && n + 3 < size; text++) {
        out[n++] = *text;
        if (*text == ',')
            out[n++] = ',';
    }
    out[n] = 0;
}

/* Whether it is --example, perhaps cut short as getopt_long() allows. */
static bool is_this_option(const char *word)
{
    const size_t len = strcspn(word, "=");
    return len > 2 && strncmp(word, "--example", len) == 0;
}

/* ---- the lines ---- */

/* As we were called, with what is missing. */
static void print_serve(const struct example *e, int argc, char **argv)
{
    if (access(e->dir, F_OK) < 0) {
        print_word("mkdir -p ", e->dir);
        puts("");
    }
    if (!e->o->ndisks && access(disk_img, F_OK) < 0)
        printf("truncate -s 4G %s\n", disk_img);
    printf("pollux serve");
    for (int i = 1; i < argc; i++) {
        if (!is_this_option(argv[i]))
            print_word(" ", argv[i]);
        else if (!strchr(argv[i], '='))
            i++;
    }
    if (!e->o->vhost)
        print_word(" --vhost ", e->dir);
    if (!e->o->ndisks)
        printf(" %s", disk_img);
    puts("");
}

static void print_firmware(const struct arch *a)
{
    const char *const *at = a->firmware;
    while (*at && access(*at, R_OK) < 0)
        at++;
    if (*at)
        print_word(" -bios ", *at);
}

static void print_chardev(const char *before, const char *path, unsigned i, bool new)
{
    char commas[2 * PATH_MAX], word[WORD];
    double_commas(path, commas, sizeof commas);
    snprintf(word, sizeof word, "socket,id=c%u,path=%s,%s", i, commas, new ? "reconnect-ms=100" : "reconnect=1");
    print_word(before, word);
}

static void print_disk(const struct example *e, unsigned i)
{
    const bool new = !e->major || e->major > NEW_MAJOR || (e->major == NEW_MAJOR && e->minor >= NEW_MINOR);
    const size_t len = strlen(e->dir);
    char path[PATH_MAX + CLI_DISK_NAME];
    snprintf(path, sizeof path, "%s%s%s", e->dir, len && e->dir[len - 1] == '/' ? "" : "/", e->names[i]);
    print_chardev(" \\\n  -chardev ", path, i, new);
    printf(" \\\n  -device vhost-user-blk-pci,chardev=c%u,num-queues=%u", i, e->cpus);
}

static void print_qemu(const struct example *e)
{
    printf("%s -machine %s,accel=%s,memory-backend=mem -cpu %s -smp %u -m 1G -nographic", e->arch->qemu,
           e->arch->machine, e->kvm ? "tcg" : "kvm", e->kvm ? "max" : "host", e->cpus);
    print_firmware(e->arch);
    printf(" \\\n  -object memory-backend-memfd,id=mem,size=1G,share=on");
    for (unsigned i = 0; i < e->n; i++)
        print_disk(e, i);
    puts("");
}

static void print_notes(const struct example *e)
{
    puts("# A virtual machine that boots from the first disk; docs/vm.md makes one that it can. Ctrl-A X ends it.\n"
         "# With a kernel that is not on the disk, add -kernel vmlinuz -initrd initrd.img\n"
         "# -append 'root=/dev/vda rw console=ttyS0'.");
    if (!e->major)
        printf(
            "# QEMU is not installed here (on Debian: apt install %s). Before QEMU %d.%d it is reconnect=1, and not\n"
            "# reconnect-ms=100.\n",
            e->arch->package, NEW_MAJOR, NEW_MINOR);
    if (e->kvm)
        printf("# /dev/kvm: %s. So this is QEMU's software CPU, which is slow, and may run what a program on such\n"
               "# a disk was before another process wrote it.\n",
               strerror(e->kvm));
}

/* Which QEMU there is is not found out, for that takes a process. */
void serve_print_qemu(const char *path, unsigned i)
{
    struct utsname u;
    const struct arch *a = arch_here(&u);
    if (!can_be_printed(path))
        return;
    printf("  qemu-system-%s -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -M memory-backend=mem",
           a ? a->name : u.machine);
    print_chardev(" -chardev ", path, i, true);
    printf(" -device vhost-user-blk-pci,chardev=c%u\n", i);
}

int serve_example(const struct serve_options *o, int argc, char **argv)
{
    struct utsname u;
    struct example *e = calloc(1, sizeof *e);
    if (!e)
        return cli_fail(EXIT_RUNTIME, "out of memory");
    e->o = o;
    e->arch = arch_here(&u);
    int ret = e->arch ? name_disks(e)
                      : cli_fail(EXIT_USAGE, "--example vm: there is none for machines of the kind %s; see docs/vm.md",
                                 u.machine);
    choose_dir(e);
    if (!ret)
        ret = check_printable(e, argc, argv);
    if (!ret) {
        ask_qemu(e);
        e->kvm = kvm_problem();
        e->cpus = cpus_here();
        print_notes(e);
        puts("\n# In one terminal:\n");
        print_serve(e, argc, argv);
        puts("\n# In another one, in the same directory, when that says \"vhost-user at\":\n");
        print_qemu(e); /* last: what comes after it would be typed into the machine */
    }
    free(e);
    return ret;
}
