// SPDX-License-Identifier: Apache-2.0

#include "root/probe.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "root/kind.h"
#include "root/sockets.h"

#define BTF_PATH      "/sys/kernel/btf/vmlinux"
#define BTF_BYTES_MAX (64 * 1024 * 1024) /* some 5 MiB today */
#define SYMBOLS_MAX   (64 * 1024 * 1024) /* some 10 MiB today */
#define NAME_MAX_LEN  128

#define ENOTSUPP      524 /* the kernel's own, which libc has no name for */

#define LET_PASS                                                                                   \
    "in a container let its seccomp profile pass bpf(2) and perf_event_open(2); else this is "     \
    "the machine's policy, and another way has to do"
#define MOUNT_TRACEFS "mount it: mount -t tracefs tracefs /sys/kernel/tracing"
#define REPORT        "report it, with what `huatuo doctor --json` says"

/* ------------------------------------------------------------------ tried */

/** What a refusal means to one who has the capabilities; the first row that fits. */
static const struct refusal {
    int error;
    const char *way; /* how the way's name begins; "": any */
    const char *plain, *advice;
} refusals[] = {
    {EPERM, "", "it is forbidden, whatever the capabilities", LET_PASS},
    {EACCES, "tp/", "the tracepoints' files may not be read", "run huatuo as root"},
    {EACCES, "", "this kernel's verifier refuses the program", REPORT},
    {ENOENT, "tp/", "tracefs is not mounted, or the kernel has no such tracepoint", MOUNT_TRACEFS},
    {ENOENT, "kprobe/", "this kernel has no kprobes, or no such function",
     "it takes a kernel with CONFIG_KPROBES"},
    {ENOENT, "", "this kernel has no such function or tracepoint", "it takes another kernel"},
    {ESRCH, "", "this kernel has no such function or tracepoint, or no BTF",
     "it takes a kernel with CONFIG_DEBUG_INFO_BTF, or another one"},
    {EINVAL, "", "this kernel's verifier refuses the program, or does not know its type", REPORT},
    {E2BIG, "", "this kernel's verifier finds the program too large", REPORT},
    {ENOMEM, "", "there is not enough memory for its maps",
     "free some, or lower ring_size and repeat_keys of this kind"},
    {ENOTSUPP, "", "this kernel cannot attach programs that way",
     "it takes a kernel with CONFIG_BPF_JIT and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"},
    {EOPNOTSUPP, "", "this kernel cannot attach programs that way", "it takes another kernel"},
    {EBUSY, "", "something else holds it", "see `bpftool link` and /sys/kernel/tracing"},
};

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static void refuse(struct probe *ret, const char *advice, const char *format, ...) _printf_(3, 4);
static void refuse(struct probe *ret, const char *advice, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(ret->reason, sizeof(ret->reason), format, args);
    va_end(args);
    ret->state = PROBE_REFUSED;
    ret->advice = advice;
}

void probe_try(const struct event *event, const struct event_options *options, unsigned hook,
               unsigned way, struct probe *ret)
{
    const char *name = event->hooks[hook].ways[way].name;
    char technical[CHANNEL_TEXT_MAX] = "";
    int r = kind_try(event, options, hook, way, technical);

    *ret = (struct probe){.state = PROBE_ATTACHES, .advice = ""};
    if (r == 0) {
        snprintf(ret->reason, sizeof(ret->reason), "%s", technical);
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
        const struct refusal *row = &refusals[i];

        if (row->error == -r && begins(name, row->way)) {
            refuse(ret, row->advice, "%s (%.380s)", row->plain, technical);
            return;
        }
    }
    refuse(ret, REPORT, "%s", technical);
}

int probe_try_sockets(void)
{
    libbpf_print_fn_t before = libbpf_set_print(NULL);
    struct sockets *sockets = NULL;
    int r = sockets_new(&sockets);

    sockets_free(sockets);
    libbpf_set_print(before);
    return r;
}

/* ------------------------------------------------------------------ judged */

