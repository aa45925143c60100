// SPDX-License-Identifier: Apache-2.0
#include "targets/elasticsearch_setup.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define NAME_LEN_MAX 256
#define FIELDS_MAX   2000 /* the numbers of /proc/meminfo and memory.stat are fields, too */
#define KEYWORD_MAX  8191 /* characters; a keyword has at most 32766 bytes */
#define TIME_FORMAT  "yyyy-MM-dd HH:mm:ss.SSS Z||strict_date_optional_time"

/**
 * Fields whose type cannot be seen from their first value; and those that deploy/dashboards.ndjson
 * groups by or adds up, which have to be known before there is any: Dashboards shows no chart of a
 * field that no index has. All others: numbers are `long`, truth values `boolean`, texts `keyword`.
 */
static const struct {
    const char *field, *type, *format;
} fields[] = {
    {"time", "date", TIME_FORMAT},
    {"tracer_time", "date", TIME_FORMAT},
    {"uploaded_time", "date_nanos", NULL},
    {"es_index_time", "date", "epoch_millis"},
    {"@timestamp", "date_nanos", NULL},
    {"summary", "text", NULL},
    {"process.cmdline", "text", NULL},
    {"tracer_data.saddr", "ip", NULL},
    {"tracer_data.daddr", "ip", NULL},
    {"tracer_data.stack", "text", NULL},
    {"tracer_data.cpus_stack", "text", NULL},
    {"tracer_data.blocked_processes_stack", "text", NULL},
    {"tracer_data.content", "text", NULL},
    {"tracer_data.message", "text", NULL},
    {"tracer_data.cause", "text", NULL},
    {"tracer_data.entry_time", "date", TIME_FORMAT},
    {"tracer_data.repeat.first_time", "date", TIME_FORMAT},
    {"tracer_data.repeat.last_time", "date", TIME_FORMAT},
    {"hostname", "keyword", NULL},
    {"tracer_name", "keyword", NULL},
    {"container_id", "keyword", NULL},
    {"tracer_data.event", "keyword", NULL},
    {"tracer_data.change", "keyword", NULL},
    {"tracer_data.reason", "keyword", NULL},
    {"tracer_data.place", "keyword", NULL},
    {"tracer_data.where", "keyword", NULL},
    {"tracer_data.most_in", "keyword", NULL},
    {"tracer_data.comm", "keyword", NULL},
    {"tracer_data.process_name", "keyword", NULL},
    {"tracer_data.victim_process_name", "keyword", NULL},
    {"tracer_data.limit_cgroup", "keyword", NULL},
    {"tracer_data.ifname", "keyword", NULL},
    {"tracer_data.linkstatus", "keyword", NULL},
    {"tracer_data.bond", "keyword", NULL},
    {"tracer_data.direction", "keyword", NULL},
    {"tracer_data.repeat.count", "long", NULL},
    {"tracer_data.lost", "long", NULL},
    {"tracer_data.offtime", "long", NULL},
    {"tracer_data.latency_ms", "long", NULL},
    {"tracer_data.duration_ms", "long", NULL},
    {"tracer_data.deltatime", "long", NULL},
    {"tracer_data.victim_rss_bytes", "long", NULL},
};

/** The object of that name in another; made if it is not there. */
static json_t *inside(json_t *object, const char *name, size_t len)
{
    char key[128];
    json_t *found;

    snprintf(key, sizeof(key), "%.*s", (int)len, name);
    found = json_object_get(object, key);
    if (!found) {
        found = json_object();
        json_object_set_new(object, key, found);
    }
    return found;
}

static void add_field(json_t *properties, const char *field, json_t *type)
{
    const char *dot;

    while ((dot = strchr(field, '.'))) {
        properties = inside(inside(properties, field, (size_t)(dot - field)), "properties", 10);
        field = dot + 1;
    }
    json_object_set_new(properties, field, type);
}

static json_t *mappings(const struct elasticsearch_options *o)
{
    json_t *properties = json_object();

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        json_t *type = json_pack("{s:s}", "type", fields[i].type);

        if (fields[i].format)
            json_object_set_new(type, "format", json_string(fields[i].format));
        if (strcmp(fields[i].type, "keyword") == 0)
            json_object_set_new(type, "ignore_above", json_integer(KEYWORD_MAX));
        if (*fields[i].field == '@' && o->mode != ELASTICSEARCH_DATASTREAM)
            json_decref(type);
        else
            add_field(properties, fields[i].field, type);
    }
    /* What looks like a date in some text is none. */
    return json_pack("{s:b, s:b, s:[{s:{s:s, s:s, s:{s:s}}}, {s:{s:s, s:{s:s, s:i}}}], s:o}",
                     "date_detection", 0, "numeric_detection", 0, "dynamic_templates", "stacks",
                     "match_mapping_type", "string", "match", "*stack*", "mapping", "type", "text",
                     "texts", "match_mapping_type", "string", "mapping", "type", "keyword",
                     "ignore_above", KEYWORD_MAX, "properties", properties);
}

static json_t *patterns(const struct elasticsearch_options *o)
{
    char one[NAME_LEN_MAX], cases[NAME_LEN_MAX];

    if (o->mode == ELASTICSEARCH_DATASTREAM) {
        snprintf(cases, sizeof(cases), "%s_cases", o->index);
        return json_pack("[s, s]", o->index, cases);
    }
    /* Not `huatuo_*`, which would be that of somebody's `huatuo_test` as well. */
    snprintf(one, sizeof(one), "%s_2*", o->index);
    snprintf(cases, sizeof(cases), "%s_cases_2*", o->index);
    return json_pack("[s, s]", one, cases);
}

