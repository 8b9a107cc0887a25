/* SPDX-License-Identifier: BSD-3-Clause */
/* Parameters: what a table takes, what becomes of it, and what is said of what it does not take. */
#include "rpc/table.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct rpc_param members[] = {
    TEXT("inner", "a text", REQUIRED),
    U8("depth", "a number", INIT("3")),
    END,
};

static const struct rpc_param params[] = {
    BOOL("flag", "a flag", INIT("true")),
    U8("u8", "a number"),
    U16("u16", "a number", LIMITS(2, 1024)),
    U32("u32", "a number"),
    U64("u64", "a number"),
    I32("i32", "a number", INIT("-1")),
    TEXT("text", "a text", LIMITS(1, 5)),
    TEXT("free", "a text"),
    UUID("uuid", "a UUID"),
    ENUM("enum", "one|two|three", "one of them"),
    FLAGS("flags", "a|bc", "some of them"),
    {.name = "texts", .type = RPC_STRINGS, .help = "texts"},
    OBJECT("object", members, "an object"),
    {.name = "map", .type = RPC_MAP, .help = "texts by names"},
    END,
};
static const struct rpc_param strict[] = {TEXT("name", "a text", REQUIRED), END};
static const struct rpc_param defaults[] = {OBJECT("object", members, "an object", INIT("{\"inner\": \"x\"}")), END};
static const struct rpc_param several[] = {OBJECTS("all", members, "some objects", LIMITS(1, 2)), END};

static const struct rpc_method method = {.name = "method", .help = "Does it.", .params = params};
static const struct rpc_method own_code = {.name = "own", .params = params, .bad = RPC_INVALID_PARAMS};
static const struct rpc_method needs = {.name = "needs", .params = strict};
static const struct rpc_method completes = {.name = "completes", .params = defaults};
static const struct rpc_method pairs = {.name = "pairs", .params = several};
static const struct rpc_method takes_none = {.name = "none"};

static json_t *checked(const struct rpc_method *m, const char *given, int *code, struct plx_error *err)
{
    json_t *g = json_loads(given, JSON_DECODE_ANY, NULL);
    assert_non_null(g);
    err->text[0] = 0;
    json_t *out = rpc_params_check(m, g, code, err);
    json_decref(g);
    return out;
}

/* What is taken, and member by member what it becomes. */
static void taken(const struct rpc_method *m, const char *given, const char *becomes)
{
    struct plx_error err;
    int code;
    json_t *got = checked(m, given, &code, &err), *want = json_loads(becomes, 0, NULL);
    if (!got)
        fail_msg("%s: %s", given, err.text);
    if (!json_equal(got, want)) {
        char *text = json_dumps(got, JSON_COMPACT);
        fail_msg("%s became %s, not %s", given, text, becomes);
    }
    json_decref(got);
    json_decref(want);
}

static void refused(const struct rpc_method *m, const char *given, int want, const char *word)
{
    struct plx_error err;
    int code = 0;
    json_t *got = checked(m, given, &code, &err);
    if (got || code != want || !strstr(err.text, word))
        fail_msg("%s: code %d for '%s', not %d with '%s'", given, code, err.text, want, word);
}

#define NOTHING "{\"flag\": true, \"i32\": -1}"
#define WITH(more) "{\"flag\": true, \"i32\": -1, " more "}"

static void what_fits_is_taken(void **state)
{
    static const char *const texts[] = {
        "\"u8\": 0",
        "\"u8\": 255",
        "\"u16\": 2",
        "\"u16\": 1024",
        "\"u32\": 4294967295",
        "\"u64\": 9223372036854775807",
        "\"text\": \"x\"",
        "\"text\": \"12345\"",
        "\"free\": \"\"",
        "\"uuid\": \"11111111-2222-3333-4444-555555555555\"",
        "\"enum\": \"one\"",
        "\"enum\": \"three\"",
        "\"flags\": []",
        "\"flags\": [\"bc\", \"a\"]",
        "\"texts\": [\"\", \"x\"]",
        "\"map\": {}",
        "\"map\": {\"any\": \"thing\", \"other\": \"\"}",
        "\"object\": {\"inner\": \"x\", \"depth\": 7}",
    };
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(texts); i++) {
        char given[120], becomes[160];
        snprintf(given, sizeof given, "{%s}", texts[i]);
        snprintf(becomes, sizeof becomes, "{\"flag\": true, \"i32\": -1, %s}", texts[i]);
        taken(&method, given, becomes);
    }
    taken(&method, "{\"flag\": false, \"i32\": -2147483648}", "{\"flag\": false, \"i32\": -2147483648}");
    taken(&method, "{\"i32\": 2147483647}", "{\"flag\": true, \"i32\": 2147483647}");
}

static void what_is_left_out_is_completed(void **state)
{
    struct plx_error err;
    int code;
    (void)state;
    taken(&method, "{}", NOTHING);
    taken(&method, "null", NOTHING);
    taken(&method, "{\"object\": {\"inner\": \"\"}}", WITH("\"object\": {\"inner\": \"\", \"depth\": 3}"));
    taken(&completes, "{}", "{\"object\": {\"inner\": \"x\", \"depth\": 3}}"); /* within what was completed, too */
    taken(&takes_none, "{}", "{}");
    json_t *got = rpc_params_check(&method, NULL, &code, &err);
    assert_int_equal(json_object_size(got), 2);
    json_decref(got);
}

