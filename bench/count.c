/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A plugin for QEMU's user emulation (7.2): counts the instructions of a program, and writes their number to the file
 * that out=FILE names. With lines=64 it writes another number: how often a cache line of so many bytes went from one
 * thread to another, which it does when a thread reads or writes what another one has written since it last did. Debian
 * packages no header of that interface; what of it is used here is declared below.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;
typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_RW = 3 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, enum qemu_plugin_op op, void *to, uint64_t n);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t info);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn,
                                      void (*cb)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *),
                                      enum qemu_plugin_cb_flags flags, enum qemu_plugin_mem_rw rw, void *arg);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t, void *), void *arg);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;
__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info,
                                                               int argc, char **argv);

enum { LINES = 1 << 20 }; /* a power of two, of a table without chains: more have no place, and are not counted */

/* Who has a line: bits of threads. After a write that is one. */
struct line {
    uint64_t at, has;
};

static uint64_t executed, moved, line_bytes;
static struct line *lines;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char out[4096];

static struct line *line_of(uint64_t at)
{
    for (uint64_t i = at * UINT64_C(0x9e3779b97f4a7c15) >> 44, n = 0; n < 64; n++) {
        struct line *l = &lines[(i + n) & (LINES - 1)];
        if (!l->at)
            l->at = at;
        if (l->at == at)
            return l;
    }
    return NULL;
}

static void accessed(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t vaddr, void *arg)
{
    (void)arg;
    const uint64_t me = UINT64_C(1) << cpu % 64;
    pthread_mutex_lock(&lock);
    struct line *l = line_of(vaddr / line_bytes);
    if (l) {
        const bool store = qemu_plugin_mem_is_store(info);
        moved += l->has && (!(l->has & me) || (store && l->has != me));
        l->has = store ? me : l->has | me;
    }
    pthread_mutex_unlock(&lock);
}

/* A block of instructions is executed whole, but for one that faults. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    const size_t n = qemu_plugin_tb_n_insns(tb);
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &executed, n);
    for (size_t i = 0; lines && i < n; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), accessed, QEMU_PLUGIN_CB_NO_REGS,
                                         QEMU_PLUGIN_MEM_RW, NULL);
}

static void ended(qemu_plugin_id_t id, void *arg)
{
    (void)id, (void)arg;
    FILE *file = fopen(out, "w");
    if (!file)
        return;
    fprintf(file, "%llu\n", (unsigned long long)(lines ? moved : executed));
    fclose(file);
}

int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (strncmp(argv[i], "out=", 4) == 0)
            snprintf(out, sizeof out, "%s", argv[i] + 4);
        else if (strncmp(argv[i], "lines=", 6) == 0)
            line_bytes = strtoull(argv[i] + 6, NULL, 10);
    if (line_bytes)
        lines = calloc(LINES, sizeof *lines);
    if (!out[0] || (line_bytes && !lines))
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
