/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Controllers for the `pollux` command, in place of VFIO: linked to the command, this makes `pollux-model` of it.
 *
 * PCIE_MODELS says which: "0000:01:00.0,ns=2,blocks=131072;0000:02:00.0,file=/tmp/ssd.img". Each has a thread. At the
 * socket that PCIE_MODELS_CONTROL names, lines are taken and each is answered by one: "0000:01:00.0 remove". What the
 * program did wrong to them is told on standard error at its end.
 */
#include "pcie_model_impl.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MODELS_MAX = 8, WORDS_MAX = 8 };

static struct {
    struct pcie_model *m;
    char addr[PCI_ADDR_TEXT], serial[24], nqn[80], file[200];
} models[MODELS_MAX];
static unsigned nmodels;

static void pp_must(bool ok, const char *what, const char *which)
{
    if (ok)
        return;
    fprintf(stderr, "pollux-model: %s: %s\n", which, what);
    abort();
}

/* ---- which there are ---- */

/* Of all namespaces. */
static bool pp_format(struct pcie_model_opts *o, const char *key, uint64_t n)
{
    const struct {
        const char *key;
        size_t at, size;
    } keys[] = {
        {"metadata", offsetof(struct pcie_model_ns, metadata), sizeof(uint16_t)},
        {"interleaved", offsetof(struct pcie_model_ns, interleaved), sizeof(bool)},
        {"pi", offsetof(struct pcie_model_ns, pi), 1},
        {"pi_first", offsetof(struct pcie_model_ns, pi_first), sizeof(bool)},
        {"pif", offsetof(struct pcie_model_ns, pif), 1},
        {"lax", offsetof(struct pcie_model_ns, lax), sizeof(bool)},
        {"sts", offsetof(struct pcie_model_ns, sts), 1},
    };
    size_t i = 0;
    while (i < PLX_ARRAY_SIZE(keys) && strcmp(keys[i].key, key) != 0)
        i++;
    for (unsigned k = 0; k < PCIE_MODEL_NS_MAX && i < PLX_ARRAY_SIZE(keys); k++)
        memcpy((uint8_t *)&o->ns[k] + keys[i].at, &n, keys[i].size);
    return i < PLX_ARRAY_SIZE(keys);
}

static void pp_setting(struct pcie_model_opts *o, unsigned i, char *text)
{
    char *value = strchr(text, '=');
    pp_must(value, "is no KEY=VALUE", text);
    *value++ = 0;
    const uint64_t n = strtoull(value, NULL, 0);
    const struct {
        const char *key;
        void *at;
        size_t size;
    } numbers[] = {
        {"queues", &o->queues, sizeof o->queues},
        {"vectors", &o->vectors, sizeof o->vectors},
        {"mdts", &o->mdts, sizeof o->mdts},
        {"latency", &o->latency, sizeof o->latency},
        {"temperature", &o->temperature, sizeof o->temperature},
        {"shutdown", &o->shutdown, sizeof o->shutdown},
        {"rdy_on", &o->rdy_on, sizeof o->rdy_on},
    };
    if (strcmp(text, "serial") == 0) {
        snprintf(models[i].serial, sizeof models[i].serial, "%s", value);
        snprintf(models[i].nqn, sizeof models[i].nqn, "nqn.2024-01.com.example:%s", value);
    } else if (strcmp(text, "file") == 0) {
        snprintf(models[i].file, sizeof models[i].file, "%s", value);
    } else if (strcmp(text, "ns") == 0) {
        o->nns = (unsigned)plx_min_u64(n, PCIE_MODEL_NS_MAX);
    } else if (strcmp(text, "blocks") == 0) {
        for (unsigned k = 0; k < PCIE_MODEL_NS_MAX; k++)
            o->ns[k].blocks = n;
    } else if (strcmp(text, "zoned") == 0) { /* all namespaces, in zones of so many blocks */
        o->version = 0x20000;
        o->css = 1 | 1 << 6;
        for (unsigned k = 0; k < PCIE_MODEL_NS_MAX; k++) {
            o->ns[k].csi = 2;
            o->ns[k].zone_blocks = o->ns[k].zone_capacity = (uint32_t)n;
            o->ns[k].max_open = 3;
            o->ns[k].max_active = 4;
        }
    } else if (pp_format(o, text, n)) {
        o->ctratt |= PCIE_MODEL_CTRATT_ELBAS;
    } else if (strcmp(text, "block") == 0) {
        for (unsigned k = 0; k < PCIE_MODEL_NS_MAX; k++)
            o->ns[k].block_bits = n == 4096 ? 12 : 9;
    } else {
        size_t k = 0;
        while (k < PLX_ARRAY_SIZE(numbers) && strcmp(numbers[k].key, text) != 0)
            k++;
        pp_must(k < PLX_ARRAY_SIZE(numbers), "there is no such setting", text);
        memcpy(numbers[k].at, &n, numbers[k].size);
    }
}