static void whole_numbers_may_be_written_with_a_point(void **state)
{
    (void)state;
    taken(&method, "{\"u8\": 1e2}", WITH("\"u8\": 100"));
    taken(&method, "{\"u32\": 7.0}", WITH("\"u32\": 7"));
    taken(&method, "{\"i32\": -7.0}", "{\"flag\": true, \"i32\": -7}");
    refused(&method, "{\"u8\": 1.5}", RPC_INTERNAL, "u8 is 1.5");
    refused(&method, "{\"u8\": 256.0}", RPC_INTERNAL, "u8");
    refused(&method, "{\"u64\": 1e300}", RPC_INTERNAL, "u64");
    refused(&method, "{\"u64\": -1e300}", RPC_INTERNAL, "u64");
}

static void another_type_is_refused_by_the_code_that_clients_know(void **state)
{
    static const char *const names[] = {"flag", "u8",   "u64",   "i32",   "text",  "uuid",
                                        "enum", "free", "flags", "texts", "object"};
    static const char *const values[] = {"null", "[1]", "\"four\"", "{\"x\": 1}", "-1.5", "[null]", "[[]]"};
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++)
        for (size_t k = 0; k < PLX_ARRAY_SIZE(values); k++) {
            char given[80];
            bool fits = (!strcmp(names[i], "text") || !strcmp(names[i], "free")) && values[k][0] == '"';
            snprintf(given, sizeof given, "{\"%s\": %s}", names[i], values[k]);
            if (!fits)
                refused(&method, given, RPC_INTERNAL, strcmp(names[i], "object") ? names[i] : "object");
        }
    refused(&method, "{\"flag\": 1}", RPC_INTERNAL, "flag is 1, and takes true or false");
    refused(&method, "{\"u8\": 256}", RPC_INTERNAL, "u8 is 256, and takes a number from 0 to 255");
    refused(&method, "{\"u8\": -1}", RPC_INTERNAL, "u8 is -1");
    refused(&method, "{\"i32\": 2147483648}", RPC_INTERNAL, "i32");
    refused(&method, "{\"i32\": -2147483649}", RPC_INTERNAL, "i32");
    refused(&method, "{\"enum\": \"on\"}", RPC_INTERNAL, "one of one|two|three");
    refused(&method, "{\"enum\": \"one|two\"}", RPC_INTERNAL, "enum");
    refused(&method, "{\"enum\": \"\"}", RPC_INTERNAL, "enum");
    refused(&method, "{\"flags\": [\"a\", \"b\"]}", RPC_INTERNAL, "flags");
    refused(&method, "{\"uuid\": \"11111111-2222-3333-4444-55555555555g\"}", RPC_INTERNAL, "a UUID");
}

static void what_is_beyond_a_limit_has_the_code_of_the_method(void **state)
{
    static const char *const texts[] = {"{\"u16\": 1}", "{\"u16\": 1025}", "{\"text\": \"\"}",
                                        "{\"text\": \"123456\"}"};
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(texts); i++) {
        refused(&method, texts[i], -EINVAL, " and takes ");
        refused(&own_code, texts[i], RPC_INVALID_PARAMS, " and takes ");
    }
    refused(&own_code, "{\"u16\": 65536}", RPC_INTERNAL, "from 2 to 1024");
}

static void arrays_of_objects_are_checked_one_by_one(void **state)
{
    (void)state;
    taken(&pairs, "{\"all\": [{\"inner\": \"x\"}, {\"inner\": \"y\", \"depth\": 4}]}",
          "{\"all\": [{\"inner\": \"x\", \"depth\": 3}, {\"inner\": \"y\", \"depth\": 4}]}");
    refused(&pairs, "{\"all\": []}", RPC_INTERNAL, "an array of 1 to 2 objects");
    refused(&pairs, "{\"all\": [{\"inner\": \"\"}, {\"inner\": \"\"}, {\"inner\": \"\"}]}", RPC_INTERNAL,
            "1 to 2 objects");
    refused(&pairs, "{\"all\": {\"inner\": \"x\"}}", RPC_INTERNAL, "an array of 1 to 2 objects");
    refused(&pairs, "{\"all\": [1]}", RPC_INTERNAL, "all is 1");
    refused(&pairs, "{\"all\": [{\"inner\": \"x\"}, {\"depth\": 4}]}", RPC_INTERNAL, "inner is missing: all takes it");
}

