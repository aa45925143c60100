// SPDX-License-Identifier: Apache-2.0
#pragma once

/** What a cluster should know before the first document comes: types of fields, when indices go. */

#include "targets/elasticsearch.h"

/** Goes up with each change of the template. */
#define ELASTICSEARCH_TEMPLATE_VERSION 2

enum elasticsearch_flavour { FLAVOUR_ELASTICSEARCH, FLAVOUR_OPENSEARCH };

/** Something to be put: the policy first, then the template. */
struct elasticsearch_object {
    const char *what; /* "index template" */
    char path[320];
    char *body; /* owned; JSON */
};
#define ELASTICSEARCH_OBJECTS 2

/** `with_policy`: the template names the policy, which must be there then. */
int elasticsearch_objects(const struct elasticsearch_options *options,
                          enum elasticsearch_flavour flavour, bool with_policy,
                          struct elasticsearch_object ret[ELASTICSEARCH_OBJECTS]);
void elasticsearch_objects_done(struct elasticsearch_object objects[ELASTICSEARCH_OBJECTS]);

/** "" or what the operator should do about the template, out of the answer to
 * elasticsearch_template_path(). */
void elasticsearch_check_template(const struct elasticsearch_options *options, long status,
                                  const char *answer, size_t len, char *ret, size_t size);
void elasticsearch_template_path(const struct elasticsearch_options *options, char *ret,
                                 size_t size);