/* What is written is in a file, and outlives the process. */
static void pp_keep(struct pcie_model *m, const char *path)
{
    size_t bytes = 0;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    for (unsigned i = 0; i < m->nns; i++)
        bytes += m->ns[i].medium_bytes;
    pp_must(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0, "cannot be a medium", path);
    bytes = 0;
    for (unsigned i = 0; i < m->nns; i++) {
        const void *at = mmap(m->ns[i].medium, m->ns[i].medium_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                              fd, (off_t)bytes);
        pp_must(at == m->ns[i].medium, "cannot be mapped", path);
        bytes += m->ns[i].medium_bytes;
    }
    close(fd);
}

static void pp_make(char *text)
{
    const unsigned i = nmodels++;
    struct pcie_model_opts o = pcie_model_defaults;
    char *rest, *word = strtok_r(text, ",", &rest);
    pp_must(i < MODELS_MAX, "more models than there may be", text);
    o.nns = 1;
    for (unsigned k = 0; k < PCIE_MODEL_NS_MAX; k++)
        o.ns[k] = (struct pcie_model_ns){.nsid = k + 1, .block_bits = 9, .blocks = 131072};
    snprintf(models[i].addr, sizeof models[i].addr, "%s", word);
    snprintf(models[i].serial, sizeof models[i].serial, "MODEL%u", i);
    snprintf(models[i].nqn, sizeof models[i].nqn, "nqn.2024-01.com.example:model%u", i);
    while ((word = strtok_r(NULL, ",", &rest)))
        pp_setting(&o, i, word);
    for (unsigned k = 0; k < PCIE_MODEL_NS_MAX; k++)
        o.ns[k].max_bytes = 2 * o.ns[k].blocks << o.ns[k].block_bits;
    o.addr = models[i].addr;
    o.serial = models[i].serial;
    o.subnqn = models[i].nqn;
    models[i].m = pcie_model_new(&o);
    if (models[i].file[0])
        pp_keep(models[i].m, models[i].file);
    pcie_model_start_thread(models[i].m);
}

/* ---- what is done to them while the program runs ---- */

static struct pcie_model *pp_find(const char *addr)
{
    for (unsigned i = 0; i < nmodels; i++)
        if (strcmp(models[i].addr, addr) == 0)
            return models[i].m;
    return NULL;
}

/* KIND QID OPCODE [TIMES [VALUE [SKIP]]] */
static void pp_fault(struct pcie_model *m, const long *n)
{
    const struct pcie_model_fault f = {.kind = (enum pcie_model_kind)n[0],
                                       .qid = (int)n[1],
                                       .opcode = (int)n[2],
                                       .times = (unsigned)n[3],
                                       .value = (uint32_t)n[4],
                                       .skip = (unsigned)n[5]};
    pcie_model_fault(m, &f);
}

static unsigned pp_removed(struct pcie_model *m)
{
    pcie_model_remove(m);
    return 0;
}

static unsigned pp_put_back(struct pcie_model *m)
{
    pcie_model_put_back(m);
    return 0;
}

static unsigned pp_ask_back(struct pcie_model *m)
{
    pcie_model_ask_back(m);
    return 0;
}

static unsigned pp_fail(struct pcie_model *m)
{
    pcie_model_fail(m);
    return 0;
}

static unsigned pp_clear(struct pcie_model *m)
{
    pcie_model_faults_clear(m);
    return 0;
}

static unsigned pp_is_open(struct pcie_model *m)
{
    return pcie_model_is_open(m);
}