static json_t *template(const struct elasticsearch_options *o, enum elasticsearch_flavour flavour,
                        bool with_policy)
{
    /* A value that does not fit its field costs that field, not the record. */
    json_t *settings = json_pack("{s:s, s:i, s:b, s:i}", "index.codec", "best_compression",
                                 "index.number_of_shards", 1, "index.mapping.ignore_malformed", 1,
                                 "index.mapping.total_fields.limit", FIELDS_MAX);
    json_t *whole;

    if (with_policy && flavour == FLAVOUR_ELASTICSEARCH)
        json_object_set_new(settings, "index.lifecycle.name", json_string(o->index));
    whole = json_pack("{s:o, s:i, s:i, s:{s:s}, s:{s:o, s:o}}", "index_patterns", patterns(o),
                      "priority", 200, "version", ELASTICSEARCH_TEMPLATE_VERSION, "_meta",
                      "description", "records of HUATUO, by `huatuo elasticsearch setup`",
                      "template", "settings", settings, "mappings", mappings(o));
    if (whole && o->mode == ELASTICSEARCH_DATASTREAM)
        json_object_set_new(whole, "data_stream", json_object());
    return whole;
}

/** Index lifecycle management. */
static json_t *lifecycle(const struct elasticsearch_options *o, const char *age)
{
    json_t *actions = json_object();

    /* Of data streams it is the index behind that gets full and old. */
    if (o->mode == ELASTICSEARCH_DATASTREAM)
        json_object_set_new(actions, "rollover",
                            json_pack("{s:s, s:s}", "max_age", "1d", "max_size", "25gb"));
    return json_pack("{s:{s:{s:{s:o}, s:{s:s, s:{s:{}}}}}}", "policy", "phases", "hot", "actions",
                     actions, "delete", "min_age", age, "actions", "delete");
}

/** Index state management. */
static json_t *state_management(const struct elasticsearch_options *o, const char *age)
{
    json_t *actions = json_array();

    if (o->mode == ELASTICSEARCH_DATASTREAM)
        json_array_append_new(actions, json_pack("{s:{s:s, s:s}}", "rollover", "min_index_age",
                                                 "1d", "min_size", "25gb"));
    return json_pack("{s:{s:s, s:s, s:[{s:s, s:o, s:[{s:s, s:{s:s}}]}, {s:s, s:[{s:{}}], s:[]}],"
                     " s:[{s:o, s:i}]}}",
                     "policy", "description", "records of HUATUO go after a time", "default_state",
                     "kept", "states", "name", "kept", "actions", actions, "transitions",
                     "state_name", "gone", "conditions", "min_index_age", age, "name", "gone",
                     "actions", "delete", "transitions", "ism_template", "index_patterns",
                     patterns(o), "priority", 100);
}

void elasticsearch_template_path(const struct elasticsearch_options *o, char *ret, size_t size)
{
    snprintf(ret, size, "/_index_template/%s", o->index);
}

int elasticsearch_objects(const struct elasticsearch_options *o, enum elasticsearch_flavour flavour,
                          bool with_policy, struct elasticsearch_object ret[ELASTICSEARCH_OBJECTS])
{
    const bool open = flavour == FLAVOUR_OPENSEARCH;
    _free_ char *age = format_duration(o->retain);
    json_t *bodies[ELASTICSEARCH_OBJECTS] = {};
    int r = 0;

    if (!age)
        return -ENOMEM;
    bodies[0] = open ? state_management(o, age) : lifecycle(o, age);
    bodies[1] = template(o, flavour, with_policy);
    ret[0] = (struct elasticsearch_object){.what = open ? "ISM policy" : "ILM policy"};
    ret[1] = (struct elasticsearch_object){.what = "index template"};
    snprintf(ret[0].path, sizeof(ret[0].path), "/%s/%s",
             open ? "_plugins/_ism/policies" : "_ilm/policy", o->index);
    elasticsearch_template_path(o, ret[1].path, sizeof(ret[1].path));
    for (size_t i = 0; i < ELASTICSEARCH_OBJECTS; i++) {
        ret[i].body = json_dumps(bodies[i], JSON_INDENT(2));
        json_decref(bodies[i]);
        if (!ret[i].body)
            r = -ENOMEM;
    }
    if (r < 0)
        elasticsearch_objects_done(ret);
    return r;
}

void elasticsearch_objects_done(struct elasticsearch_object objects[ELASTICSEARCH_OBJECTS])
{
    for (size_t i = 0; i < ELASTICSEARCH_OBJECTS; i++) {
        free(objects[i].body);
        objects[i].body = NULL;
    }
}

static json_int_t version_of(const char *answer, size_t len)
{
    /* {"index_templates": [{"name": …, "index_template": {"version": …}}]} */
    json_t *json = len ? json_loadb(answer, len, 0, NULL) : NULL;
    const json_t *first = json_array_get(json_object_get(json, "index_templates"), 0);
    const json_t *version = json_object_get(json_object_get(first, "index_template"), "version");
    json_int_t n = first ? json_integer_value(version) : ELASTICSEARCH_TEMPLATE_VERSION;

    json_decref(json);
    return n;
}

void elasticsearch_check_template(const struct elasticsearch_options *o, long status,
                                  const char *answer, size_t len, char *ret, size_t size)
{
    *ret = '\0';
    if (status == 404)
        snprintf(ret, size,
                 "there is no index template %s, so the server guesses what type a field is; run "
                 "`huatuo elasticsearch setup`",
                 o->index);
    else if (status == 200 && version_of(answer, len) < ELASTICSEARCH_TEMPLATE_VERSION)
        snprintf(ret, size,
                 "the index template %s is of an earlier version; run `huatuo elasticsearch setup`",
                 o->index);
}
