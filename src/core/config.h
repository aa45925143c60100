// SPDX-License-Identifier: Apache-2.0
#pragma once

/**
 * The configuration: sections with values, filled from defaults, then a YAML file (two levels,
 * section and key), then `--set section.key=value`, in that order.
 */

#include "core/option.h"

struct config;

/** All sections with their defaults. `sections` must outlive the config. */
int config_new(const struct option_section *const *sections, size_t n_sections,
               struct config **ret);
struct config *config_free(struct config *config);
DEFINE_CLEANUP(struct config *, config_free)

/**
 * Reads a YAML file over what the config holds. Every problem in the file is collected, not just
 * the first (up to a hundred); on -EINVAL `*ret_errors` is a heap text, a line each, without a last
 * newline: `huatuo.yaml:12: dropwatch.protcols: unknown key; did you mean "protocols"?`. Duplicate
 * keys, unknown sections, wrong kinds of node and values out of range are errors; anchors, aliases,
 * tags and more than one document are refused. On error the config is unchanged. Other negative
 * errno: the file could not be read, and `*ret_errors` says so too (NULL only with -ENOMEM). An
 * empty file is fine. What config_section() returned stays valid and holds the new values.
 */
int config_read_file(struct config *config, const char *path, char **ret_errors);
/** `section.key=value`; errors as above, prefixed with `--set`; -ERANGE too. */
int config_set(struct config *config, const char *assignment, char **ret_errors);

/** The filled struct of a section, or NULL if there is none of that name. */
void *config_section(const struct config *config, const char *name);

/** The whole configuration as YAML that config_read_file() accepts; heap. */
char *config_text(const struct config *config);
/** docs/configuration.md out of the tables; heap. */
char *config_markdown(const struct option_section *const *sections, size_t n_sections);