void probe_read(const struct tree *tree, struct probe_facts *ret)
{
    _free_ char *bytes = NULL;
    size_t len;

    *ret = (struct probe_facts){.tree = tree};
    ret->btf_error = tree_read(tree, BTF_PATH, BTF_BYTES_MAX, &bytes, &len);
    if (ret->btf_error == 0) {
        libbpf_print_fn_t before = libbpf_set_print(NULL);

        ret->btf = btf__new(bytes, (uint32_t)len);
        libbpf_set_print(before);
        /* A kernel's has tens of thousands of types; only `void` is what nothing was put into. */
        if (!ret->btf || btf__type_cnt(ret->btf) < 2) {
            btf__free(ret->btf);
            ret->btf = NULL;
            ret->btf_error = -EBADMSG;
        }
    }
    ret->symbols_error = tree_read(tree, "/proc/kallsyms", SYMBOLS_MAX, &ret->symbols, NULL);
}

void probe_done(struct probe_facts *facts)
{
    btf__free(facts->btf);
    facts->btf = NULL;
    free(facts->symbols);
    facts->symbols = NULL;
}

bool probe_has_symbol(const struct probe_facts *facts, const char *name)
{
    const size_t len = strlen(name);

    /* ffffffff81000000 T name[\t[module]] */
    for (const char *at = facts->symbols; at && (at = strstr(at, name)); at += len)
        if (at > facts->symbols && at[-1] == ' ' && (at[len] == '\n' || at[len] == '\t'))
            return true;
    return false;
}

static bool has_type(const struct probe_facts *facts, const char *prefix, const char *name,
                     uint32_t kind)
{
    char whole[NAME_MAX_LEN];

    snprintf(whole, sizeof(whole), "%s%s", prefix, name);
    return btf__find_by_name_kind(facts->btf, whole, kind) > 0;
}

static void judge_tracepoint(const struct probe_facts *facts, const char *name, struct probe *ret)
{
    /* DEFINE_EVENT and the like declare it for every tracepoint (include/trace/bpf_probe.h). */
    if (!has_type(facts, "btf_trace_", name, BTF_KIND_TYPEDEF))
        refuse(ret, "it takes another kernel", "this kernel has no tracepoint %.64s", name);
}

/** Attached nowhere, but run from user space. */
static void judge_run(const struct probe_facts *facts, const char *name, struct probe *ret)
{
    (void)name;
    if (!has_type(facts, "", "bpf_prog_test_run_raw_tp", BTF_KIND_FUNC))
        refuse(ret, "it takes Linux 5.10", "this kernel runs no programs on demand");
}

static void judge_function(const struct probe_facts *facts, const char *name, struct probe *ret)
{
    if (!has_type(facts, "", name, BTF_KIND_FUNC))
        refuse(ret, "it takes another kernel, or the module that has it",
               "the kernel itself has no function %.64s, or it was compiled into others", name);
}

static void judge_iterator(const struct probe_facts *facts, const char *name, struct probe *ret)
{
    if (!has_type(facts, "bpf_iter_", name, BTF_KIND_FUNC))
        refuse(ret, "it takes another kernel", "this kernel has no iterator over %.64s", name);
}

/** `name` is group/tracepoint. */
static void judge_classic(const struct probe_facts *facts, const char *name, struct probe *ret)
{
    static const char *const mounts[] = {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};
    const char *tracepoint = strchr(name, '/');

    for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
        char path[2 * NAME_MAX_LEN];
        int r;

        snprintf(path, sizeof(path), "%s/events", mounts[i]);
        r = tree_look(facts->tree, path);
        if (r == -ENOENT)
            continue;
        if (r == 0) {
            snprintf(path, sizeof(path), "%s/events/%.100s", mounts[i], name);
            r = tree_look(facts->tree, path);
        }
        if (r == -ENOENT)
            refuse(ret, "it takes another kernel", "this kernel has no tracepoint %.64s", name);
        else if (r < 0)
            /* Only root may look into tracefs: the types tell whether there is something to see. */
            judge_tracepoint(facts, tracepoint ? tracepoint + 1 : name, ret);
        return;
    }
    refuse(ret, MOUNT_TRACEFS, "tracefs is not mounted");
}

