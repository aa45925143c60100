// SPDX-License-Identifier: Apache-2.0

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/cli.h"
#include "cli/configure.h"
#include "core/text.h"
#include "targets/elasticsearch_setup.h"

static _printf_(1, 2) int fail(const char *format, ...)
{
    _cleanup_(text_done) struct text shown = {};
    char line[2048];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    text_add_printable(&shown, line, sizeof(line));
    fprintf(stderr, "huatuo elasticsearch: %s\n", shown.data ? shown.data : "out of memory");
    return CLI_FAILED;
}

/* ---- what is to be put, as text */

static int print_objects(const struct elasticsearch_options *options,
                         enum elasticsearch_flavour flavour)
{
    struct elasticsearch_object objects[ELASTICSEARCH_OBJECTS];

    if (elasticsearch_objects(options, flavour, true, objects) < 0)
        return fail("out of memory");
    for (size_t i = 0; i < ELASTICSEARCH_OBJECTS; i++)
        printf("%sPUT %s\n%s\n", i ? "\n" : "", objects[i].path, objects[i].body);
    elasticsearch_objects_done(objects);
    return fflush(stdout) == 0 ? CLI_OK
                               : fail("writing to standard output failed: %s", strerror(errno));
}

/* ---- and to the server */

/** The status, or -EIO with what failed said. `answer` is to be done with. */
static long ask(struct http *h, const char *method, const char *path, const char *body,
                struct http_answer *answer)
{
    const struct http_request request = {
        .method = method,
        .path = path,
        .content_type = body ? "application/json" : NULL,
        .body = body,
        .len = body ? strlen(body) : 0,
    };

    if (http_do(h, &request, answer) < 0) {
        fail("%s does not answer: %s", http_url(h), answer->error);
        return -EIO;
    }
    return answer->status;
}

/** The first server of several that answers. */
static int find_flavour(struct http *h, enum elasticsearch_flavour *ret)
{
    struct http_answer answer;
    const char *distribution;
    json_t *json;
    long status;

    do {
        status = ask(h, "GET", "/", NULL, &answer);
        if (status > 0)
            break;
        http_answer_done(&answer);
    } while (!http_next(h));
    if (status < 0)
        return CLI_FAILED;
    json = answer.body.len ? json_loadb(answer.body.data, answer.body.len, 0, NULL) : NULL;
    http_answer_done(&answer);
    distribution =
        json_string_value(json_object_get(json_object_get(json, "version"), "distribution"));
    *ret = distribution && strcmp(distribution, "opensearch") == 0 ? FLAVOUR_OPENSEARCH
                                                                   : FLAVOUR_ELASTICSEARCH;
    json_decref(json);
    if (status != 200)
        return fail(
            "%s answers with status %ld; are user and password right, is it the right server?",
            http_url(h), status);
    return CLI_OK;
}

/** An ISM policy that exists is only replaced by whoever says which version of it he means. */
static void add_version(struct http *h, struct elasticsearch_object *object)
{
    struct http_answer answer;
    size_t len = strlen(object->path);
    json_t *json = NULL;

    if (ask(h, "GET", object->path, NULL, &answer) == 200 && answer.body.len)
        json = json_loadb(answer.body.data, answer.body.len, 0, NULL);
    http_answer_done(&answer);
    if (json_is_integer(json_object_get(json, "_seq_no")))
        snprintf(object->path + len, sizeof(object->path) - len,
                 "?if_seq_no=%lld&if_primary_term=%lld",
                 (long long)json_integer_value(json_object_get(json, "_seq_no")),
                 (long long)json_integer_value(json_object_get(json, "_primary_term")));
    json_decref(json);
}

