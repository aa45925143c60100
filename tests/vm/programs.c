// SPDX-License-Identifier: Apache-2.0
//
// Loads each BPF program of the objects that are named, by itself, and prints what the verifier of
// the running kernel says of it, a JSON object a line:
//   {"object", "program", "section", "instructions", "verified", "limit", "xlated_bytes",
//   "jited_bytes"}
// or, where the kernel has not what it hooks, {"object", "program", "section", "errno", "refused"}.
//
// The count is taken from the verifier's log (BPF_LOG_STATS, 5.2), as bpf_prog_info.verified_insns
// is there from 5.16 only.

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BPF_LOG_STATS 4

/* Statistics are a few lines; a refusal is the tail of a log of any length. */
static char verifier_log[1 << 20];

static int say_nothing(enum libbpf_print_level level, const char *format, va_list args)
{
    (void)level;
    (void)format;
    (void)args;
    return 0;
}

static void set(json_t *row, const char *key, json_int_t value)
{
    json_object_set_new(row, key, json_integer(value));
}

/** What the verifier and the JIT have made of a program that is loaded. */
static int measure(json_t *row, const struct bpf_program *program)
{
    const char *said = strstr(verifier_log, "processed "), *limit = strstr(verifier_log, "(limit ");
    struct bpf_prog_info info = {};
    __u32 size = sizeof(info);

    if (!said || !limit) /* processed 123 insns (limit 1000000) max_states_per_insn ... */
        return -ENODATA;
    if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) != 0)
        return -errno;
    set(row, "instructions", (json_int_t)bpf_program__insn_cnt(program));
    set(row, "verified", strtol(said + strlen("processed "), NULL, 10));
    set(row, "limit", strtol(limit + strlen("(limit "), NULL, 10));
    set(row, "xlated_bytes", info.xlated_prog_len);
    set(row, "jited_bytes", info.jited_prog_len);
    return 0;
}

static struct bpf_object *open_only(const char *path, const char *name)
{
    struct bpf_object *object = bpf_object__open_file(path, NULL);
    struct bpf_program *program;

    if (object)
        bpf_object__for_each_program(program, object)
            bpf_program__set_autoload(program, strcmp(bpf_program__name(program), name) == 0);
    return object;
}

static int print_program(const char *path, const char *object_name, const char *name)
{
    struct bpf_object *object = open_only(path, name);
    struct bpf_program *program;
    json_t *row;
    int r;

    if (!object)
        return -errno;
    program = bpf_object__find_program_by_name(object, name);
    row = json_pack("{ss ss ss}", "object", object_name, "program", name, "section",
                    bpf_program__section_name(program));
    verifier_log[0] = '\0';
    bpf_program__set_log_level(program, BPF_LOG_STATS);
    bpf_program__set_log_buf(program, verifier_log, sizeof(verifier_log));
    r = bpf_object__load(object);
    if (r == 0)
        r = measure(row, program);
    if (r < 0) {
        set(row, "errno", -r);
        json_object_set_new(row, "refused", json_string(strerror(-r)));
    }
    json_dumpf(row, stdout, 0);
    putchar('\n');
    json_decref(row);
    bpf_object__close(object);
    return 0;
}

static int print_object(const char *path)
{
    struct bpf_object *object = bpf_object__open_file(path, NULL);
    struct bpf_program *program;
    int r = object ? 0 : -errno;

    if (r == 0)
        bpf_object__for_each_program(program, object)
        {
            r = print_program(path, bpf_object__name(object), bpf_program__name(program));
            if (r < 0)
                break;
        }
    bpf_object__close(object);
    if (r < 0)
        fprintf(stderr, "%s: cannot be opened: %s\n", path, strerror(-r));
    return r;
}

int main(int argc, char **argv)
{
    int failed = 0;

    libbpf_set_print(say_nothing);
    for (int i = 1; i < argc; i++)
        failed |= print_object(argv[i]) < 0;
    return failed;
}