static void names_are_told(void **state)
{
    (void)state;
    refused(&needs, "{}", RPC_INTERNAL, "name is missing: needs takes it as a text");
    refused(&needs, "{\"name\": \"x\", \"nam\": 1}", RPC_INTERNAL, "needs has no parameter nam; there are name");
    refused(&takes_none, "{\"x\": 1}", RPC_INTERNAL, "none has no parameter x; it has none");
    refused(&method, "{\"object\": {}}", RPC_INTERNAL, "inner is missing: object takes it");
    refused(&method, "{\"object\": {\"inner\": \"\", \"outer\": 1}}", RPC_INTERNAL,
            "object has no parameter outer; there are inner and depth");
    refused(&method, "[1]", RPC_INTERNAL, "by name");
    refused(&method, "5", RPC_INTERNAL, "by name");
}

/* Longer than any message: nothing is written past its end. */
static void long_names_and_values_are_cut_off(void **state)
{
    char given[2200] = "{\"", *at = given + 2;
    (void)state;
    memset(at, 'n', 1000);
    snprintf(at + 1000, 20, "\": 1}");
    refused(&method, given, RPC_INTERNAL, "nnnnn; there are flag, u8");
    snprintf(given, sizeof given, "{\"enum\": \"");
    at = given + strlen(given);
    memset(at, 'v', 2000);
    snprintf(at + 2000, 20, "\"}");
    refused(&method, given, RPC_INTERNAL, "vvv..., and takes one of");
}

/* A table that the describing method shows is the one that is checked by. */
static void tables_are_described(void **state)
{
    (void)state;
    json_t *d = rpc_describe_method(&method), *list = json_object_get(d, "params");
    assert_int_equal(json_array_size(list), PLX_ARRAY_SIZE(params) - 1);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *p = json_array_get(list, i);
        assert_string_equal(rpc_str_in(p, "name"), params[i].name);
        assert_string_equal(rpc_str_in(p, "help"), params[i].help);
        assert_true(rpc_str_in(p, "takes")[0]);
        assert_true(!json_object_get(p, "default") == !params[i].init);
        assert_true(!json_object_get(p, "values") == !params[i].values);
        assert_true(!json_object_get(p, "members") == !params[i].members);
    }
    assert_string_equal(rpc_str_in(json_array_get(list, 2), "takes"), "a number from 2 to 1024");
    json_decref(d);
}

struct tables {
    unsigned n;
    const char *names[1000];
};

static void check_param(const char *where, const struct rpc_param *p)
{
    if (!p->help || !p->help[0])
        fail_msg("%s: %s has no help", where, p->name);
    assert_true((p->type == RPC_ENUM || p->type == RPC_FLAGS) == (p->values != NULL));
    assert_true((p->type == RPC_OBJECT || p->type == RPC_OBJECTS) == (p->members != NULL));
    assert_true(p->type != RPC_OBJECTS || p->max);
    assert_true(p->max == 0 || p->min <= p->max);
    assert_false(p->required && p->init);
    json_t *init = p->init ? json_loads(p->init, JSON_DECODE_ANY, NULL) : NULL;
    if (p->init && !init)
        fail_msg("%s: the default of %s is no JSON: %s", where, p->name, p->init);
    if (init) { /* the table takes its own default */
        const struct rpc_param one[] = {*p, END};
        const struct rpc_method m = {.name = where, .params = one};
        json_t *given = json_pack("{s:o}", p->name, init), *out;
        struct plx_error err;
        int code;
        out = rpc_params_check(&m, given, &code, &err);
        if (!out)
            fail_msg("%s: %s", where, err.text);
        json_decref(out);
        json_decref(given);
    }
    for (const struct rpc_param *in = p->members; in && in->name; in++)
        check_param(p->name, in);
}

static void check_method(void *arg, const struct rpc_method *m)
{
    struct tables *t = arg;
    t->names[t->n++] = m->name;
    if (m->alias)
        t->names[t->n++] = m->alias;
    assert_ptr_equal(rpc_method_find(m->name), m);
    assert_true(m->help && m->help[strlen(m->help) - 1] == '.');
    assert_true(m->kind == RPC_OPTIONS || m->run);
    assert_true(m->kind != RPC_OPTIONS || m->group);
    assert_true(m->startup || !m->startup_only);
    for (const struct rpc_param *p = m->params; p && p->name; p++) {
        check_param(m->name, p);
        for (const struct rpc_param *q = m->params; q != p; q++)
            assert_string_not_equal(q->name, p->name);
    }
}

static void tables_of_all_methods_are_sound(void **state)
{
    struct tables t = {0};
    (void)state;
    rpc_methods_each(check_method, &t);
    assert_true(t.n > 60);
    for (unsigned i = 0; i < t.n; i++)
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(t.names[i], t.names[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_fits_is_taken),
        cmocka_unit_test(what_is_left_out_is_completed),
        cmocka_unit_test(whole_numbers_may_be_written_with_a_point),
        cmocka_unit_test(another_type_is_refused_by_the_code_that_clients_know),
        cmocka_unit_test(what_is_beyond_a_limit_has_the_code_of_the_method),
        cmocka_unit_test(arrays_of_objects_are_checked_one_by_one),
        cmocka_unit_test(names_are_told),
        cmocka_unit_test(long_names_and_values_are_cut_off),
        cmocka_unit_test(tables_are_described),
        cmocka_unit_test(tables_of_all_methods_are_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