/* A line: ADDR VERB NUMBER... @return the number that answers it */
static unsigned pp_command(char *line)
{
    static const struct {
        const char *verb;
        unsigned (*fn)(struct pcie_model *m);
    } verbs[] = {{"remove", pp_removed},
                 {"put_back", pp_put_back},
                 {"ask_back", pp_ask_back},
                 {"fail", pp_fail},
                 {"clear", pp_clear},
                 {"release", pcie_model_release},
                 {"held", pcie_model_held},
                 {"complaints", pcie_model_complaints},
                 {"enables", pcie_model_enables},
                 {"queues", pcie_model_queues},
                 {"is_open", pp_is_open}};
    char *rest, *addr = strtok_r(line, " ", &rest), *verb = strtok_r(NULL, " ", &rest);
    long n[WORDS_MAX] = {0};
    unsigned count = 0;
    for (char *word; count < WORDS_MAX && (word = strtok_r(NULL, " ", &rest));)
        n[count++] = strtol(word, NULL, 0);
    struct pcie_model *m = addr ? pp_find(addr) : NULL;
    pp_must(m && verb, "no model, or nothing to be done", addr ? addr : "");
    for (size_t i = 0; i < PLX_ARRAY_SIZE(verbs); i++)
        if (strcmp(verbs[i].verb, verb) == 0)
            return verbs[i].fn(m);
    if (strcmp(verb, "fault") == 0)
        pp_fault(m, n);
    else if (strcmp(verb, "resize") == 0)
        pcie_model_ns_resize(m, (uint32_t)n[0], (uint64_t)n[1]);
    else if (strcmp(verb, "flip") == 0) /* NSID LBA BYTE BIT */
        pcie_model_flip(m, (uint32_t)n[0], (uint64_t)n[1], (unsigned)n[2], (unsigned)n[3]);
    else if (strcmp(verb, "smart") == 0)
        pcie_model_smart(m, (uint8_t)n[0]);
    else if (strcmp(verb, "zone") == 0) /* NSID ZONE STATE */
        pcie_model_zone_set(m, (uint32_t)n[0], (unsigned)n[1], (uint8_t)n[2]);
    else if (strcmp(verb, "feature") == 0)
        return pcie_model_feature(m, (unsigned)n[0]);
    else if (strcmp(verb, "count") == 0)
        return pcie_model_count(m, (unsigned)n[0], (unsigned)n[1]);
    else
        pp_must(false, "is nothing that can be done", verb);
    return 0;
}

static void *pp_serve(void *arg)
{
    const int listener = (int)(intptr_t)arg;
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;) {
        FILE *in = fdopen(fd, "r");
        for (char line[200]; fgets(line, sizeof line, in);) {
            line[strcspn(line, "\n")] = 0;
            dprintf(fd, "%u\n", pp_command(line));
        }
        fclose(in);
    }
    return NULL;
}

static void pp_listen(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    pthread_t thread;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
    unlink(path);
    pp_must(fd >= 0 && bind(fd, (const struct sockaddr *)&addr, sizeof addr) == 0 && listen(fd, 4) == 0,
            "cannot listen there", path);
    pp_must(pthread_create(&thread, NULL, pp_serve, (void *)(intptr_t)fd) == 0, "no thread", path);
    pthread_detach(thread);
}

/* Those that are not pulled. */
static unsigned pp_list(uint32_t class, char (*addrs)[PCI_ADDR_TEXT], unsigned max)
{
    unsigned n = 0;
    for (unsigned i = 0; class == 0x010802 && i < nmodels && n < max; i++) {
        pthread_mutex_lock(&models[i].m->lock);
        if (!models[i].m->removed)
            snprintf(addrs[n++], PCI_ADDR_TEXT, "%s", models[i].addr);
        pthread_mutex_unlock(&models[i].m->lock);
    }
    return n;
}

/* ---- beginning and end ---- */

/* Signals are the program's: no thread of ours takes one. */
__attribute__((constructor)) static void pp_begin(void)
{
    const char *which = getenv("PCIE_MODELS"), *control = getenv("PCIE_MODELS_CONTROL");
    sigset_t all, before;
    char *text = strdup(which ? which : ""), *rest;
    pci_open = pcie_model_open;
    pci_list = pp_list;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    for (char *one = strtok_r(text, ";", &rest); one; one = strtok_r(NULL, ";", &rest))
        pp_make(one);
    if (control && control[0])
        pp_listen(control);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    free(text);
}

__attribute__((destructor)) static void pp_end(void)
{
    for (unsigned i = 0; i < nmodels; i++) {
        pcie_model_stop_thread(models[i].m);
        if (pcie_model_is_open(models[i].m))
            fprintf(stderr, "pollux-model: %s: it was not closed\n", models[i].addr);
        for (unsigned k = 0; k < pcie_model_complaints(models[i].m) && k < PCIE_MODEL_COMPLAINTS; k++)
            fprintf(stderr, "pollux-model: %s: complaint: %s\n", models[i].addr, pcie_model_complaint(models[i].m, k));
    }
}