static void judge_kprobe(const struct probe_facts *facts, const char *name, struct probe *ret)
{
    if (!facts->symbols) {
        ret->state = PROBE_UNKNOWN;
        snprintf(ret->reason, sizeof(ret->reason), "/proc/kallsyms cannot be read: %s",
                 strerror(-facts->symbols_error));
    } else if (!probe_has_symbol(facts, name)) {
        refuse(ret, "it takes another kernel, or the module that has it",
               "this kernel has no function %.64s, or it was compiled into others", name);
    }
}

/** What every kernel with BPF has. */
static void judge_nothing(const struct probe_facts *facts, const char *name, struct probe *ret)
{
    (void)facts;
    (void)name;
    (void)ret;
}

static const struct {
    const char *prefix;
    void (*judge)(const struct probe_facts *facts, const char *name, struct probe *ret);
} judges[] = {
    {"tp_btf/", judge_tracepoint},
    {"raw_tp/", judge_tracepoint},
    {"raw_tracepoint/", judge_tracepoint},
    {"raw_tp", judge_run},
    {"tp/", judge_classic},
    {"tracepoint/", judge_classic},
    {"fentry/", judge_function},
    {"fexit/", judge_function},
    {"fmod_ret/", judge_function},
    {"kprobe/", judge_kprobe},
    {"kretprobe/", judge_kprobe},
    {"iter/", judge_iterator},
    {"perf_event", judge_nothing},
};

void probe_judge_section(const struct probe_facts *facts, const char *section, struct probe *ret)
{
    *ret = (struct probe){.state = PROBE_SHOULD, .advice = ""};
    section += *section == '?';
    if (!facts->btf) {
        if (facts->btf_error == -ENOENT) {
            refuse(ret, "it takes a kernel with CONFIG_DEBUG_INFO_BTF",
                   "the kernel has no BTF (" BTF_PATH "), to which the programs adapt themselves");
            return;
        }
        ret->state = PROBE_UNKNOWN;
        snprintf(ret->reason, sizeof(ret->reason), BTF_PATH " cannot be made use of: %s",
                 strerror(-facts->btf_error));
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(judges); i++) {
        if (begins(section, judges[i].prefix)) {
            judges[i].judge(facts, section + strlen(judges[i].prefix), ret);
            return;
        }
    }
    ret->state = PROBE_UNKNOWN;
    snprintf(ret->reason, sizeof(ret->reason), "only trying tells whether %.64s works", section);
}

void probe_judge(const struct probe_facts *facts, const struct event *event, unsigned hook,
                 unsigned way, struct probe *ret)
{
    LIBBPF_OPTS(bpf_object_open_opts, open, .object_name = event->name);
    const struct hook_way *w = &event->hooks[hook].ways[way];
    libbpf_print_fn_t before = libbpf_set_print(NULL);
    struct bpf_object *object;
    const void *bytes;
    size_t size;

    *ret = (struct probe){.state = PROBE_SHOULD, .advice = ""};
    bytes = event->object(&size);
    object = bpf_object__open_mem(bytes, size, &open);
    if (!object)
        refuse(ret, REPORT, "the BPF object cannot be read: %s", strerror(errno));
    if (w->check && facts->btf && w->check(facts->btf))
        refuse(ret, "nothing, if another way can be had", "%s", w->check(facts->btf));
    /* A way is as good as the worst of its programs. */
    for (const char *const *name = w->programs; object && *name && ret->state == PROBE_SHOULD;
         name++) {
        const struct bpf_program *program = bpf_object__find_program_by_name(object, *name);

        if (program)
            probe_judge_section(facts, bpf_program__section_name(program), ret);
        else
            refuse(ret, REPORT, "the BPF object has no program %s", *name);
    }
    bpf_object__close(object);
    libbpf_set_print(before);
}
