// SPDX-License-Identifier: Apache-2.0
#pragma once

/** Elasticsearch and OpenSearch, through the part of their interface that is the same. */

#include "targets/target.h"

enum elasticsearch_mode {
    ELASTICSEARCH_DAILY,      /* an index a day: PREFIX_2025-06-11, PREFIX_cases_2025-06-11 */
    ELASTICSEARCH_DATASTREAM, /* two data streams: PREFIX, PREFIX_cases */
};

struct elasticsearch_options {
    struct http_options http;
    char *index;     /* the prefix */
    uint64_t mode;   /* enum elasticsearch_mode */
    uint64_t retain; /* ns; for `huatuo elasticsearch setup` */
};

extern const struct target target_elasticsearch;