static bool put(struct http *h, const struct elasticsearch_object *object)
{
    struct http_answer answer;
    char why[256] = "";
    long status = ask(h, "PUT", object->path, object->body, &answer);

    if (status >= 200 && status < 300) {
        printf("%s %.*s is installed at %s\n", object->what, (int)strcspn(object->path, "?"),
               object->path, http_url(h));
    } else if (status > 0) {
        target_elasticsearch.explain(answer.body.len ? answer.body.data : "", answer.body.len, why,
                                     sizeof(why));
        fail("installing the %s %.*s failed with status %ld%s%s", object->what,
             (int)strcspn(object->path, "?"), object->path, status, *why ? ": " : "", why);
    }
    http_answer_done(&answer);
    return status >= 200 && status < 300;
}

static int install(struct http *h, const struct elasticsearch_options *options)
{
    struct elasticsearch_object objects[ELASTICSEARCH_OBJECTS];
    enum elasticsearch_flavour flavour;
    bool policy, template;
    int status = find_flavour(h, &flavour);

    if (status != CLI_OK)
        return status;
    if (elasticsearch_objects(options, flavour, true, objects) < 0)
        return fail("out of memory");
    if (flavour == FLAVOUR_OPENSEARCH)
        add_version(h, &objects[0]);
    policy = put(h, &objects[0]);
    if (!policy) { /* types of fields are worth having without it */
        elasticsearch_objects_done(objects);
        if (elasticsearch_objects(options, flavour, false, objects) < 0)
            return fail("out of memory");
    }
    template = put(h, &objects[1]);
    elasticsearch_objects_done(objects);
    return policy && template ? CLI_OK : CLI_FAILED;
}

static int run_setup(int argc, char **argv)
{
    _free_ const char **sets = calloc((size_t)argc + 1, sizeof(*sets));
    _cleanup_(config_freep) struct config *config = NULL;
    _cleanup_(http_freep) struct http *h = NULL;
    const char *path = NULL, *print = NULL;
    const struct argument table[] = {
        {"--config", .value = &path},
        {"--set", .values = sets},
        {"--print", .value = &print},
        {},
    };
    const struct elasticsearch_options *options;
    char error[256] = "out of memory";
    int status;

    if (!sets)
        return fail("out of memory");
    status = arguments_parse(&cli_elasticsearch, table, argc, argv);
    if (status != CLI_OK)
        return status;
    if (print && strcmp(print, "elasticsearch") != 0 && strcmp(print, "opensearch") != 0)
        return cli_usage(&cli_elasticsearch, "--print takes elasticsearch or opensearch");
    status = cli_configure(path, sets, &config);
    if (status != CLI_OK)
        return status;
    options = config_section(config, "elasticsearch");
    if (print)
        return print_objects(options, *print == 'o' ? FLAVOUR_OPENSEARCH : FLAVOUR_ELASTICSEARCH);
    if (!options->http.url.n)
        return fail(
            "elasticsearch.url is not set; write it into the configuration, or give it with "
            "--set elasticsearch.url=https://host:9200");
    if (http_new("elasticsearch", &options->http, NULL, error, sizeof(error), &h) < 0)
        return fail("%s", error);
    return install(h, options);
}

static int run(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "setup") == 0)
        return run_setup(argc - 1, argv + 1);
    return cli_usage(&cli_elasticsearch, "say what to do: setup");
}

const struct cli_command cli_elasticsearch = {
    .name = "elasticsearch",
    .arguments =
        "setup [--config FILE] [--set SECTION.KEY=VALUE]... [--print elasticsearch|opensearch]",
    .summary = "Tell Elasticsearch or OpenSearch what records are, before they are uploaded.",
    .help =
        "  setup            install the index template (types of fields), and the policy by which\n"
        "                   indices are deleted after elasticsearch.retain\n"
        "    --config FILE  configuration (default: " CLI_DEFAULT_CONFIG ", if it is there)\n"
        "    --set S.K=V    set a configuration key: another user, say, who may do that\n"
        "    --print WHAT   only print what would be sent, for Elasticsearch or OpenSearch\n"
        "\n"
        "Once for a cluster, and again after an update. Indices that exist stay as they are.\n",
    .run = run,
};
